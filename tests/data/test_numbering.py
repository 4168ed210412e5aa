"""Numbers without a file."""

import pytest

from involution.data.findings import Findings
from involution.data.numbering import tell_holes


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["a-0.tar", "a-1.tar", "a-2.tar"], None),
        (["a-8.tar", "a-9.tar", "a-10.tar", "a-12.tar"], "1 (a-11.tar)"),
        (["train-00.tar", "val-02.tar"], None),
        (["x/a-0.tar", "y/a-2.tar"], None),
        # the first and the last are known by their names
        (["a-00001-of-00003.tar"], "2 (a-00000-of-00003.tar, a-00002-of-00003.tar)"),
        (["a-00001-of-00003.tar", "a-00003-of-00003.tar"], "1 (a-00002-of-00003.tar)"),
        (["a-0-of-2.tar", "a-1-of-2.tar", "b-1-of-2.tar"], "1 (b-0-of-2.tar)"),
        # no numbering
        (["20200101.tar", "20240607.tar"], None),
        (["12.tar", "99999999999999999999.tar", "photos.tar"], None),
        (["a-0-of-99999999999999.tar"], None),
    ],
)
def test_missing_numbers(names, missing):
    findings = Findings()
    tell_holes(names, findings)
    assert findings.notes == ([f".: numbered files that are missing: {missing}"] if missing else [])

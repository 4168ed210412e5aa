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
        (["log-20240101.tar", "log-20240103.tar"], None),
        (["log-2024-01-30.tar", "log-2024-02-01.tar", "log-2024-02-03.tar"], None),
        (["a_2024_01.tar", "a_2024_03.tar"], None),
        (["240101.tar", "240103.tar"], None),
        (["202311.tar", "202401.tar"], None),
        (["log-2021.tar", "log-2023.tar"], None),
        # these are no dates
        (["a-20240132.tar", "a-20240134.tar"], "1 (a-20240133.tar)"),
        (["a-2024-00.tar", "a-2024-02.tar"], "1 (a-2024-01.tar)"),
        (["a-000012.tar", "a-000014.tar"], "1 (a-000013.tar)"),
        (["12.tar", "99999999999999999999.tar", "photos.tar"], None),
        (["a-0-of-99999999999999.tar"], None),
    ],
)
def test_missing_numbers(names, missing):
    findings = Findings()
    tell_holes(names, findings)
    assert findings.notes == ([f".: numbered files that are missing: {missing}"] if missing else [])

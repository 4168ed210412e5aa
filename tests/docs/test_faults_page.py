"""Each line of the page about faults comes from a test that there is."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES = re.findall(r"`(tests/\S+)::(\w+)` \|$", (ROOT / "docs" / "guides" / "faults.md").read_text(), re.M)


def test_each_line_has_its_test():
    text = (ROOT / "docs" / "guides" / "faults.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| when")]
    assert len(LINES) == len(rows) > 25


@pytest.mark.parametrize(("file", "name"), LINES)
def test_the_test_is_there(file, name):
    assert f"def {name}(" in (ROOT / file).read_text()

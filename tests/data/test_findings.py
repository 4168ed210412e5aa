import pytest

from involution.data.errors import DataError
from involution.data.findings import Findings, listed


def test_everything_is_said_once_with_counts_and_first_names():
    findings = Findings(used={"train": 3})
    assert findings.lines() == []
    for _ in range(2):
        findings.note("training/ taken as train")
    findings.ignore("no image", "a.txt", "b\x1b.txt")
    findings.ignore("no image", "c.txt", "d.txt")
    findings.problem("train/7.jpg", "broken image")
    assert findings.lines() == [
        "training/ taken as train",
        r"not used, no image: 4 (a.txt, b\x1b.txt, c.txt, …)",
        "left out, 1 problem: train/7.jpg: broken image",
    ]
    assert findings.to_dict()["ignored"] == {"no image": ["a.txt", "b\x1b.txt", "c.txt", "d.txt"]}
    assert findings.to_dict()["problems"] == [{"entry": "train/7.jpg", "reason": "broken image"}]


def test_problems_are_refused_or_skipped():
    findings = Findings()
    findings.settle("here", "refuse")
    findings.problem("image 7", "gone")
    findings.settle("here", "skip")
    with pytest.raises(DataError, match=r"here: 1 problem: image 7: gone\. Fix them, or skip them"):
        findings.settle("here", "refuse")


def test_of_many_names_the_first_are_listed_with_the_number_of_others():
    assert listed(["a", "b"]) == "a, b"
    assert listed(list("abcdefg")) == "a, b, c, d, e and 2 more"

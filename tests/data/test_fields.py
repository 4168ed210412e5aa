"""Fields of other people's files that are not read."""

from collections import Counter

from involution.data.fields import tell_unread, unread
from involution.data.findings import Findings


def test_fields_that_say_something_are_counted():
    item = {"id": 1, "weather": "rain", "empty": None, "occluded": False, "pose": "Unspecified", "extra": {"by": "me"}}
    assert unread(item, ["id"]) == {"weather": 1, "extra.by": 1}
    assert unread(item, ["id", "weather", "extra.by"]) == {}
    assert unread(item, ["id", "weather", "extra"]) == {}
    assert unread(["no", "object"], []) == {}


def test_the_most_frequent_are_told():
    findings = Findings()
    tell_unread(Counter({letter: number for number, letter in enumerate("abcdefg", 1)}), "fields", "train", findings)
    tell_unread(Counter(), "fields", "val", findings)
    assert findings.notes == ["train: fields that are not read: g (7), f (6), e (5), d (4), c (3), 2 further kinds"]

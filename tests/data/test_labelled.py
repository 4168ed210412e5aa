"""Names meet classes by name or number, never by an alphabetical place."""

import json

import pytest
from generated import image_folder

from involution.data.errors import DataError
from involution.data.findings import Findings
from involution.data.labelled import name_classes, tell_alike
from involution.data.registry import Options, open_data

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"]


def lines(path, names):
    path.write_text("\n".join(names) + "\n")
    return path


def test_folders_of_numbers_are_named_by_number(tmp_path):
    image_folder(tmp_path / "data", classes=[str(i) for i in range(12)], per_class=1)
    file = lines(tmp_path / "names.txt", NUMBERS)
    data = open_data("classify", f"imagefolder:{tmp_path / 'data'}", Options(classes=str(file)))
    # the folders are in alphabetical order: 0, 1, 10, 11, 2, ...
    assert data.classes == ["zero", "one", "ten", "eleven", *NUMBERS[2:10]]
    label = data.classes.index("two")
    part = data.train
    assert [file.parent.name for file, number in zip(part.files, part.labels, strict=True) if number == label] == ["2"]


def test_numbers_from_one(tmp_path):
    assert name_classes(["1", "2", "10", *"3456789"], lines(tmp_path / "n", NUMBERS[:10]), "x")[2] == "nine"


def test_the_same_names_in_any_order_name_each_its_own(tmp_path):
    assert name_classes(["ant", "bee", "cat"], lines(tmp_path / "n", ["cat", "ant", "bee"]), "x") == [
        "ant",
        "bee",
        "cat",
    ]


def test_other_names_are_refused_unless_the_order_is_known(tmp_path):
    file = lines(tmp_path / "n", ["mouse", "rat"])
    with pytest.raises(DataError, match="does not name the classes of x: a, b is not in it"):
        name_classes(["a", "b"], file, "x")
    findings = Findings()
    assert name_classes(["n01", "n02"], file, "imagenet:x", by_place=True, findings=findings) == ["mouse", "rat"]
    assert findings.notes == ["n names the folders in their order: 2 (n01 is mouse, n02 is rat)"]
    with pytest.raises(DataError, match="names 2 classes, but x has 3"):
        name_classes(["3", "7", "9"], file, "x")
    with pytest.raises(DataError, match="does not name the classes"):
        name_classes(["3", "7"], file, "x")


def test_a_json_object_names_each_class_by_its_own_name(tmp_path):
    file = tmp_path / "names.json"
    file.write_text(json.dumps({"b": "rat", "a": " mouse "}))
    assert name_classes(["a", "b"], file, "x") == ["mouse", "rat"]
    file.write_text(json.dumps({"b": "rat", "a": "mouse", "c": "bird"}))
    findings = Findings()
    assert name_classes(["a", "b"], file, "x", findings=findings) == ["mouse", "rat"]
    assert findings.notes == ["names.json also names classes that there are none of: 1 (c)"]
    for content, message in (
        ({"a": "mouse"}, "does not name the class 'b' of x; wanted a text, got None"),
        ({"a": "mouse", "b": 3}, "wanted a text, got 3"),
        ({"a": "mouse", "b": "mouse"}, "two classes of x one name"),
    ):
        file.write_text(json.dumps(content))
        with pytest.raises(DataError, match=message):
            name_classes(["a", "b"], file, "x")


def test_digits_may_be_renamed(tmp_path):
    file = lines(tmp_path / "names.txt", NUMBERS[:10])
    assert open_data("classify", "digits", Options(classes=str(file))).classes[3] == "three"
    lines(file, NUMBERS[:2])
    with pytest.raises(DataError, match="names 2 classes, but digits has 10"):
        open_data("classify", "digits", Options(classes=str(file)))


def test_classes_that_differ_in_case_or_spaces_alone_are_told(tmp_path):
    image_folder(tmp_path, splits=("train", "val"), classes=("Cat ", "cat", "dog"))
    notes = open_data("classify", f"imagefolder:{tmp_path}").findings.notes
    assert notes == ["classes whose names differ in case, spaces, marks or look-alike letters alone: 'Cat ', 'cat'"]
    findings = Findings()
    tell_alike(["fish", "cat", "\ufb01sh", "c\u200bat", "dog"], findings)
    assert findings.notes == [
        "classes whose names differ in case, spaces, marks or look-alike letters alone: 'fish', '\ufb01sh'",
        "classes whose names differ in case, spaces, marks or look-alike letters alone: 'cat', 'c\\u200bat'",
    ]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["ant", "ant."], "'ant', 'ant.'"),
        (["traffic light", "traffic_light", "Traffic-Light"], "'traffic light', 'traffic_light', 'Traffic-Light'"),
        # of Cyrillic letters alone
        (["coco", "\u0441\u043e\u0441\u043e"], "'coco', '\u0441\u043e\u0441\u043e'"),
        (["c", "c#", "c++", "1-2", "12", "a/b", "ab", "-1", "1.5", "15"], None),
    ],
)
def test_names_that_look_the_same_are_told(names, told):
    findings = Findings()
    tell_alike(["dog", *names], findings)
    said = f"classes whose names differ in case, spaces, marks or look-alike letters alone: {told}"
    assert findings.notes == ([said] if told else [])


def test_words_of_several_alphabets_are_told_once():
    findings = Findings()
    tell_alike(["dog", "\u0441at", "b\u0435ar", "\u043a\u043e\u0442 cat", "\u03b2-carotene"], findings)
    assert findings.notes == [
        "class names with letters of several alphabets in a word, which may be a slip: 2 ('\u0441at', 'b\u0435ar')"
    ]

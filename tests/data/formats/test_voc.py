"""Pascal VOC's XML files in the layouts that tools write, and how broken ones are told."""

import PIL.Image
import pytest
import torch

from involution.data.coco_boxes import TAKEN
from involution.data.errors import DataError
from involution.data.registry import Options, open_data


def page(name, objects, size=(40, 20)):
    items = "".join(
        f"<object><name>{label}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for label, (x1, y1, x2, y2), difficult in objects
    )
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><filename>{name}</filename>{sides}{items}</annotation>"


OBJECTS = [("dog", (1, 1, 10, 5), 0), ("cat", (11, 6, 40, 20), 0)]


def fill(images, pages, numbers, objects=OBJECTS):
    for folder in (images, pages):
        folder.mkdir(parents=True, exist_ok=True)
    for i in numbers:
        PIL.Image.new("RGB", (40, 20)).save(images / f"{i:06}.png")
        (pages / f"{i:06}.xml").write_text(page(f"{i:06}.png", objects))


@pytest.fixture
def root(tmp_path):
    fill(tmp_path / "JPEGImages", tmp_path / "Annotations", range(1, 6))
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("000001\n000002\n000003\n")
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("000004  1\n000005 -1\n")
    return tmp_path


def open_root(root, **options):
    return open_data("detect", f"voc:{root}", Options(**options))


def test_pascal_counts_pixels_from_one(root):
    data = open_root(root)
    assert (data.classes, data.category_ids) == (["cat", "dog"], [1, 2])
    assert data.findings.used == {"train": 3, "val": 2}
    _, target = data.train[0]
    assert target["boxes"].tolist() == [[0, 0, 10, 5], [10, 5, 40, 20]]
    assert target["labels"].tolist() == [1, 0]
    assert data.findings.notes == [
        "classes as the XML files name them: cat, dog",
        "boxes read as counted from 1, the last pixel included",
    ]
    assert open_data("detect", str(root)).classes == ["cat", "dog"]


def test_a_folder_without_xml_files_is_not_taken(tmp_path):
    fill(tmp_path / "training", tmp_path / "Annotations", range(1, 9))
    (tmp_path / "training").rename(tmp_path / "JPEGImages")
    (tmp_path / "training").mkdir()
    data = open_root(tmp_path)
    assert sum(data.findings.used.values()) == 8
    assert not any("taken training/" in note for note in data.findings.notes)
    fill(tmp_path / "training", tmp_path / "training", range(1, 9))
    assert any("taken training/ as train" in note for note in open_root(tmp_path).findings.notes)


def test_others_count_from_zero(root):
    file = root / "Annotations" / "000001.xml"
    file.write_text(page("000001.png", [("dog", (0, 0, 10.5, 5), 0)]))
    data = open_root(root)
    assert data.train[0][1]["boxes"].tolist() == [[0, 0, 10.5, 5]]
    assert data.train[1][1]["boxes"].tolist() == [[1, 1, 10, 5], [11, 6, 40, 20]]
    assert "boxes read as counted from 0" in data.findings.notes


def test_difficult_objects_do_not_count(root):
    (root / "Annotations" / "000001.xml").write_text(page("000001.png", [*OBJECTS, ("cat", (1, 1, 5, 5), 1)]))
    data = open_root(root)
    assert len(data.train[0][1]["labels"]) == 2
    assert [item["iscrowd"] for item in data.train.record.to_coco()["annotations"][:3]] == [0, 0, 1]
    assert data.findings.ignored == {
        "crowds and difficult objects, not trained on and not counted as misses": ["train 000001.png"]
    }


def test_as_roboflow_exports_it(tmp_path):
    for split, numbers in (("train", (1, 2)), ("valid", (3,))):
        fill(tmp_path / split, tmp_path / split, numbers)
    assert open_root(tmp_path).findings.used == {"train": 2, "val": 1}


def test_as_labelimg_writes_it(tmp_path):
    fill(tmp_path, tmp_path, range(10))
    # its path was another machine's, its size unknown, its image renamed
    (tmp_path / "000001.xml").write_text(page("C:\\\\photos\\\\cat.jpg", OBJECTS, size=None), encoding="utf-8-sig")
    (tmp_path / "classes.txt").write_text("dog\ncat\nhorse\n")
    data = open_root(tmp_path, split_by="draw")
    assert data.classes == ["dog", "cat", "horse"]
    assert data.findings.used == {"train": 8, "val": 2}
    assert "train: no objects of horse" in data.findings.notes
    # an evaluation accepts it, but its mean is over the others
    assert "val: no objects of horse" in open_root(tmp_path, only="val", allow_empty=True).findings.notes


def test_what_no_list_names_is_told(root):
    fill(root / "JPEGImages", root / "Annotations", (6,))
    PIL.Image.new("RGB", (40, 20)).save(root / "JPEGImages" / "000007.png")
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("000001\n")
    assert open_root(root).findings.ignored == {
        "XML files in no list that is used": ["000006.xml"],
        "other files": ["ImageSets/Main/trainval.txt"],
        "images without an XML file that is used": ["JPEGImages/000006.png", "JPEGImages/000007.png"],
    }


def test_trainval_beside_test_is_train(root):
    lists = root / "ImageSets" / "Main"
    (lists / "train.txt").rename(lists / "trainval.txt")
    (lists / "val.txt").rename(lists / "test.txt")
    findings = open_root(root).findings
    assert findings.used["test"] == 2
    assert findings.used["train"] + findings.used["val"] == 3
    assert f"{lists}: trainval.txt taken as train" in findings.notes
    assert open_root(root, only="test").findings.used == {"test": 2}


def test_names_with_spaces(root):
    for folder, names in (("JPEGImages", "000001.png"), ("Annotations", "000001.xml")):
        (root / folder / names).rename(root / folder / f"my {names}")
    (root / "ImageSets" / "Main" / "train.txt").write_text("my 000001\n000002  1\n000003\n")
    assert open_root(root).findings.used == {"train": 3, "val": 2}


def test_splits_inside_annotations_and_suffixes_in_upper_case(tmp_path):
    for split, numbers in (("train", (1, 2)), ("Validation", (3,))):
        fill(tmp_path / "JPEGImages" / split.lower(), tmp_path / "Annotations" / split, numbers)
    (tmp_path / "Annotations" / "train" / "000001.xml").rename(tmp_path / "Annotations" / "train" / "000001.XML")
    data = open_root(tmp_path)
    assert data.findings.used == {"train": 2, "val": 1}
    assert data.findings.ignored == {}
    assert f"{tmp_path / 'Annotations'}: taken Validation/ as val" in data.findings.notes


BROKEN = {
    "entities": ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "declares XML entities"),
    "cut": ("<annotation><filename>", "broken XML"),
    "other": ("<html/>", "wanted an <annotation>, got <html>"),
    "no image": (page("x.png", []), "no image x.png or of the name 000009"),
    "no name": (page("000001.png", [("", (1, 1, 5, 5), 0)]), "object 1 lacks its name"),
    "no number": (page("000001.png", [("cat", (1, 1, "nan", 5), 0)]), "object 1 lacks its name or the four numbers"),
    "outside": (page("000001.png", [("cat", (1, 1, 90, 5), 0)]), "extends outside an image of 40 x 20"),
    "reversed": (page("000001.png", [("cat", (9, 9, 3, 3), 0)]), "box of zero area"),
    "size": (page("000001.png", OBJECTS, (20, 40)), r"000001\.png has 40 x 20 pixels, not 20 x 40"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named_and_refused_or_skipped(root, name):
    text, message = BROKEN[name]
    number = "000009" if name == "no image" else "000001"
    (root / "Annotations" / f"{number}.xml").write_text(text)
    if name == "no image":
        (root / "ImageSets" / "Main" / "train.txt").write_text("000009\n000002\n000003\n")
    with pytest.raises(DataError, match=rf"1 problem: train {number}\.xml: .*{message}"):
        open_root(root)
    assert len(open_root(root, on_problem="skip").problems) == 1


def test_one_image_of_two_files_is_a_problem(root):
    (root / "Annotations" / "000002.xml").write_text(page("000001.png", OBJECTS))
    (root / "JPEGImages" / "000002.png").unlink()
    with pytest.raises(DataError, match=r"train 000002\.xml: the same image as 000001\.xml: 000001\.png"):
        open_root(root)


def test_what_can_not_be_opened(root, tmp_path_factory):
    with pytest.raises(DataError, match="Pascal VOC's boxes have no masks"):
        open_root(root, masks=True)
    (root / "classes.txt").write_text("cat\n")
    with pytest.raises(DataError, match=r"objects of classes that classes\.txt does not name: 1 \(dog\)"):
        open_root(root)
    (root / "classes.txt").unlink()
    (root / "ImageSets" / "Main" / "val.txt").write_text("")
    with pytest.raises(DataError, match="no annotations of val; found those of train"):
        open_root(root)
    (root / "ImageSets" / "Main" / "val.txt").unlink()
    assert f"{root}: no images of val; 20% of train become val" in " ".join(open_root(root).findings.notes)
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DataError, match="no Annotations/"):
        open_root(empty)


@pytest.mark.parametrize("keep", [True, False])
def test_one_split_is_read_as_all_are(root, keep):
    """Corners and classes of the training images decide for an evaluation of val, too."""
    zero = [("dog", (0, 0, 10.5, 5), 0), ("horse", (1, 1, 8, 8), 0)]
    (root / "Annotations" / "000001.xml").write_text(page("000001.png", zero))
    if not keep:
        for i in (1, 2, 3):
            (root / "JPEGImages" / f"{i:06}.png").unlink()
    alone = open_root(root, only="val")
    assert (alone.classes, alone.findings.used) == (["cat", "dog", "horse"], {"val": 2})
    assert alone.val[0][1]["boxes"].tolist() == [[1, 1, 10, 5], [11, 6, 40, 20]]
    if keep:
        data = open_root(root)
        assert data.classes == alone.classes
        assert torch.equal(data.val[0][1]["boxes"], alone.val[0][1]["boxes"])


def test_a_file_that_names_another_image_is_refused_where_its_own_is_there(root):
    file = root / "Annotations" / "000002.xml"
    file.write_text(page("000003.png", OBJECTS))
    (root / "Annotations" / "000003.xml").write_text(page("000002.png", OBJECTS))
    with pytest.raises(DataError, match=r"2 problems.*000002\.xml: says that it is of 000003\.png, but there is"):
        open_root(root)
    assert len(open_root(root, on_problem="skip").findings.problems) == 2
    for name in ("000002", "000003"):
        (root / "Annotations" / f"{name}.xml").write_text(page("IMG_2034.png", OBJECTS))
    assert (
        "train: XML files whose <filename> is not there, so the image of the XML file's own name is used: "
        "2 (000002.xml for IMG_2034.png, 000003.xml for IMG_2034.png)"
    ) in open_root(root).findings.notes
    # another ending, or none, is no other name
    (root / "Annotations" / "000002.xml").write_text(page("000002.jpg", OBJECTS))
    (root / "Annotations" / "000003.xml").write_text(page("000003", OBJECTS))
    assert not any("<filename>" in note for note in open_root(root).findings.notes)


def test_turned_boxes_are_told(root):
    for number, angle in ((1, "0.0"), (2, "30.0")):
        file = root / "Annotations" / f"00000{number}.xml"
        attributes = f"<attributes><attribute><name>rotation</name><value>{angle}</value></attribute></attributes>"
        file.write_text(file.read_text().replace("</difficult>", f"</difficult>{attributes}"))
    notes = open_root(root).findings.notes
    assert f"train: boxes turned by an angle, {TAKEN}: 1 (000002.xml)" in notes


@pytest.mark.parametrize(("text", "crowd"), [("true", 1), ("Yes", 1), ("False", 0), ("", 0)])
def test_difficult_in_words(root, text, crowd):
    file = root / "Annotations" / "000001.xml"
    file.write_text(file.read_text().replace("<difficult>0<", f"<difficult>{text}<", 1))
    crowds = [item["iscrowd"] for item in open_root(root).train.record.to_coco()["annotations"]]
    assert crowds == [crowd] + [0] * 5


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<difficult>0<", "<difficult>maybe<", "000001.xml: object 1: wanted 0 or 1 as difficult, got maybe"),
        ("<object>", "<objects><object/></objects><object>", "000001.xml: has objects inside another element"),
    ],
)
def test_objects_that_are_not_read_are_problems(root, old, new, message):
    file = root / "Annotations" / "000001.xml"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        open_root(root)


def test_parts_of_objects_are_told(root):
    file = root / "Annotations" / "000001.xml"
    file.write_text(file.read_text().replace("</object>", "<part><name>head</name></part></object>"))
    assert "train: boxes of parts of objects are not used, in 1 (000001.xml)" in open_root(root).findings.notes


@pytest.mark.parametrize("size", [(0, 0), None])
def test_a_size_that_is_missing_is_told(root, size):
    (root / "Annotations" / "000002.xml").write_text(page("000002.png", OBJECTS, size))
    data = open_root(root)
    told = "train: XML files without the image's size, taken from the image: 1 (000002.xml)"
    assert told in data.findings.notes
    assert data.train.record.scenes[1].width == 40


@pytest.mark.parametrize(
    ("element", "several", "message"),
    [
        ("<bndbox>", "<bndbox></bndbox><bndbox>", r"object 1 has 2 elements <bndbox>; wanted an object for each"),
        ("<name>", "<name>puppy</name><name>", r"object 1 has 2 elements <name>; wanted an object for each"),
        ("<filename>", "<filename>0.png</filename><filename>", r"000001\.xml: has 2 elements <filename>"),
    ],
)
def test_several_elements_where_one_is_read_are_problems(root, element, several, message):
    file = root / "Annotations" / "000001.xml"
    file.write_text(file.read_text().replace(element, several, 1))
    with pytest.raises(DataError, match=message):
        open_root(root)


def test_turned_boxes_of_their_own_element_are_refused(root):
    file = root / "Annotations" / "000002.xml"
    file.write_text(file.read_text().replace("bndbox", "robndbox"))
    with pytest.raises(DataError, match=r"object 1 is a turned box \(robndbox\), which the detectors here"):
        open_root(root)


def test_lists_of_other_classes_are_refused(root):
    (root / "classes.txt").write_text("dog\ncat\n")
    (root / "labels.txt").write_text("cat\ndog\n")
    assert open_root(root).classes == ["dog", "cat"]
    (root / "labels.txt").write_text("cat\nbird\ndog\n")
    with pytest.raises(DataError, match=r"classes\.txt and labels\.txt name the classes differently; keep one"):
        open_root(root)


def test_deleted_objects_are_not_used_and_told(root):
    file = root / "Annotations" / "000002.xml"
    file.write_text(file.read_text().replace("<difficult>", "<deleted>1</deleted><difficult>", 1))
    data = open_root(root)
    assert "train: objects marked as deleted are not used, in 1 (000002.xml)" in data.findings.notes
    assert [len(scene.boxes) for scene in data.train.record.scenes] == [2, 1, 2]


def test_elements_that_are_not_read_are_told(root):
    for i in (1, 2):
        file = root / "Annotations" / f"00000{i}.xml"
        text = file.read_text().replace("<filename>", "<folder>pets</folder><weather>rain</weather><filename>")
        more = "<pose>Left</pose><truncated>1</truncated><occluded>0</occluded><point><x>3</x></point>"
        cvat = "<attributes><attribute><name>sick</name><value>true</value></attribute></attributes></object>"
        file.write_text(text.replace("</object>", more + cvat).replace("</bndbox>", "<angle>0.3</angle></bndbox>", 1))
    counts = "truncated (4), point (4), attributes.sick (4), weather (2), bndbox.angle (2)"
    assert f"train: elements that are not read: {counts}" in open_root(root).findings.notes


def test_images_whose_objects_are_malformed_are_no_background(root):
    for number, boxes in ((1, [(1, 1, 90, 5)]), (2, [(1, 1, 90, 5), (1, 1, 10, 5)])):
        (root / "Annotations" / f"{number:06}.xml").write_text(
            page(f"{number:06}.png", [("cat", box, 0) for box in boxes])
        )
    found = open_root(root, on_problem="skip")
    assert [scene.file.name for scene in found.train.record.scenes] == ["000002.png", "000003.png"]
    assert found.findings.ignored["images whose objects are all malformed"] == ["train: 000001.png"]
    assert any("some objects are malformed" in note and "1 (000002.png)" in note for note in found.findings.notes)

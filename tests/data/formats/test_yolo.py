"""YOLO's text files in the layouts that tools write, and how broken lines are told."""

import PIL.Image
import pytest
import torch
import yaml

from involution.data.errors import DataError
from involution.data.registry import Options, open_data
from involution.data.survey import survey

LINES = "1 0.5 0.5 0.25 0.5\n0 0.1 0.2 0.3 0.2 0.3 0.6 0.1 0.6\n"


def fill(root, split, numbers, images="images/{}", labels="labels/{}", lines=LINES):
    for i in numbers:
        for folder, name, write in (
            (images, f"{i}.png", lambda path: PIL.Image.new("RGB", (40, 20)).save(path)),
            (labels, f"{i}.txt", lambda path: path.write_text(lines)),
        ):
            path = root / folder.format(split) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)


def settings(root, **content):
    (root / "data.yaml").write_text(yaml.safe_dump({"names": ["cat", "dog"], **content}, sort_keys=False))


def open_root(root, **options):
    return open_data("detect", f"yolo:{root}", Options(**options))


@pytest.fixture
def root(tmp_path):
    fill(tmp_path, "train", (1, 2, 3))
    fill(tmp_path, "val", (4, 5))
    settings(tmp_path, path="/datasets/pets", train="images/train", val="images/val", nc=2)
    return tmp_path


def test_boxes_and_polygons(root):
    data = open_root(root)
    assert (data.classes, data.category_ids) == (["cat", "dog"], [0, 1])
    assert data.findings.used == {"train": 3, "val": 2}
    image, target = data.train[0]
    assert image.shape == (3, 20, 40)
    assert torch.allclose(target["boxes"], torch.tensor([[15.0, 5, 25, 15], [4, 4, 12, 12]]))
    assert target["labels"].tolist() == [1, 0]
    ids = [scene.id for part in data.parts.values() for scene in part.record.scenes]
    assert ids == [1, 2, 3, 4, 5]
    assert open_data("detect", str(root)).classes == ["cat", "dog"]


def test_polygons_are_masks(tmp_path):
    fill(tmp_path, "train", (1, 2), lines=LINES.splitlines()[1])
    fill(tmp_path, "val", (3,), lines=LINES.splitlines()[1])
    settings(tmp_path, train="images/train", val="images/val")
    data = open_root(tmp_path, masks=True)
    mask = data.train[0][1]["masks"][0]
    assert mask.sum() == 64
    assert data.train.record.to_coco()["annotations"][0]["area"] == pytest.approx(64)
    assert (mask[4:12, 4:12] == 1).all()
    fill(tmp_path, "val", (4,))
    with pytest.raises(DataError, match=r"val 4\.txt line 1: a box without a polygon, but masks are wanted"):
        open_root(tmp_path, masks=True)


def test_as_roboflow_exports_it(tmp_path):
    fill(tmp_path, "train", (1, 2), "{}/images", "{}/labels")
    fill(tmp_path, "valid", (3,), "{}/images", "{}/labels")
    settings(tmp_path, train="../train/images", val="../valid/images", names={0: "cat", 1: "dog"})
    data = open_root(tmp_path)
    assert data.findings.used == {"train": 2, "val": 1}
    assert len(data.val[0][1]["labels"]) == 2


def test_a_test_split_that_an_export_names_and_lacks(tmp_path):
    fill(tmp_path, "train", (1, 2), "{}/images", "{}/labels")
    fill(tmp_path, "valid", (3,), "{}/images", "{}/labels")
    settings(tmp_path, train="../train/images", val="../valid/images", test="../test/images")
    data = open_root(tmp_path)
    assert data.findings.used == {"train": 2, "val": 1}
    assert data.findings.notes == ["data.yaml: its test, ../test/images, is not there"]
    with pytest.raises(DataError, match="has no test split; it has train, val: choose with --split train or val"):
        open_root(tmp_path, only="test")


def test_test_images_without_labels_are_left_out_and_told(root):
    fill(root, "test", (8, 9))
    for file in (root / "labels" / "test").iterdir():
        file.unlink()
    settings(root, train="images/train", val="images/val", test="images/test")
    findings = open_root(root).findings
    assert findings.used == {"train": 3, "val": 2}
    assert findings.notes == [f"{root}: none of the 2 images of test has its text file of labels; test is left out"]
    assert findings.ignored == {"folders": ["images/test/ (2 files)", "labels/test/ (empty)"]}
    with pytest.raises(DataError, match="none of the 2 images of test has its text file of labels"):
        open_root(root, only="test")


def test_label_studio_without_its_images(tmp_path):
    fill(tmp_path, "", (1,), "images", "labels")
    (tmp_path / "images" / "1.png").unlink()
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "notes.json").write_text('{"categories": [{"id": 0, "name": "cat"}], "info": {"year": 2026}}')
    with pytest.raises(DataError, match="images: no images; an export may come without them"):
        open_data("detect", str(tmp_path))


def test_as_label_studio_exports_it(tmp_path):
    fill(tmp_path, "", range(10), "images", "labels")
    (tmp_path / "classes.txt").write_bytes("cat\r\ndog\r\n".encode("utf-16"))
    data = open_root(tmp_path, split_by="draw")
    assert data.classes == ["cat", "dog"]
    assert data.findings.used == {"train": 8, "val": 2}
    assert any("split 80 / 20" in note for note in data.findings.notes)


def test_as_cvat_exports_darknet(tmp_path):
    fill(tmp_path, "", range(10), "obj_train_data", "obj_train_data")
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    lines = "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    (tmp_path / "obj.data").write_text(lines)
    (tmp_path / "train.txt").write_text("".join(f"data/obj_train_data/{i}.png\n" for i in range(10)))
    data = open_data("detect", str(tmp_path))
    assert data.classes == ["cat", "dog"]
    assert data.findings.used == {"train": 8, "val": 2}
    assert data.findings.ignored == {}
    fill(tmp_path, "", (20, 21), "obj_valid_data", "obj_valid_data")
    (tmp_path / "valid.txt").write_text("obj_valid_data/20.png\nobj_valid_data/21.png\n")
    (tmp_path / "obj.data").write_text("train = train.txt\nvalid = valid.txt\nnames = obj.names\n")
    assert open_root(tmp_path).findings.used == {"train": 10, "val": 2}
    for name in ("obj.data", "train.txt", "valid.txt"):
        (tmp_path / name).unlink()
    assert open_root(tmp_path).findings.used == {"train": 10, "val": 2}


@pytest.mark.parametrize("names", [{0: "cat", 1: "dog"}, ["cat", "dog"]])
def test_as_cvat_exports_ultralytics(tmp_path, names):
    fill(tmp_path, "train", range(10))
    (tmp_path / "train.txt").write_text("".join(f"images\\train\\{i}.png\n" for i in range(10)))
    settings(tmp_path, path="./", train="train.txt", names=names)
    data = open_root(tmp_path, split_by="draw")
    assert data.findings.used == {"train": 8, "val": 2}
    assert data.findings.ignored == {}


def test_paths_of_another_machine(tmp_path):
    fill(tmp_path, "train", range(2), "{}/images", "{}/labels")
    fill(tmp_path, "valid", (7,), "{}/images", "{}/labels")
    there = "/content/drive/pets"
    settings(tmp_path, path=there, train=f"{there}/train/images", val="C:\\pets\\valid\\images")
    data = open_root(tmp_path)
    assert data.findings.used == {"train": 2, "val": 1}
    assert data.findings.notes[0].startswith("data.yaml: its path /content/drive/pets is no folder here")


def test_folders_without_settings_by_their_names(tmp_path):
    fill(tmp_path, "", (1, 2), "images/Training", "labels/train")
    fill(tmp_path, "", (3,), "images/val2017", "labels/Valid")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    for name in ("1", "3"):
        file = next((tmp_path / "labels").rglob(f"{name}.txt"))
        file.rename(file.with_suffix(".TXT"))
    data = open_root(tmp_path)
    assert data.findings.used == {"train": 2, "val": 1}
    assert [len(data.train[i][1]["labels"]) for i in range(2)] == [2, 2]
    assert data.findings.notes == [
        f"{tmp_path}: taken images/Training/ as train, images/val2017/ as val, labels/Valid/ as val"
    ]


def test_as_darknet_lists_it(tmp_path):
    fill(tmp_path, "", range(4), "obj_train_data", "obj_train_data")
    for split, numbers in (("train", (0, 1, 2)), ("val", (3,))):
        lines = "".join(f"obj_train_data/{i}.png\n" for i in numbers)
        (tmp_path / f"{split}.txt").write_text(lines)
    settings(tmp_path, train="train.txt", val="val.txt")
    assert open_root(tmp_path).findings.used == {"train": 3, "val": 1}


BROKEN = {
    "2 0.5 0.5 0.2 0.2": "class 2, but there are 2 names, from 0 on",
    "-1 0.5 0.5 0.2 0.2": "class -1",
    "0.5 0.5 0.5 0.2 0.2": "class 0.5",
    "0 20 10 8 4": r"wanted shares of the image from 0 to 1, got 20; are these pixels\?",
    "0 0.5 0.5 0.2": "wanted a class and 4 numbers of a box, or 3 points or more",
    "0 0.5 0.5 0.2 0.2 0.9": "wanted a class and 4 numbers",
    "0 0.5 0.5 0 0.2": "box of zero area",
    "0 nan 0.5 0.2 0.2": "wanted shares of the image from 0 to 1, got nan",
    "cat 0.5 0.5 0.2 0.2": "wanted numbers, got cat",
    "0 1 1 1 1": "extends outside an image of 40 x 20",
}


@pytest.mark.parametrize("line", BROKEN)
def test_broken_lines_are_named_and_refused_or_skipped(root, line):
    (root / "labels" / "train" / "2.txt").write_text(f"{LINES}\n{line}\n")
    with pytest.raises(DataError, match=rf"1 problem: train 2\.txt line 4: .*{BROKEN[line]}"):
        open_root(root)
    data = open_root(root, on_problem="skip")
    assert [len(data.train[i][1]["labels"]) for i in range(3)] == [2, 2, 2]


def test_images_without_labels_and_labels_without_images(root):
    (root / "labels" / "train" / "1.txt").unlink()
    (root / "labels" / "train" / "2.txt").write_text("")
    (root / "labels" / "train" / "9.txt").write_text(LINES)
    findings = open_root(root).findings
    assert findings.notes == [
        f"data.yaml: its path /datasets/pets is no folder here; {root} is taken instead",
        "train: images without a text file of labels, taken to show no object: 1 (1.png)",
        "train: images without objects, trained on as background: 2 (1.png, 2.png)",
    ]
    assert findings.ignored == {"labels of train without an image": ["9.txt"]}
    for file in (root / "labels" / "train").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="none of the 3 images of train has its text file of labels"):
        open_root(root)


def test_labels_that_are_a_link_to_nothing_are_no_background(root):
    file = root / "labels" / "train" / "1.txt"
    file.unlink()
    file.symlink_to(root / "gone.txt")
    with pytest.raises(DataError, match=r"train 1\.png: its labels, 1\.txt: no such file"):
        open_root(root)
    assert open_root(root, on_problem="skip").findings.used["train"] == 2


def test_two_images_of_one_name_share_no_labels(root):
    PIL.Image.new("RGB", (40, 20)).save(root / "images" / "train" / "1.jpg")
    with pytest.raises(DataError, match=r"train 1\.png: shares its labels with 1\.jpg"):
        open_root(root)


def test_the_same_images_in_both_splits_are_told(root):
    settings(root, train="images/train", val="images/train")
    data = open_root(root)
    assert "val: images that are also in train: 3 (1.png, 2.png, 3.png)" in data.findings.notes
    assert "train/1.png = train/1.png" in survey(data, quick=True).duplicates["train and val"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("names: [cat, dog]\nnc: 3\ntrain: images/train\nval: images/val", "nc is 3, but there are 2 names"),
        ("names: {0: cat, 2: dog}\ntrain: images/train", "names wants the numbers 0 to 1"),
        (
            "names: [cat, no]\ntrain: images/train",
            "names must be texts, got 1 .False.; put them into quotes, such as 'no'",
        ),
        ("names: [cat, cat]\ntrain: images/train", "wanted different class names"),
        ("train: images/train", "no names"),
        ("names: [cat, dog]\ntrain: images/training", "no such folder or list of images: images/training"),
        ("names: [cat, dog]\ntrain: images/train", "no images of val; found those of train"),
        ("names: [cat, dog]\nkpt_shape: [17, 3]", "has key points"),
        ("names: [cat", r"data\.yaml: line 2, column 1: did not find expected"),
        ("- cat", "wanted settings such as names"),
    ],
)
def test_wrong_settings_files(root, content, message):
    (root / "data.yaml").write_text(content)
    with pytest.raises(DataError, match=message):
        open_root(root)


@pytest.mark.parametrize("names", ["[010, 1e3]", "{0: 010, 1: 1e3}", "{1: 1e3, 0: 010}", "\n- 010\n- 1e3"])
def test_numbers_among_the_names_are_as_they_are_written(root, names):
    (root / "data.yaml").write_text(f"names: {names}\ntrain: images/train\nval: images/val\n")
    assert open_root(root).classes == ["010", "1e3"]


def test_no_names_at_all(root):
    (root / "data.yaml").unlink()
    with pytest.raises(DataError, match=r"no class names; wanted data\.yaml with names, or classes\.txt"):
        open_root(root)


def test_where_nothing_is_left_the_first_problem_is_told(root):
    for file in (root / "labels" / "train").iterdir():
        file.write_text("0 20 10 8 4\n")
    with pytest.raises(DataError, match=r"no usable images in train: train 1\.txt line 1: .*are these pixels"):
        open_root(root, on_problem="skip")


@pytest.mark.parametrize("kind", [3, 2])
def test_key_points_are_no_polygons(tmp_path, kind):
    def pose(x, y):
        points = [(x + 0.05, y - 0.05), (0, 0), (x, y + 0.1), (x - 0.04, y)]
        seen = (2, 0, 1, 2)
        rest = [value for point, flag in zip(points, seen, strict=True) for value in (*point, flag)[:kind]]
        return " ".join(map(str, (1, x, y, 0.2, 0.3, *rest)))

    lines = "\n".join(pose(0.2 + 0.1 * i, 0.3 + 0.05 * i) for i in range(6))
    fill(tmp_path, "train", (1, 2), lines=lines)
    fill(tmp_path, "val", (3,), lines=lines)
    settings(tmp_path, train="images/train", val="images/val")
    with pytest.raises(DataError, match=rf"look like a class, a box and 4 key points of {kind} numbers, which "):
        open_root(tmp_path)
    with pytest.raises(DataError, match=r"a box and 4 key points"):
        open_root(tmp_path, on_problem="skip")
    if kind == 2:
        settings(tmp_path, train="images/train", val="images/val", kpt_shape=None)
        assert len(open_root(tmp_path).train[0][1]["boxes"]) == 6


def test_tracked_boxes_are_no_triangles(tmp_path):
    lines = "\n".join(f"1 0.{3 + i} 0.5 0.2 0.3 0.9{i} 1" for i in range(3))
    fill(tmp_path, "train", (1, 2), lines=lines)
    fill(tmp_path, "val", (3,), lines=lines)
    settings(tmp_path, train="images/train", val="images/val")
    with pytest.raises(DataError, match="look like a class, a box, its score and the number of a track"):
        open_root(tmp_path)
    # a corner that is not at the border
    fill(tmp_path, "val", (3,), lines=lines.replace("0.92 1", "0.92 0.8"))
    assert len(open_root(tmp_path).train) == 2


def test_a_path_that_leads_out_of_the_folder_is_told(tmp_path):
    for name in ("old", "new"):
        fill(tmp_path / name, "train", (1, 2))
        fill(tmp_path / name, "val", (3,))
    settings(tmp_path / "new", path=str(tmp_path / "old"), train="images/train", val="images/val")
    data = open_root(tmp_path / "new")
    said = f"data.yaml: its path {tmp_path / 'old'} is taken, so that images and labels are those there"
    assert said in data.findings.notes
    assert data.train.record.scenes[0].file.is_relative_to(tmp_path / "old")


def test_quadrangles_all_over_the_image_are_polygons(tmp_path):
    corners = [(0.1, 0.1), (0.7, 0.1), (0.7, 0.8), (0.1, 0.8), (0.45, 0.45), (0.3, 0.6)]
    lines = "\n".join(f"0 {x} {y} {x + 0.2} {y} {x + 0.2} {y + 0.2} {x} {y + 0.2}" for x, y in corners)
    fill(tmp_path, "train", (1, 2), lines=lines)
    fill(tmp_path, "val", (3,), lines=lines)
    settings(tmp_path, train="images/train", val="images/val")
    assert len(open_root(tmp_path, masks=True).train[0][1]["masks"]) == 6


def test_shares_are_of_the_upright_image(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    for split in ("train", "val"):
        fill(tmp_path, split, (1, 2), lines="0 0.5 0.5 0.5 0.25\n")
        for i in (1, 2):
            PIL.Image.new("RGB", (20, 40)).save(tmp_path / "images" / split / f"{i}.png", exif=exif)
    settings(tmp_path, train="images/train", val="images/val")
    data = open_root(tmp_path)
    assert data.train[0][0].shape == (3, 20, 40)
    assert data.train[0][1]["boxes"].tolist() == [[10, 7.5, 30, 12.5]]
    assert any("boxes are taken to fit the upright images" in note for note in data.findings.notes)
    stored = open_root(tmp_path, exif="ignore")
    assert stored.train[0][0].shape == (3, 40, 20)
    assert stored.train[0][1]["boxes"].tolist() == [[5, 15, 15, 25]]


def test_two_lists_of_names_must_be_equal(root):
    (root / "classes.txt").write_text("dog\ncat\n")
    with pytest.raises(DataError, match=r"data\.yaml and classes\.txt name the classes differently"):
        open_root(root)


def test_lists_of_names_beside_the_labels_must_agree(root):
    # LabelImg writes the classes in the order in which they were met
    (root / "labels" / "train" / "classes.txt").write_text("cat\n")
    findings = open_root(root).findings
    assert findings.ignored == {}
    (root / "labels" / "val" / "classes.txt").write_text("dog\ncat\n")
    with pytest.raises(DataError, match=r"labels/val/classes\.txt names the classes differently \(2 \(dog, cat\)\)"):
        open_root(root)


def test_two_settings_of_one_split_are_refused(root):
    settings(root, train="images/train", val="images/val", valid="images/train")
    with pytest.raises(DataError, match=r"data\.yaml: val and valid both stand for val; keep one"):
        open_root(root)


def test_names_with_their_numbers_are_told(root):
    settings(root, names=["1 cat", "2 dog"], train="images/train", val="images/val")
    (note,) = (note for note in open_root(root).findings.notes if "numbers" in note)
    assert note == (
        "the class names begin with numbers, taken as part of them: 2 (1 cat, 2 dog); labels are counted from 0, so "
        "that label 1 is another"
    )
    settings(root, names=["1 cat", "3 dog"], train="images/train", val="images/val")
    assert not any("numbers" in note for note in open_root(root).findings.notes)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("classes = 3\n", "obj.data: classes is 3, but obj.names has 2 names"),
        ("train = valid.txt\n", "obj.data: says something twice: 4 .train, train, valid, names"),
    ],
)
def test_what_darknets_settings_contradict_is_refused(tmp_path, lines, message):
    fill(tmp_path, "", range(2), "obj_train_data", "obj_train_data")
    for split, number in (("train", 0), ("valid", 1)):
        (tmp_path / f"{split}.txt").write_text(f"obj_train_data/{number}.png\n")
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    rest = "train = train.txt\nvalid = valid.txt\nnames = obj.names\n"
    (tmp_path / "obj.data").write_text(f"classes = 2\n{rest}")
    assert open_root(tmp_path).findings.used == {"train": 1, "val": 1}
    (tmp_path / "obj.data").write_text(lines + rest)
    with pytest.raises(DataError, match=message):
        open_root(tmp_path)


def test_images_taken_from_a_neighbour_are_told(tmp_path):
    for root in (tmp_path, tmp_path / "pets"):
        for split in ("train", "valid"):
            fill(root, split, (1,), "{}/images", "{}/labels")
    settings(tmp_path / "pets", train="../train/images", val="valid/images")
    (note,) = open_root(tmp_path / "pets").findings.notes
    where = tmp_path.resolve() / "train" / "images"
    assert note.startswith(f"data.yaml: its ../train/images is taken as {where}, not as {tmp_path / 'pets'}")


def test_boxes_of_four_points_are_told(tmp_path):
    fill(tmp_path, "train", (1, 2), lines="0 0.5 0.1 0.9 0.5 0.5 0.9 0.1 0.5\n")
    fill(tmp_path, "val", (3,))
    settings(tmp_path, train="images/train", val="images/val")
    data = open_root(tmp_path)
    told = "objects of four points, as turned boxes are: taken are the upright boxes around them, in 2 (1.txt, 2.txt)"
    assert [note for note in data.findings.notes if "four" in note] == [f"train: {told}"]
    assert torch.allclose(data.train[0][1]["boxes"], torch.tensor([[4.0, 2, 36, 18]]))


def test_files_of_labels_that_keep_the_suffix_of_the_image(root):
    before = [scene.boxes for scene in open_root(root).train.record.scenes]
    for file in (root / "labels" / "train").iterdir():
        file.rename(file.with_name(f"{file.stem}.png.txt"))
    data = open_root(root)
    assert [scene.boxes for scene in data.train.record.scenes] == before
    assert data.findings.ignored == {}


@pytest.mark.parametrize("other", ["obj.names", "labels.txt", "classes.json"])
def test_lists_of_classes_that_differ_are_refused(tmp_path, other):
    fill(tmp_path, "train", (1, 2))
    fill(tmp_path, "val", (3,))
    same = '["cat", "dog"]' if other.endswith("json") else "cat\ndog\n"
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / other).write_text(same)
    assert open_root(tmp_path).classes == ["cat", "dog"]
    (tmp_path / other).write_text(same.replace("cat", "x").replace("dog", "cat").replace("x", "dog"))
    with pytest.raises(DataError, match=rf"classes\.txt and {other} name the classes differently; keep one"):
        open_root(tmp_path)


def test_val_is_cut_from_train_where_there_is_none(tmp_path):
    fill(tmp_path, "train", range(10))
    fill(tmp_path, "test", (20,))
    settings(tmp_path, train="images/train", test="images/test")
    data = open_root(tmp_path, split_by="draw")
    assert data.findings.used == {"train": 8, "val": 2, "test": 1}
    fill(tmp_path, "val", (30,))
    with pytest.raises(DataError, match="no images of val; found those of train, test"):
        open_root(tmp_path)


def test_boxes_that_are_all_as_large_as_their_images_are_told(root):
    for file in (root / "labels" / "train").iterdir():
        file.write_text("0 0.5 0.5 1 1\n1 0.5 0.5 0.995 1\n")
    told = "all boxes cover their whole images, so no place can be learnt: 6 (train 1.png, train 1.png, train 2.png, …)"
    assert [note for note in open_root(root).findings.notes if "cover" in note] == [f"train: {told}"]
    (root / "labels" / "train" / "1.txt").write_text("0 0.5 0.5 0.5 1\n")
    assert not any("cover" in note for note in open_root(root).findings.notes)


def test_an_image_that_a_list_has_twice_is_told(root):
    (root / "train.txt").write_text("images/train/1.png\nimages/train/2.png\nimages/train/1.png\n")
    settings(root, train="train.txt", val="images/val")
    with pytest.raises(DataError, match=r"1 problem: train 1\.png: is named twice"):
        open_root(root)


def test_settings_that_are_not_read_are_told(root):
    own = {"path": ".", "train": "images/train", "val": "images/val", "nc": 2, "roboflow": {"project": "pets"}}
    settings(
        root, **own, download="https://example.com/pets.zip", channels=1, single_cls=False, fraction=0.5, classes=1
    )
    findings = open_root(root).findings
    assert findings.ignored == {"settings of data.yaml": ["download", "fraction", "classes"]}
    assert "data.yaml: channels is 1, but images are read in colour, with 3" in findings.notes
    settings(root, **own, single_cls=True)
    with pytest.raises(DataError, match=r"data\.yaml: single_cls makes one class of all; give names one name"):
        open_root(root)


def test_images_whose_objects_are_malformed_are_no_background(root):
    (root / "labels" / "train" / "1.txt").write_text("7 0.5 0.5 0.25 0.5\n")
    (root / "labels" / "train" / "2.txt").write_text(f"{LINES}7 0.5 0.5 0.25 0.5\n")
    found = open_root(root, on_problem="skip")
    assert [scene.file.name for scene in found.train.record.scenes] == ["2.png", "3.png"]
    assert found.findings.ignored["images whose objects are all malformed"] == ["train: 1.png"]
    assert any("some objects are malformed" in note and "1 (2.png)" in note for note in found.findings.notes)


def test_what_is_left_over_where_the_images_are_is_told(tmp_path):
    data = tmp_path / "sets" / "pets"
    for split, numbers in (("train", (1, 2)), ("val", (3,)), ("test", (4, 5))):
        fill(data, split, numbers)
    (data / "LICENSE").touch()
    work = tmp_path / "work"
    work.mkdir()
    (work / "notes.md").touch()
    settings(work, path="../sets/pets", train="images/train", val="images/val")
    expected = {"other files": ["LICENSE"], "folders": ["images/test/ (2 files)", "labels/test/ (2 files)"]}
    assert open_root(work).findings.ignored == expected
    # lists of names in either folder count
    (data / "classes.txt").write_text("dog\ncat\n")
    with pytest.raises(DataError, match=r"classes\.txt name the classes differently; keep one"):
        open_root(work)


def test_what_is_left_over_in_folders_of_images_elsewhere_is_told(tmp_path):
    data = tmp_path / "pets"
    for split, numbers in (("train", (1, 2)), ("val", (3,))):
        fill(data, split, numbers)
    (data / "images" / "train" / "more.zip").touch()
    work = tmp_path / "work"
    work.mkdir()
    settings(work, train=str(data / "images" / "train"), val=str(data / "images" / "val"))
    expected = {"archives, which are not unpacked": ["../pets/images/train/more.zip"]}
    assert open_root(work).findings.ignored == expected

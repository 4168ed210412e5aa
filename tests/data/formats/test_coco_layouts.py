"""COCO's format: where the files of its publishers and of tools of labelling lie."""

import json
import shutil

import PIL.Image
import pytest
from coco_sets import content, folder_of_coco, open_root, pictures, small, write

from involution.data.box_files import ImageNames
from involution.data.errors import DataError
from involution.data.findings import Findings
from involution.data.registry import open_data


@pytest.fixture
def root(tmp_path):
    return folder_of_coco(tmp_path)


def test_layout(root):
    (root / "images").mkdir()
    (root / "val2017").rename(root / "images" / "val2017")
    assert open_root(root).val.record.scenes[0].file.parent == root / "images" / "val2017"
    (root / "images" / "val2017").rename(root / "elsewhere")
    (root / "images").rmdir()
    with pytest.raises(DataError, match="no folder val2017/"):
        open_root(root)
    (root / "annotations" / "instances_val2017.json").unlink()
    (root / "val2017").mkdir()
    with pytest.raises(
        DataError, match=r"instances_val\*\.json, found instances_train2017\.json; images without splits want one"
    ):
        open_root(root)
    (root / "val2017").rmdir()
    data = open_root(root)
    assert data.findings.used == {"train": 2, "val": 1}
    file = root / "annotations" / "instances_train2017.json"
    assert f"{file}: no images of val; 20% of train become val" in " ".join(data.findings.notes)


def test_as_roboflow_exports_it(tmp_path):
    for split, numbers in (("train", [1, 2, 3]), ("valid", [4, 5]), ("test", [6])):
        pictures(tmp_path / split, numbers)
        file = tmp_path / split / "_annotations.coco.json"
        file.write_text(json.dumps(small(len(numbers), first=numbers[0])), encoding="utf-8-sig")
    data = open_root(tmp_path)
    assert data.findings.used == {"train": 3, "val": 2, "test": 1}
    assert data.findings.lines() == [f"{tmp_path}: taken valid/ as val"]
    (tmp_path / "train" / "._annotations.coco.json").write_bytes(b"\0\5")
    ignored = open_root(tmp_path).findings.ignored
    assert ignored == {"left by an operating system": ["train/._annotations.coco.json"]}
    assert open_data("detect", str(tmp_path)).classes == ["person"]
    assert open_root(tmp_path, only="test").findings.used == {"test": 1}
    shutil.rmtree(tmp_path / "valid")
    assert open_root(tmp_path).findings.used == {"train": 2, "val": 1, "test": 1}


def test_as_roboflow_exports_a_version_without_splits(tmp_path):
    pictures(tmp_path / "train", range(1, 11))
    (tmp_path / "train" / "_annotations.coco.json").write_text(json.dumps(small(10)))
    assert open_root(tmp_path).findings.used == {"train": 8, "val": 2}


def test_as_fiftyone_exports_it(tmp_path):
    for split, first in (("train", 1), ("validation", 4)):
        pictures(tmp_path / split / "data", range(first, first + 3))
        (tmp_path / split / "labels.json").write_text(json.dumps(small(3, first=first)))
    assert open_root(tmp_path).findings.used == {"train": 3, "val": 3}


def test_test_annotations_without_their_images_are_told(root):
    (root / "annotations" / "instances_test2017.json").write_text(json.dumps(content("val")))
    findings = open_root(root).findings
    assert findings.used == {"train": 3, "val": 2}
    assert findings.notes[0].endswith("with the images of instances_test2017.json; test is left out")
    with pytest.raises(DataError, match="no folder test2017/ or images/test2017/"):
        open_root(root, only="test")


def test_as_cvat_exports_it(tmp_path):
    pictures(tmp_path / "images" / "default", range(1, 11))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_default.json").write_text(json.dumps(small(10)))
    data = open_root(tmp_path)
    assert data.findings.used == {"train": 8, "val": 2}
    assert "one set of images, split 80 / 20 into train and val by split_seed 0" in data.findings.notes[0]
    ids = [{scene.id for scene in part.record.scenes} for part in data.parts.values()]
    assert ids[0] | ids[1] == set(range(1, 11))
    other = open_root(tmp_path, split_seed=1).val.record.scenes
    assert {scene.id for scene in other} != ids[1]
    assert open_root(tmp_path, only="val").findings.used == {"val": 10}


NAMES = {
    "images\\1.png": "1.png",
    "images/a%20b.png": "a b.png",
    "/label-studio/data/upload/7/2.png": "2.png",
    "C:\\Users\\me\\3.png": "3.png",
    "https://example.com/data/upload/4.png?x=1": "4.png",
    "elsewhere/5.png": "5.png",
    "../../label-studio/data/media/upload/1/6.png": "6.png",
    "..\\..\\label-studio\\label-studio\\media\\upload\\4\\7.png": "7.png",
    "/data/local-files/?d=photos%2F8.png": "8.png",
    "s3://bucket/a/9.png": "9.png",
}


def test_as_label_studio_exports_it(tmp_path):
    pictures(tmp_path / "images", range(1, 10))
    PIL.Image.new("RGB", (64, 48)).save(tmp_path / "images" / "a b.png")
    content = small(len(NAMES))
    for image, name in zip(content["images"], NAMES, strict=True):
        image["file_name"] = name
    (tmp_path / "result.json").write_text(json.dumps(content))
    data = open_root(tmp_path, only="val")
    assert [scene.file.name for scene in data.val.record.scenes] == list(NAMES.values())
    assert "all: image files found by the last part of their name: 8 (/label-studio" in data.findings.lines()[0]


def test_folders_tell_files_of_one_name_apart(tmp_path):
    folder = tmp_path / "images"
    for size, inner in ((64, "a"), (80, "b")):
        (folder / inner).mkdir(parents=True)
        PIL.Image.new("RGB", (size, 48)).save(folder / inner / "1.png")

    def named(*names):
        found = ImageNames([folder])
        found.expect(names)
        return [str(found.find(name)).removeprefix(f"{folder}/") for name in names]

    # below the folder, from another machine, and both ways to write them
    assert named(f"{folder}/b/1.png", f"{folder}/a/1.png") == ["b/1.png", "a/1.png"]
    assert named("/data/b/1.png", "C:\\photos\\a\\1.png") == ["b/1.png", "a/1.png"]
    assert named("/data/c/1.png") == ["file_name '/data/c/1.png' could be any of 2 files of that name"]
    # one of them is gone: the other is not taken for it
    (folder / "b" / "1.png").unlink()
    for name in (f"{folder}/b/1.png", "b/1.png"):
        assert named(name) == [f"no such file: {name if name[0] == '/' else folder / name}".removeprefix(f"{folder}/")]
    assert named("/data/b/1.png", "/data/a/1.png") == ["no such file: /data/b/1.png", "a/1.png"]
    # nothing outside is ever read
    assert named(f"{folder}/a/../../secret.png")[0].startswith("no such file")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["C:\\photos\\anna\\1.JPG", "C:\\photos\\ben\\1.JPG"], "by the last parts of their path: 2 (C:"),
        (["C:\\photos\\ben\\2.JPG", "anna\\1.JPG"], "by the last part of their name: 1 (C:"),
        (["anna/1.JPG", "ben/1.Jpg"], None),
    ],
)
def test_names_in_another_case_are_found_and_told(tmp_path, names, told):
    for place in ("anna/1.jpg", "ben/1.jpg", "ben/2.jpg"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        PIL.Image.new("RGB", (64, 48)).save(tmp_path / place)
    found, findings = ImageNames([tmp_path]), Findings()
    found.expect(names)
    wanted = [tmp_path / name.replace("C:\\photos\\", "").replace("\\", "/").lower() for name in names]
    assert [found.find(name) for name in names] == wanted
    found.tell(findings, "train")
    *others, case = findings.notes
    assert case.startswith("train: image files found by a name in another case: 2 (")
    assert case.count(" is ") == 2
    assert [note.startswith(f"train: image files found {told}") for note in others] == ([True] if told else [])
    # two that differ by their case alone are both meant
    PIL.Image.new("RGB", (64, 48)).save(tmp_path / "anna" / "1.JpG")
    assert isinstance(ImageNames([tmp_path]).find("anna/1.JPG"), str)
    assert ImageNames([tmp_path]).find("anna/1.JpG") == tmp_path / "anna" / "1.JpG"


def test_all_images_that_are_not_there_are_counted(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(small(3)))
    with pytest.raises(DataError, match=r"left out, 3 problems: .*no such file.*: 0 images are too few"):
        open_root(tmp_path, on_problem="skip")


def test_a_last_part_of_a_name_must_be_unique(root):
    data = content("train")
    data["images"][0]["file_name"] = "/somewhere/0.png"
    write(root, "train", data)
    (root / "train2017" / "more").mkdir()
    PIL.Image.new("RGB", (64, 48)).save(root / "train2017" / "more" / "0.png")
    with pytest.raises(DataError, match=r"train image 1: file_name '/somewhere/0.png' could be any of 2 files"):
        open_root(root)


@pytest.mark.parametrize(
    ("files", "folder"),
    [
        (("instances_Train.json", "instances_val.json"), "images/Train"),
        (("instances_train.json", "instances_Validation.json"), "images/Training"),
        (("train.json", "val.json"), "train2024"),
        (("train_annotations.json", "valid_annotations.json"), "train_images"),
    ],
)
def test_folders_of_other_spellings(root, files, folder):
    for split, file in zip(("train", "val"), files, strict=True):
        (root / "annotations" / f"instances_{split}2017.json").rename(root / "annotations" / file)
    (root / folder).parent.mkdir(exist_ok=True)
    (root / "train2017").rename(root / folder)
    assert open_root(root).findings.used == {"train": 3, "val": 2}


def test_a_json_file_of_something_else_is_not_recognised(tmp_path):
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(DataError, match="is not in a recognised format"):
        open_data("detect", str(tmp_path))


def test_several_files_of_unknown_splits_are_named(tmp_path):
    pictures(tmp_path / "images", range(1, 5))
    for name in ("result.json", "more.json"):
        (tmp_path / name).write_text(json.dumps(small(4)))
    with pytest.raises(DataError, match=r"found more\.json, result\.json; images without splits want one file"):
        open_root(tmp_path)
    for name in ("result", "more"):
        (tmp_path / f"{name}.json").rename(tmp_path / f"{name}.json.gz")
    with pytest.raises(DataError, match=r"found none; .*; unpack more\.json\.gz, result\.json\.gz"):
        open_root(tmp_path)

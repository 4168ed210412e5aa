"""What a data set holds: counted right, and what is surely not meant so."""

import io
import json
import shutil
import tarfile

import numpy as np
import pytest
import torch
from generated import add, image_folder, shards
from PIL import Image

from involution.data.registry import Options, open_data
from involution.data.scenes import make_digit_scenes
from involution.data.survey import survey


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make_digit_scenes(tmp_path_factory.mktemp("scenes") / "small", {"train": 6, "val": 3})


def test_images_in_folders(tmp_path):
    image_folder(tmp_path, splits=("train", "val"))
    Image.new("L", (100, 50), 77).save(tmp_path / "train" / "ant" / "grey.png")
    found = survey(open_data("classify", f"imagefolder:{tmp_path}"))
    train = found.splits["train"]
    assert train.images == 25
    assert train.classes == {"ant": 9, "bee": 8, "cat": 8}
    assert train.kinds == {"JPEG RGB": 24, "PNG L": 1}
    assert train.sizes == {"smallest": [24, 20], "median": [24, 20], "largest": [100, 50]}
    assert (found.duplicates, found.warnings) == ({}, [])
    assert json.loads(json.dumps(found.to_dict()))["splits"]["val"]["images"] == 24
    assert "  classes: ant 9 (36.0%), bee 8 (32.0%), cat 8 (32.0%)" in found.lines()


def test_boxes(scenes):
    data = open_data("detect", f"digit-scenes:{scenes}")
    found = survey(data)
    train = found.splits["train"]
    boxes = [box for scene in data.train.record.scenes for box in scene.boxes]
    assert sum(train.classes.values()) == sum(train.objects.values()) == len(boxes)
    assert train.objects["small"] == sum(box.area < 1024 for box in boxes)
    assert (train.images, train.empty) == (6, 0)
    assert found.duplicates == {}


def test_label_maps(scenes):
    data = open_data("segment", f"digit-scenes:{scenes}", Options(allow_empty=True))
    train = survey(data).splits["train"]
    counts = torch.stack([labels.flatten().bincount(minlength=11) for _, labels in data.train]).sum(0)
    assert list(train.classes.values()) == counts.tolist()
    assert survey(data, quick=True).splits["train"].classes == {}


def test_equal_images_in_shards_and_arrays(tmp_path):
    shards(tmp_path, names=("train-0", "val-0"))
    shutil.copy(tmp_path / "train-0.tar", tmp_path / "val-0.tar")
    found = survey(open_data("classify", f"webdataset:{tmp_path}"))
    assert found.splits["val"].classes == {"ant": 4, "bee": 4, "cat": 4}
    assert len(found.duplicates["train and val"]) == 12
    digits = survey(open_data("classify", "digits"))
    assert digits.duplicates == {}
    assert sum(digits.splits["train"].classes.values()) == 1077


def test_splits_by_a_link_to_the_same_files_are_told(tmp_path):
    image_folder(tmp_path / "pets", splits=("train",), per_class=2)
    (tmp_path / "pets" / "val").symlink_to(tmp_path / "pets" / "train")
    shards(tmp_path / "shards", names=("train-0",), per_shard=30)
    for spec, name in ((f"imagefolder:{tmp_path / 'pets'}", "000.jpg"), (f"webdataset:{tmp_path / 'shards'}", None)):
        warnings = survey(open_data("classify", spec), quick=True).warnings
        assert [name in warning for warning in warnings] == ([True] if name else [])
    assert warnings == []


def test_equal_images_in_two_classes_are_told(tmp_path):
    image_folder(tmp_path, splits=("train", "val"), per_class=2)
    shutil.copy(tmp_path / "train" / "ant" / "000.jpg", tmp_path / "train" / "bee" / "copy.jpg")
    found = survey(open_data("classify", f"imagefolder:{tmp_path}"))
    assert found.duplicates["train"] == ["bee/copy.jpg = ant/000.jpg"]
    assert "warning: the same image in different classes: 1 (bee/copy.jpg = ant/000.jpg)" in (found.warning_lines())


def test_equal_images_of_one_name_are_told_with_as_many_folders_as_tell_them_apart(tmp_path):
    image_folder(tmp_path, splits=("train", "val"), per_class=1)
    shutil.copytree(tmp_path / "train", tmp_path / "train" / "pets")
    found = survey(open_data("classify", f"imagefolder:{tmp_path}", Options(on_problem="skip")), quick=True)
    assert found.duplicates["train"][0] == "pets/ant/000.jpg = ant/000.jpg"
    shutil.copy(tmp_path / "train" / "bee" / "000.jpg", tmp_path / "val" / "bee" / "000.jpg")
    found = survey(open_data("classify", f"imagefolder:{tmp_path}"), quick=True)
    assert found.duplicates["train and val"][0] == "val/bee/000.jpg = train/bee/000.jpg"


def test_many_classes_are_told_in_short(tmp_path):
    names = [f"class{i:02}" for i in range(40)]
    image_folder(tmp_path, splits=("train", "val"), classes=names, per_class=1)
    for name in ("class07", "class09"):
        shutil.copy(tmp_path / "val" / "class00" / "000.jpg", tmp_path / "train" / name / "more.jpg")
    lines = survey(open_data("classify", f"imagefolder:{tmp_path}"), quick=True).lines()
    assert lines[2].startswith("  classes: the rarest class00 1 (2.4%), ")
    assert "; the most frequent class09 2 (4.8%), class07 2 (4.8%), " in lines[2]
    assert lines[2].count("class") == 11


def test_channels_and_values(tmp_path):
    image_folder(tmp_path, splits=("train", "val"), per_class=1)
    Image.fromarray(np.array([[7, 60000]], np.uint16)).save(tmp_path / "train" / "ant" / "deep.png")
    Image.new("LA", (4, 4)).save(tmp_path / "train" / "ant" / "la.png")
    train = survey(open_data("classify", f"imagefolder:{tmp_path}")).splits["train"]
    assert train.channels == {3: 3, 1: 1, 2: 1}
    assert train.values["0 to 65535"] == [7, 60000]


@pytest.mark.parametrize(
    ("values", "dtype", "told"),
    [
        ((0, 4095), np.uint16, "values from 0 to 65535 use 0 to 4095 alone; --data.value_range 0 4095 would use it"),
        ((7, 19), np.uint8, "values from 0 to 255 use 7 to 19 alone"),
        ((0, 60000), np.uint16, None),
        ((0, 200), np.uint8, None),
    ],
)
def test_a_range_that_is_hardly_used_is_told(tmp_path, values, dtype, told):
    for split in ("train", "val"):
        for number, name in enumerate(("a", "b")):
            (tmp_path / split / name).mkdir(parents=True)
            pixels = np.array([[*values, number]] * (1 + number + 2 * (split == "val")), dtype).clip(*values)
            Image.fromarray(pixels).save(tmp_path / split / name / "1.png")
    found = survey(open_data("classify", f"imagefolder:{tmp_path}"), quick=True)
    assert found.warnings == (
        [f"the first 2 images of {split} of {told}" for split in ("train", "val")] if told else []
    )
    if dtype == np.uint16:
        told = survey(open_data("classify", f"imagefolder:{tmp_path}", Options(value_range=values)), quick=True)
        assert told.warnings == []


def test_a_range_that_leaves_most_pixels_outside_is_told(tmp_path):
    image_folder(tmp_path, splits=("train", "val"), classes=("ant", "bee"), per_class=1)
    for number in range(2):
        pixels = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
        Image.fromarray(pixels).save(tmp_path / "train" / "ant" / f"{number}.png")
    data = open_data("classify", f"imagefolder:{tmp_path}", Options(value_range=(0, 4095)))
    assert survey(data, quick=True).warnings == [
        "2 of the first 2 images of train have more than nine tenths of their pixels outside of 0 to 4095; they have "
        "0 to 65535, and --data.value_range says what becomes black and white"
    ]
    data = open_data("classify", f"imagefolder:{tmp_path}", Options(value_range=(0, 30000)))
    assert survey(data, quick=True).warnings == []


def test_equal_pixels_in_files_of_other_formats_are_told(tmp_path):
    image_folder(tmp_path, splits=("train", "val"), per_class=2)
    for suffix, options in (("png", {}), ("bmp", {}), ("webp", {"lossless": True})):
        for name in ("ant", "bee"):
            Image.open(tmp_path / "train" / name / "000.jpg").save(tmp_path / "val" / name / f"x.{suffix}", **options)
    data = open_data("classify", f"imagefolder:{tmp_path}")
    assert survey(data, quick=True).duplicates == {}
    found = survey(data)
    assert len(found.duplicates["train and val"]) == 6
    assert found.warnings[0].startswith(
        "the same images are in more than one split (train and val 6, such as ant/x.bmp = "
    )


def test_equal_files_are_told_by_the_quick_part(tmp_path):
    image_folder(tmp_path, splits=("train", "val"), per_class=2)
    shutil.copy(tmp_path / "train" / "ant" / "000.jpg", tmp_path / "val" / "ant" / "other.jpg")
    found = survey(open_data("classify", f"imagefolder:{tmp_path}"), quick=True)
    assert found.duplicates == {"train and val": ["ant/other.jpg = ant/000.jpg"]}
    assert found.warnings == [
        "the same images are in more than one split (train and val 1, such as ant/other.jpg = ant/000.jpg), so figures "
        "measured on them mean little"
    ]


def test_altered_copies_across_splits_are_told_by_their_names(tmp_path):
    image_folder(tmp_path, splits=("train", "val"), per_class=3)
    spec = f"imagefolder:{tmp_path}"
    # both splits count from 0
    Image.new("L", (9, 9)).save(tmp_path / "train" / "ant" / "001_flip.png")
    assert survey(open_data("classify", spec), quick=True).warnings == []
    Image.new("L", (9, 8)).save(tmp_path / "train" / "ant" / "500.png")
    Image.new("L", (8, 9)).save(tmp_path / "val" / "ant" / "500_rot90.png")
    told = "train and val have altered copies of the same images by their names: 1 (ant/500_rot90.png of ant/500.png)"
    assert survey(open_data("classify", spec), quick=True).warnings == [told]


def test_shards_are_surveyed_as_folders_are(tmp_path):
    with tarfile.open(tmp_path / "train-0.tar", "w") as train, tarfile.open(tmp_path / "val-0.tar", "w") as val:
        for archive, low in ((train, 0), (val, 300)):
            for number in range(4):
                file = io.BytesIO()
                Image.fromarray(np.array([[0, 4000 - low - 600 * number]], np.uint16)).save(file, "PNG")
                add(archive, f"{number}.png", file.getvalue())
                add(archive, f"{number}.cls", str(number % 2).encode())
    (tmp_path / "classes.txt").write_text("a\nb\n")
    found = survey(open_data("classify", f"webdataset:{tmp_path}"))
    assert found.splits["train"].kinds == {"PNG I;16": 4}
    assert found.splits["train"].values == {"0 to 65535": [0, 4000]}
    used = "use 0 to 4000 alone; --data.value_range 0 4000 would use it"
    assert found.warnings[0] == f"the first 4 images of train of values from 0 to 65535 {used}"
    assert found.duplicates == {}
    data = open_data("classify", f"webdataset:{tmp_path}", Options(value_range=(0, 4000)))
    assert survey(data).warnings == []

"""Label maps in folders, and how broken files are told."""

import shutil

import numpy as np
import PIL.features
import PIL.Image
import pytest
import torch
from generated import tiff
from mask_folders import binary, open_root, save, tiny

from involution.data.errors import DataError
from involution.data.label_code import IGNORED
from involution.data.registry import Options, open_data


@pytest.fixture
def masks(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for i in range(3):
            save(tmp_path / split / f"{i}.jpg", rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
            labels = rng.integers(0, 3, (20, 30), dtype=np.uint8)
            labels[0] = IGNORED
            save(tmp_path / "labels" / split / f"{i}.png", labels)
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    return tmp_path


def test_folders_of_label_maps(masks):
    data = open_data("segment", f"masks:{masks}")
    assert data.classes == ["sky", "road", "car"]
    assert (len(data.train), len(data.val)) == (3, 3)
    image, labels = data.train[1]
    assert image.shape == (3, 20, 30)
    assert torch.equal(labels, torch.from_numpy(np.array(PIL.Image.open(masks / "labels/train/1.png"))).long())
    assert (labels[0] == IGNORED).all()


BROKEN = {
    "missing": (lambda root: (root / "labels/train/1.png").unlink(), r"train/1\.jpg: no label map"),
    "value": (
        lambda root: save(root / "labels/train/1.png", np.full((20, 30), 7, np.uint8)),
        "label 7 found, but there are 3 classes",
    ),
    "size": (
        lambda root: save(root / "labels/train/1.png", np.zeros((30, 20), np.uint8)),
        r"labels/train/1\.png: 1\.jpg has 30 x 20 pixels, not 20 x 30",
    ),
    "colour": (
        lambda root: save(root / "labels/train/1.png", np.zeros((20, 30, 3), np.uint8)),
        "a label map of one channel, got mode RGB; for maps in colour put the colours into classes",
    ),
    "image": (lambda root: (root / "train/1.jpg").write_bytes(b"x"), r"1\.jpg: not an image"),
    "truncated": (
        lambda root: (root / "labels/train/1.png").write_bytes((root / "labels/train/1.png").read_bytes()[:100]),
        r"labels/train/1\.png: broken",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named_and_refused_or_skipped(masks, name):
    spoil, message = BROKEN[name]
    spoil(masks)
    with pytest.raises(DataError, match=message):
        open_data("segment", f"masks:{masks}")
    data = open_data("segment", f"masks:{masks}", Options(on_problem="skip"))
    assert (len(data.train), len(data.problems)) == (2, 1)
    for i in range(2):
        data.train[i]


def test_incomplete_folders(masks):
    (masks / "classes.txt").write_text("sky\nsky\n")
    with pytest.raises(DataError, match="line 2 repeats 'sky'; wanted different class names"):
        open_data("segment", f"masks:{masks}")
    (masks / "classes.txt").unlink()
    with pytest.raises(DataError, match="wanted the class names"):
        open_data("segment", f"masks:{masks}")


@pytest.mark.parametrize("values", [[0, 255], [0] * 63 + [255]])
def test_255_as_a_class_is_refused_and_can_be_told(tmp_path, values):
    binary(tmp_path, values)
    told = r"the value 255, meaning ignored, covers [\d.]+% of the pixels, and lesion occurs nowhere, .*--data\.values "
    with pytest.raises(DataError, match=told + "'{0: background, 255: lesion}'"):
        open_root(tmp_path)
    data = open_root(tmp_path, values={0: "background", 255: "lesion"})
    assert data.train[0][1].unique().tolist() == [0, 1]
    told = "the value 255 counts, as 'lesion' by data.values; data.ignore_index 255, its default, does not apply"
    assert told in data.findings.notes
    # as a checkpoint's settings were told in its training
    again = open_root(tmp_path, values={0: "background", 255: "lesion"}, given=False)
    assert told not in again.findings.notes
    # without a file of names, and as a command line gives numbers
    (tmp_path / "classes.txt").unlink()
    data = open_root(tmp_path, values={"255": "lesion", "0": "background"})
    assert data.classes == ["lesion", "background"]
    assert data.train[0][1].flatten()[0] == 1


def test_another_value_may_be_the_ignored_one(tmp_path):
    binary(tmp_path, [0, 1, 7])
    with pytest.raises(DataError, match=r"label 7 found, but .* 2 classes \(values 0, 1, 255\); name all classes"):
        open_root(tmp_path)
    assert open_root(tmp_path, ignore_index=7).train[0][1].unique().tolist() == [0, 1, 255]
    assert open_root(tmp_path, values={0: "lesion", 1: "background", 7: None}).train[0][1][0, :3].tolist() == [
        1,
        0,
        255,
    ]
    for options, message in (
        ({"values": {0: "sky"}}, "'sky' is none of the classes background, lesion"),
        ({"values": {0: "background", 1: "lesion"}, "ignore_index": 1}, "values that it is 'lesion'; give one of the"),
        ({"values": {"x": "lesion"}}, "values wants numbers from 0 to 255"),
        ({"values": {300: "lesion"}}, "values wants numbers from 0 to 255"),
        ({"ignore_index": 300}, "ignore_index must be from 0 to 255 or null, got 300"),
        (
            {"values": {0: "lesion", 1: "background"}},
            "which an evaluation takes from the checkpoint, says so: save the",
        ),
        ({"ignore_index": None}, "label 7 found, but there are 2 classes"),
    ):
        with pytest.raises(DataError, match=message):
            open_root(tmp_path, **options)


def test_nothing_to_tell_apart_is_refused_or_allowed(tmp_path):
    binary(tmp_path, [0])
    with pytest.raises(DataError, match="in train no pixel is lesion: there is nothing to tell apart"):
        open_root(tmp_path)
    assert "train: no pixels of 1 (lesion)" in open_root(tmp_path, allow_empty=True).findings.lines()


def test_a_class_that_occurs_nowhere_and_maps_without_a_pixel_that_counts_are_told(tmp_path):
    binary(tmp_path, [0, 1], "background\nlesion\nscar\n")
    tiny(tmp_path, [255], name="void", split="val")
    findings = open_root(tmp_path).findings
    ignored = "the value 255, meaning ignored, covers 50.00% of the pixels"
    assert findings.notes == ["train: no pixels of 1 (scar)", f"val: no pixels of 1 (scar); {ignored}"]
    assert findings.ignored == {"label maps of val in which no pixel counts": ["void.png"]}


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_single_map_of_0_and_255_is_refused_among_maps_of_0_and_1(tmp_path, split):
    binary(tmp_path, [0, 1])
    for number in range(20):
        tiny(tmp_path, [0, 1], name=f"more{number}")
    tiny(tmp_path, [0] * 63 + [255], split, "other")
    told = rf"in {split} the value 255, .*, and label maps hold 0 and it alone: 1 \(other\.png\); .*--data\.values"
    with pytest.raises(DataError, match=told):
        open_root(tmp_path)
    with pytest.raises(DataError, match=told):
        open_root(tmp_path, only=split)
    part = open_root(tmp_path, values={0: "background", 1: "lesion", 255: "lesion"}).split(split)
    assert part[-1 % len(part)][1].unique().tolist() == [0, 1]
    findings = open_root(tmp_path, allow_empty=True).findings
    assert f"{split}: label maps of 0 and 255, meaning ignored, alone: 1 (other.png)" in findings.notes
    # where it was said that 255 does not count
    open_root(tmp_path, values={0: "background", 1: "lesion", 255: None})


def test_three_classes_of_which_one_occurs_nowhere_while_255_does(tmp_path):
    binary(tmp_path, [0, 1, 0, 1], "background\nlesion\nscar\n")
    tiny(tmp_path, [0] * 63 + [255], name="scar")
    with pytest.raises(DataError, match=r"covers 0\.\d\d% .*, and scar occurs nowhere, and label maps hold 0"):
        open_root(tmp_path)
    # beside others it may be the border between objects: told, not refused
    tiny(tmp_path, [0, 1] * 30 + [255], name="scar")
    notes = open_root(tmp_path).findings.notes
    assert "train: no pixels of 1 (scar); the value 255, meaning ignored, covers 0.78% of the pixels" in notes


def test_parts_and_actions_of_cvat_are_told(masks):
    (masks / "labelmap.txt").write_text(HEADING + "sky:0,0,0::\nroad:0,0,255:lane,kerb:\ncar:9,9,9:wheel:drive,park\n")
    (masks / "classes.txt").unlink()
    with pytest.raises(DataError, match="colours are no class's"):
        open_root(masks)
    # without colours their places are the values
    (masks / "labelmap.txt").write_text(HEADING + "sky:::\nroad::lane,kerb:\ncar::wheel:drive,park\n")
    data = open_root(masks)
    assert data.classes == ["sky", "road", "car"]
    assert "labelmap.txt: parts and actions of classes are not read: 2 (road, car)" in data.findings.notes
    for text, said in (
        (
            "sky:0,0,0::\nroad:0,0,255:lane\n",
            r"wanted lines of label:color_rgb:parts:actions, .* got 'road:0,0,255:lane'",
        ),
        ("sky:0,0,0::\nroad:::\ncar:9,9,9::\n", r"'road' has no colour, but most other classes have; wanted one for"),
        ("sky:::\nsky:::\n", "wanted 2 to 255 different class names, got sky, sky"),
    ):
        (masks / "labelmap.txt").write_text(HEADING + text)
        with pytest.raises(DataError, match=said):
            open_root(masks)


def test_subfolders_and_shared_maps(tmp_path):
    binary(tmp_path, [0, 1])
    tiny(tmp_path, [0, 1], name="city/b")
    tiny(tmp_path, [0, 1], name="city/c", suffix="_mask.png")
    save(tmp_path / "labels" / "train" / "old.png", np.zeros((8, 8), np.uint8))
    data = open_root(tmp_path)
    assert [file.name for file, _ in data.train.pairs] == ["a.jpg", "b.jpg", "c.jpg"]
    assert data.findings.ignored == {"label maps of train without an image": ["old.png"]}
    assert data.findings.notes == [
        "train: label maps with an ending of their own: 1 (c_mask.png)",
        "train: label maps that are the same as that of another image: 3 (a.png, b.png, c_mask.png)",
    ]
    save(tmp_path / "train" / "a.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match=r"train/a\.png: shares its label map with a\.jpg"):
        open_root(tmp_path)


LAYOUTS = [
    ("images/{}", "masks/{}", ("train", "val")),
    ("{}/images", "{}/masks", ("train", "val")),
    ("images/{}", "annotations/{}", ("training", "validation")),
    ("{}", "labels/{}", ("Train", "Val")),
    ("{}", "{}_labels", ("train", "val")),
    ("{}", "{}annot", ("train", "val")),
    ("Images/{}2017", "annotations/{}", ("train", "val")),
    ("images/{}", "masks", ("Training", "dev")),
]


@pytest.mark.parametrize(("images", "labels", "splits"), LAYOUTS)
def test_layouts(tmp_path, images, labels, splits):
    for split in splits:
        save(tmp_path / images.format(split) / f"{split}.jpg", np.zeros((8, 8, 3), np.uint8))
        save(tmp_path / labels.format(split) / f"{split}.png", np.resize(np.array([0, 1], np.uint8), (8, 8)))
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    assert open_root(tmp_path).findings.used == {"train": 1, "val": 1}
    assert open_data("segment", str(tmp_path)).classes == ["sky", "road"]


def test_names_of_images_and_labels_may_differ_and_what_has_no_labels_is_told(tmp_path):
    for images, labels in (("Training", "train"), ("Valid", "val"), ("test", None)):
        save(tmp_path / "images" / images / "a.jpg", np.zeros((8, 8, 3), np.uint8))
        if labels:
            save(tmp_path / "labels" / labels / "a.png", np.resize(np.array([0, 1], np.uint8), (8, 8)))
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    findings = open_root(tmp_path).findings
    assert findings.used == {"train": 1, "val": 1}
    assert findings.notes == [f"{tmp_path}: taken images/Training/ as train, images/Valid/ as val"]
    assert findings.ignored == {"folders": ["images/test/ (1 file)"]}
    with pytest.raises(DataError, match="has no test split; it has train, val: choose with --split train or val"):
        open_root(tmp_path, only="test")
    save(tmp_path / "images" / "train_set" / "a.jpg", np.zeros((8, 8, 3), np.uint8))
    save(tmp_path / "images" / "trainset" / "a.jpg", np.zeros((8, 8, 3), np.uint8))
    assert open_root(tmp_path).findings.used == {"train": 1, "val": 1}
    (tmp_path / "images" / "Training").rename(tmp_path / "images" / "other")
    with pytest.raises(
        DataError, match="images/train_set/ and images/trainset/ both stand for train; keep one of them"
    ):
        open_root(tmp_path)


def test_lists_of_pascal_voc(tmp_path):
    for name in "abcdef":
        save(tmp_path / "JPEGImages" / f"{name}.jpg", np.zeros((8, 8, 3), np.uint8))
        if name != "f":
            save(tmp_path / "SegmentationClass" / f"{name}.png", np.resize(np.array([0, 1], np.uint8), (8, 8)))
    save(tmp_path / "SegmentationObject" / "a.png", np.zeros((8, 8), np.uint8))
    (tmp_path / "labelmap.txt").write_text("sky\nroad\n")
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text("a\nb\nc\nd\ne\n")
    # those of the boxes are no label maps
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text("<annotation/>")
    data = open_root(tmp_path, split_by="draw")
    assert data.findings.used == {"train": 4, "val": 1}
    assert data.findings.ignored == {
        "images outside the folders of the splits": ["JPEGImages/f.jpg"],
        "folders": ["Annotations/ (1 file)", "SegmentationObject/ (1 file)"],
    }
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("c\n")
    findings = open_root(tmp_path).findings
    assert findings.used == {"train": 2, "val": 1}
    assert findings.ignored["other files"] == ["ImageSets/Segmentation/default.txt"]
    assert findings.ignored["images outside the folders of the splits"][0] == "JPEGImages/d.jpg"
    assert open_root(tmp_path, only="val").findings.used == {"val": 1}
    with pytest.raises(DataError, match="has no test split; it has train, val"):
        open_root(tmp_path, only="test")
    (lists / "val.txt").write_text("c\nnone\n")
    with pytest.raises(DataError, match=r"val\.txt: none: no such image in JPEGImages/"):
        open_root(tmp_path)
    (lists / "val.txt").unlink()
    data = open_root(tmp_path)
    assert data.findings.used == {"train": 1, "val": 1}
    assert f"{tmp_path}: no images of val; 20% of train become val" in data.findings.notes[0]
    (lists / "train.txt").rename(lists / "val.txt")
    with pytest.raises(DataError, match=r"no list of train; wanted train\.txt and val\.txt"):
        open_root(tmp_path)


def test_pascal_voc_as_it_is_unpacked_is_told_what_it_lacks(tmp_path):
    save(tmp_path / "JPEGImages" / "a.jpg", np.zeros((8, 8, 3), np.uint8))
    save(tmp_path / "SegmentationClass" / "a.png", np.resize(np.array([0, 1], np.uint8), (8, 8)))
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text("<annotation/>")
    with pytest.raises(DataError) as stop:
        open_data("segment", str(tmp_path))
    assert str(stop.value).endswith(
        f"; SegmentationClass/ has label maps: write the names of their classes into {tmp_path}/classes.txt, one per "
        f"line in the order of the values from 0, and it is --data masks:{tmp_path}"
    )
    with pytest.raises(DataError, match=r"or --data\.values '\{0: background, 1: lesion\}'"):
        open_root(tmp_path)
    (tmp_path / "SegmentationClass" / "a.png").rename(tmp_path / "SegmentationClass" / "a.txt")
    with pytest.raises(DataError) as stop:
        open_data("segment", str(tmp_path))
    assert "has label maps" not in str(stop.value)


def test_maps_named_by_the_whole_name_of_the_image(tmp_path):
    binary(tmp_path, [0, 1])
    for split in ("train", "val"):
        (tmp_path / "labels" / split / "a.png").rename(tmp_path / "labels" / split / "a.jpg.png")
    assert open_root(tmp_path).findings.used == {"train": 1, "val": 1}


def test_one_set_is_split_by_chance(tmp_path):
    for i in range(10):
        save(tmp_path / "images" / f"{i}.jpg", np.zeros((8, 8, 3), np.uint8))
        save(tmp_path / "masks" / f"{i}.png", np.resize(np.array([0, 1], np.uint8), (8, 8)))
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    data = open_root(tmp_path, split_by="draw")
    assert data.findings.used == {"train": 8, "val": 2}
    assert "split 80 / 20" in data.findings.notes[0]
    assert open_root(tmp_path, only="val").findings.used == {"val": 10}


def test_exif_turns_image_and_map_alike_or_is_named(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    labels = np.zeros((8, 6), np.uint8)
    labels[:4] = 1
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        PIL.Image.new("RGB", (8, 6)).save(tmp_path / split / "a.jpg", exif=exif)
        save(tmp_path / "labels" / split / "a.png", labels)
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    image, found = open_root(tmp_path).train[0]
    assert image.shape[1:] == found.shape == (8, 6)
    save(tmp_path / "labels" / "train" / "a.png", labels.T)
    with pytest.raises(DataError, match=r"EXIF orientation 6 turns it; .*--data\.exif ignore"):
        open_root(tmp_path)
    save(tmp_path / "labels" / "val" / "a.png", labels.T)
    assert open_root(tmp_path, exif="ignore").train[0][0].shape == (3, 6, 8)


def test_an_image_that_a_list_names_twice_is_used_once(tmp_path):
    for name in "abc":
        save(tmp_path / "JPEGImages" / f"{name}.png", np.zeros((8, 8, 3), np.uint8))
        save(tmp_path / "SegmentationClass" / f"{name}.png", np.resize(np.array([0, 1], np.uint8), (8, 8)))
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\na\n")
    (lists / "val.txt").write_text("c\n")
    with pytest.raises(DataError, match=r"train\.txt: a: is named twice"):
        open_root(tmp_path)
    assert open_root(tmp_path, on_problem="skip").findings.used == {"train": 2, "val": 1}


HEADING = "# label:color_rgb:parts:actions\n"


def test_lists_of_classes_that_differ_are_refused(masks):
    (masks / "labelmap.txt").write_text(HEADING + "sky:0,0,0::\nroad:0,0,255::\ncar:9,9,9::\n")
    assert open_root(masks).classes == ["sky", "road", "car"]
    (masks / "labelmap.txt").write_text("road:0,0,0::\nsky:0,0,255::\ncar:9,9,9::\n")
    with pytest.raises(
        DataError, match=r"classes\.txt and labelmap\.txt name the classes differently; keep one of them"
    ):
        open_root(masks)


def test_val_is_cut_from_train_where_there_is_none(masks):
    for folder in (masks, masks / "labels"):
        (folder / "val").rename(folder / "test")
    data = open_root(masks, allow_empty=True)
    assert list(data.findings.used) == ["train", "val", "test"]
    assert any("no images of val; 20% of train become val" in note for note in data.findings.notes)
    shutil.rmtree(masks / "labels" / "test")
    (masks / "test").rename(masks / "val")
    with pytest.raises(DataError, match="no images in val/ with label maps"):
        open_root(masks)


def test_label_maps_that_are_one_and_the_same_are_told(masks):
    for name in ("1.png", "2.png"):
        shutil.copy(masks / "labels" / "train" / "0.png", masks / "labels" / "train" / name)
    notes = open_root(masks).findings.notes
    assert "train: label maps that are the same as that of another image: 3 (0.png, 1.png, 2.png)" in notes
    # where there is one class alone they may well be
    for file in (masks / "labels" / "val").iterdir():
        save(file, np.zeros((20, 30), np.uint8))
    assert not any("val: label maps that are the same" in note for note in open_root(masks).findings.notes)


def test_maps_whose_zero_is_white_are_refused(masks):
    (masks / "labels/train/1.png").unlink()
    tiff(masks / "labels/train/1.tif", np.zeros((20, 30), np.uint8), 0)
    with pytest.raises(DataError, match=r"1\.tif: a label map in TIFF whose 0 is white, so that its values are unsure"):
        open_data("segment", f"masks:{masks}")
    tiff(masks / "labels/train/1.tif", np.ones((20, 30), np.uint8), 1)
    assert open_data("segment", f"masks:{masks}").train[1][1].unique().tolist() == [1]

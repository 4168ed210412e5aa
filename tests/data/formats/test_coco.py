"""COCO's format: what is read, and how malformed entries are told."""

import copy
import json
import shutil

import numpy as np
import PIL.Image
import pytest
import torch
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO

from involution.data.coco_boxes import TAKEN
from involution.data.errors import DataError
from involution.data.registry import Options, open_data
from involution.data.run_lengths import decode_mask, expand

SQUARE = [[10, 5, 30, 5, 30, 25, 10, 25]]
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}, {"id": 13, "name": "stop sign"}]


def annotation(key, image, category, box, segmentation, iscrowd=0):
    return {
        "id": key,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "segmentation": segmentation,
        "area": box[2] * box[3],
        "iscrowd": iscrowd,
    }


def content(split):
    first, count = (1, 3) if split == "train" else (100, 2)
    column = {"size": [48, 64], "counts": [0, 48, 3024]}
    return {
        "images": [{"id": first + i, "file_name": f"{i}.png", "width": 64, "height": 48} for i in range(count)],
        "annotations": [
            annotation(1, first, 90, [10, 5, 20, 20], SQUARE),
            annotation(2, first, 1, [40, 30, 24.5, 18], SQUARE),
            annotation(3, first, 1, [0, 0, 9, 9], column, iscrowd=1),
            annotation(4, first + 1, 13, [0, 0, 9, 9], column),
        ],
        "categories": CATEGORIES,
    }


@pytest.fixture
def root(tmp_path):
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"{split}2017").mkdir()
        for i in range(3):
            pixels = np.full((48, 64, 3), i * 40, np.uint8)
            PIL.Image.fromarray(pixels).save(tmp_path / f"{split}2017" / f"{i}.png")
        write(tmp_path, split, content(split))
    return tmp_path


def write(root, split, data):
    (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(data))


def open_root(root, **options):
    return open_data("detect", f"coco:{root}", Options(**options))


def test_reads_boxes_labels_and_masks(root):
    data = open_root(root, masks=True)
    assert data.category_ids == [1, 13, 90]
    assert data.classes == ["person", "stop sign", "toothbrush"]
    assert data.findings.used == {"train": 3, "val": 2}
    dataset = data.train
    assert len(dataset) == 3
    image, target = dataset[0]
    assert image.shape == (3, 48, 64)
    assert image.dtype == torch.uint8
    # the crowd is left out, the box beyond the border cut
    assert target["boxes"].tolist() == [[10, 5, 30, 25], [40, 30, 64, 48]]
    assert target["labels"].tolist() == [2, 0]
    assert target["image_id"] == 1
    assert target["masks"].shape == (2, 48, 64)
    assert target["masks"][0].sum() == 400
    assert dataset[1][1]["masks"].sum() == 48
    empty = dataset[2][1]
    assert empty["boxes"].shape == (0, 4)
    assert empty["masks"].shape == (0, 48, 64)
    assert len(dataset.with_objects()) == 2


def test_masks_are_those_of_pycocotools(root):
    reference = COCO(root / "annotations" / "instances_train2017.json")
    for key in (1, 3, 4):
        annotation = reference.anns[key]
        assert np.array_equal(decode_mask(annotation["segmentation"], 48, 64), reference.annToMask(annotation))


MALFORMED = {
    "missing image": (("images", 2, "file_name", "gone.png"), "image 3: no such file"),
    "path outside": (("images", 2, "file_name", "../0.png"), r"image 3: the same file as image 1: 0\.png"),
    "no width": (("images", 2, "width", 0), "image 3: width and height"),
    "same image id": (("images", 2, "id", 2), "image 2: its id appears twice"),
    "unknown image": (("annotations", 1, "image_id", 77), "annotation 2: unknown image 77"),
    "unknown category": (("annotations", 1, "category_id", 2), "annotation 2: unknown category 2"),
    "out of range": (("annotations", 1, "bbox", [60, 0, 9, 9]), "annotation 2: box .* extends outside"),
    "zero area": (("annotations", 1, "bbox", [6, 0, 0, 9]), "annotation 2: box of zero area"),
    "three numbers": (("annotations", 1, "bbox", [6, 0, 3]), "annotation 2: bbox wants four numbers"),
    "no number": (("annotations", 1, "bbox", [6, 0, 3, float("nan")]), "annotation 2: bbox wants four numbers"),
    "same id": (("annotations", 1, "id", 1), "annotation 1: its id appears twice"),
    "run lengths of another size": (
        ("annotations", 3, "segmentation", {"size": [64, 48], "counts": [0, 48, 3024]}),
        r"annotation 4: run lengths of size \[64, 48\]",
    ),
    "run lengths too short": (
        ("annotations", 3, "segmentation", {"size": [48, 64], "counts": [0, 48]}),
        "annotation 4: run lengths that don't add up",
    ),
    "compressed run lengths too short": (
        ("annotations", 3, "segmentation", {"size": [48, 64], "counts": "zzzzzz"}),
        "annotation 4: run lengths that don't add up",
    ),
    "run lengths without counts": (
        ("annotations", 3, "segmentation", {"size": [48, 64]}),
        "annotation 4: run lengths without counts",
    ),
    "another size": (("images", 2, "height", 47), r"image 3: .* has 64 x 48 pixels, not 64 x 47"),
    "list as image": (("annotations", 1, "image_id", [1]), r"annotation 2: unknown image \[1\]"),
    "list as category": (("annotations", 1, "category_id", [1]), r"annotation 2: unknown category \[1\]"),
    "huge number": (("annotations", 1, "bbox", [6, 0, 3, 10**400]), "annotation 2: bbox wants four numbers"),
    "area in words": (("annotations", 1, "area", "large"), "annotation 2: wanted a number as area"),
    "far out": (
        ("annotations", 1, "segmentation", [[1, 2, 1e12, 4, 5, 6]]),
        "annotation 2: a polygon extends far outside",
    ),
    "no polygon": (("annotations", 1, "segmentation", [[1, 2, 3, 4]]), "annotation 2: no mask"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_entries_are_named_and_refused_or_skipped(root, name):
    (group, index, key, value), message = MALFORMED[name]
    data = content("train")
    data[group][index][key] = value
    write(root, "train", data)
    with pytest.raises(DataError, match=message):
        open_root(root, masks=True)
    data = open_root(root, masks=True, on_problem="skip")
    assert len(data.problems) == 1
    for i in range(len(data.train)):
        data.train[i]


def test_compressed_run_lengths_are_read_as_pycocotools_does():
    rng = np.random.default_rng(0)
    for _ in range(20):
        height, width = rng.integers(1, 400, 2)
        mask = (rng.random((height, width)) < rng.choice([0.01, 0.5, 1.0])).astype(np.uint8)
        text = run_lengths.encode(np.asfortranarray(mask))["counts"].decode()
        runs = expand(text)
        flat = np.repeat(np.arange(len(runs)) % 2, runs)
        assert np.array_equal(flat.reshape(width, height).T, mask)
    # ends within a number; a character that is none of them
    assert expand("o") == expand("~~") == [-1]


def test_all_malformed_entries_are_in_one_report(root):
    data = content("train")
    data["annotations"] = [{**copy.deepcopy(data["annotations"][0]), "id": i, "category_id": 5} for i in range(25)]
    write(root, "train", data)
    with pytest.raises(DataError, match=r"25 problems: train annotation 0: .*annotation 9: .*and 15 more"):
        open_root(root)


def test_annotations_of_a_skipped_image_are_no_problem_of_their_own(root):
    (root / "train2017" / "0.png").unlink()
    data = open_root(root, on_problem="skip")
    assert [problem.entry for problem in data.findings.problems] == ["train image 1"]
    assert len(data.train) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [', "broken JSON"),
        ("[]", "no list of images"),
        ('{"images": [], "annotations": [], "categories": []}', "no categories"),
        ('{"images": [], "annotations": [], "categories": [{"id": "1"}]}', "a category needs"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            "two categories have the id 1",
        ),
        ("[" * 100_000, "broken JSON"),
    ],
)
def test_broken_files_are_refused(root, text, message):
    (root / "annotations" / "instances_train2017.json").write_text(text)
    with pytest.raises(DataError, match=message):
        open_root(root, on_problem="skip")


def test_a_broken_image_is_named(root):
    (root / "train2017" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"image 1: .*0\.png: not an image"):
        open_root(root)


def test_other_categories_in_val_are_refused(root):
    write(root, "val", {**content("val"), "categories": [*CATEGORIES, {"id": 91, "name": "comb"}]})
    with pytest.raises(DataError, match="different categories"):
        open_root(root)


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


def test_the_record_is_the_file_again(root):
    record = open_root(root, masks=True).train.record
    written, read = record.to_coco(), content("train")
    assert written["images"] == read["images"]
    assert written["annotations"] == sorted(read["annotations"], key=lambda item: item["image_id"])
    assert written["categories"] == sorted(CATEGORIES, key=lambda item: item["id"])


def small(count=4, first=1):
    """Annotations of some images of 64 x 48, a box in each."""
    images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 48} for i in range(first, first + count)]
    outline = [[4, 5, 24, 5, 24, 35, 4, 35]]
    boxes = [annotation(i, image["id"], 1, [4, 5, 20, 30], outline) for i, image in enumerate(images, 1)]
    categories = [{"id": 1, "name": "person"}]
    return {"images": images, "annotations": boxes, "categories": categories}


def pictures(folder, numbers, suffix=""):
    folder.mkdir(parents=True, exist_ok=True)
    for i in numbers:
        PIL.Image.new("RGB", (64, 48), (i, i, i)).save(folder / f"{i}{suffix}.png")


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


def test_where_no_image_is_left_the_first_problem_is_told(root):
    data = content("train")
    for image in data["images"]:
        image["width"] = "wide"
    write(root, "train", data)
    with pytest.raises(DataError, match="no usable images in train: train image 1: width and height"):
        open_root(root, on_problem="skip")


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


def test_a_last_part_of_a_name_must_be_unique(root):
    data = content("train")
    data["images"][0]["file_name"] = "/somewhere/0.png"
    write(root, "train", data)
    (root / "train2017" / "more").mkdir()
    PIL.Image.new("RGB", (64, 48)).save(root / "train2017" / "more" / "0.png")
    with pytest.raises(DataError, match=r"train image 1: file_name '/somewhere/0.png' could be any of 2 files"):
        open_root(root)


def test_one_picture_under_two_ids_is_a_problem(root):
    data = content("train")
    data["images"][1]["file_name"] = "0.png"
    write(root, "train", data)
    with pytest.raises(DataError, match=r"train image 2: the same file as image 1: 0\.png"):
        open_root(root)


def test_two_categories_of_one_name_are_refused(root):
    write(root, "train", {**content("train"), "categories": [*CATEGORIES, {"id": 5, "name": "person"}]})
    with pytest.raises(DataError, match="two categories have the name 'person'"):
        open_root(root)


def test_names_that_differ_in_spaces_or_case(root):
    write(root, "train", {**content("train"), "categories": [*CATEGORIES, {"id": 5, "name": "person "}]})
    with pytest.raises(DataError, match="two categories have the name 'person'"):
        open_root(root)
    for split in ("train", "val"):
        write(root, split, {**content(split), "categories": [*CATEGORIES, {"id": 91, "name": "Person"}]})
    notes = open_root(root).findings.notes
    assert "classes whose names differ in case or spaces alone: 'person', 'Person'" in notes


def test_boxes_given_twice_are_told(root):
    data = content("train")
    data["annotations"].append({**data["annotations"][0], "id": 99})
    write(root, "train", data)
    told = "train: boxes given twice, of one class and place, which count twice: 1 (train 0.png)"
    assert told in open_root(root).findings.notes


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


def test_what_is_not_trained_on_is_named(root):
    data = content("train")
    data["annotations"][3]["bbox"] = [5, 5, 0.5, 9]
    write(root, "train", data)
    PIL.Image.new("RGB", (64, 48)).save(root / "train2017" / "extra.png")
    findings = open_root(root).findings
    assert findings.ignored == {
        "images without an entry in the annotations": ["train2017/extra.png", "val2017/2.png"],
        "crowds and difficult objects, not trained on and not counted as misses": ["train 0.png", "val 0.png"],
        "boxes smaller than a pixel, not trained on": ["train 1.png"],
    }


def test_images_without_objects_are_background_or_left_out(root):
    data = open_root(root)
    assert len(data.train) == 3
    assert "train: images without objects, trained on as background: 1 (2.png)" in data.findings.notes
    data = open_root(root, background=False)
    assert (len(data.train), len(data.val)) == (2, 2)
    assert data.findings.ignored["images without objects"] == ["2.png"]
    assert data.findings.used == {"train": 2, "val": 2}


def turned(root, orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    for i in range(3):
        PIL.Image.new("RGB", (48, 64) if orientation > 4 else (64, 48)).save(root / "train2017" / f"{i}.png", exif=exif)


def test_sizes_of_stored_pixels_name_exif(root):
    turned(root, 6)
    assert open_root(root).train[0][0].shape == (3, 48, 64)
    data = content("train")
    for image in data["images"]:
        image |= {"width": 48, "height": 64}
    data["annotations"] = data["annotations"][:1]
    write(root, "train", data)
    with pytest.raises(DataError, match=r"64 x 48 pixels, but .* for 48 x 64: EXIF orientation 6 turns it"):
        open_root(root)
    stored = open_root(root, exif="ignore")
    assert stored.train[0][0].shape == (3, 64, 48)
    assert "train: EXIF orientation ignored: 3 (0.png, 1.png, 2.png)" in stored.findings.notes


def test_a_turn_that_leaves_the_size_is_told(root):
    turned(root, 3)
    notes = open_root(root).findings.notes
    assert notes[0] == (
        "train: turned upright by their EXIF orientation: 3 (0.png, 1.png, 2.png); boxes are taken to fit the upright "
        "images; --data.exif ignore reads the pixels as stored"
    )


@pytest.mark.parametrize("orientation", range(2, 9))
def test_boxes_and_masks_fit_the_upright_images_of_every_orientation(root, orientation):
    turned(root, orientation)
    data = open_root(root, masks=True)
    image, target = data.train[0]
    assert image.shape == (3, 48, 64)
    assert target["boxes"][0].tolist() == [10, 5, 30, 25]
    assert target["masks"][0].sum() == 400
    assert any("turned upright by their EXIF orientation: 3" in note for note in data.findings.notes)


def test_run_lengths_of_stored_pixels_name_exif(root):
    turned(root, 6)
    data = content("train")
    data["annotations"][0]["segmentation"] = {"size": [64, 48], "counts": [0, 48, 3024]}
    write(root, "train", data)
    with pytest.raises(DataError, match=r"size \[64, 48\] for an image of \[48, 64\] .*--data\.exif ignore"):
        open_root(root, masks=True)


def test_a_setting_of_exif_that_does_not_fit_names_the_other(root):
    turned(root, 8)
    with pytest.raises(DataError, match=r"orientation 8 would turn it; .*--data\.exif apply"):
        open_root(root, exif="ignore")


def test_boxes_in_fractions_are_refused(root):
    data = content("train")
    for item in data["annotations"]:
        item["bbox"] = [0.1, 0.2, 0.5, 0.6]
    write(root, "train", data)
    with pytest.raises(DataError, match=r"none of the \d boxes of train is as large as a pixel; are they fractions"):
        open_root(root)


def flat(root, change, count=4):
    """One file of all images, its annotations changed."""
    pictures(root / "images", range(1, count + 1))
    data = small(count)
    for item in data["annotations"]:
        change(item)
    (root / "result.json").write_text(json.dumps(data))


@pytest.mark.parametrize("evidence", ["segmentation", "area"])
def test_boxes_given_by_their_corners_are_refused(tmp_path, evidence):
    def to_corners(item):
        item["bbox"] = [4, 5, 24, 35]
        del item[evidence]

    flat(tmp_path, to_corners)
    with pytest.raises(DataError, match=r"result\.json: .* of 4 annotations these are left, top, right and bottom"):
        open_root(tmp_path)


def test_the_area_of_a_mask_says_nothing_of_its_box(tmp_path):
    def to_mask(item):
        # by chance the mask's area is that of a box between these corners
        item |= {"bbox": [10, 10, 20, 30], "segmentation": {"size": [48, 64], "counts": [0, 200, 2872]}, "area": 200}

    flat(tmp_path, to_mask)
    assert not any("boxes" in note for note in open_root(tmp_path).findings.notes)


def test_small_boxes_at_the_left_and_top_are_taken_as_they_are(tmp_path):
    def to_origin(item):
        item |= {"bbox": [0, 0, 20, 30], "segmentation": [[0, 0, 20, 0, 20, 30, 0, 30]]}

    flat(tmp_path, to_origin)
    assert open_root(tmp_path).findings.notes == [
        f"{tmp_path / 'result.json'}: one set of images, split 80 / 20 into train and val by split_seed 0 "
        "and the images' names, so the shares are approximate"
    ]


def test_boxes_apart_from_their_polygons_and_turned_ones_are_told(tmp_path):
    def spoil(item):
        if item["id"] == 2:
            item["segmentation"] = [[40, 5, 60, 5, 60, 10]]
        if item["id"] == 3:
            item["attributes"] = {"occluded": False, "rotation": 30.0}

    flat(tmp_path, spoil)
    notes = open_root(tmp_path).findings.notes
    assert "all: boxes that do not fit their polygons: 1 (annotation 2)" in notes
    assert f"all: boxes turned by an angle, {TAKEN}: 1 (annotation 3)" in notes


def test_what_is_marked_to_be_ignored_is_no_object(root):
    data = content("train")
    data["annotations"][0]["ignore"] = 1
    write(root, "train", data)
    opened = open_root(root)
    assert [box.crowd for box in opened.train.record.scenes[0].boxes] == [True, False, True]
    names = opened.findings.ignored["crowds and difficult objects, not trained on and not counted as misses"]
    assert names.count("train 0.png") == 2
    data["annotations"][0]["ignore"] = "yes"
    write(root, "train", data)
    with pytest.raises(DataError, match=r"train annotation 1: wanted .* 0 or 1 as iscrowd and ignore"):
        open_root(root)


def test_annotations_with_a_score_are_told(tmp_path):
    pictures(tmp_path / "images", range(1, 5))
    found = small(4)
    found["annotations"][1]["score"] = 0.02
    (tmp_path / "result.json").write_text(json.dumps(found))
    told = "all: annotations with a score, as detections have, all taken as objects: 1 (annotation 2)"
    assert told in open_root(tmp_path).findings.notes


def test_images_with_more_objects_than_are_found_are_told(tmp_path):
    pictures(tmp_path / "images", range(1, 5))
    found = small(4)
    boxes = [annotation(10 + i, 2, 1, [i % 50, i % 37, 9, 9], []) for i in range(99)]
    found["annotations"] += boxes
    (tmp_path / "result.json").write_text(json.dumps(found))
    told = "images with more than 100 objects, while detectors find 100 in an image by default, and COCO's figures"
    assert not [note for note in open_root(tmp_path).findings.notes if told in note]
    found["annotations"].append(annotation(200, 2, 1, [0, 9, 9, 9], []))
    (tmp_path / "result.json").write_text(json.dumps(found))
    (note,) = [note for note in open_root(tmp_path).findings.notes if told in note]
    assert note.endswith("count no more: 1 (2.png)")


def test_key_points_are_told(tmp_path):
    pictures(tmp_path / "images", range(1, 5))
    found = small(4)
    for item in found["annotations"][:2]:
        item["keypoints"] = [3, 4, 2]
    (tmp_path / "result.json").write_text(json.dumps(found))
    assert "all: key points are not used: 2 (annotation 1, annotation 2)" in open_root(tmp_path).findings.notes


def test_what_leaves_too_few_images_to_be_split_is_told(tmp_path):
    pictures(tmp_path / "images", range(1, 5))
    found = small(4)
    for item in found["images"]:
        item["width"] = 640
    (tmp_path / "result.json").write_text(json.dumps(found))
    with pytest.raises(DataError, match=r"4 problems: all image 1: 1\.png has 64 x 48 pixels, not 640 x 48"):
        open_root(tmp_path)
    with pytest.raises(DataError, match=r"0 images are too few for train and val: all image 1: 1\.png has 64 x 48"):
        open_root(tmp_path, on_problem="skip")

"""COCO's format: what is read, and how malformed entries are told."""

import copy
import json

import numpy as np
import pytest
import torch
from coco_sets import CATEGORIES, content, folder_of_coco, open_root, pictures, small, write
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO

from involution.data.errors import DataError
from involution.data.run_lengths import decode_mask, expand


@pytest.fixture
def root(tmp_path):
    return folder_of_coco(tmp_path)


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
    "path outside": (("images", 2, "file_name", "../0.png"), r"image 3: no such file: \.\./0\.png"),
    "no width": (("images", 2, "width", 0), "image 3: width and height"),
    "same image id": (("images", 2, "id", 2), "image 2: its id appears twice"),
    "unknown image": (("annotations", 1, "image_id", 77), "annotation 2: unknown image 77"),
    "id of an image as text": (
        ("annotations", 1, "image_id", "1"),
        "unknown image 1: image_id is text, the image's id",
    ),
    "id of an image with a point": (("annotations", 1, "image_id", 1.0), "image 1.0: ids are whole numbers"),
    "unknown category": (("annotations", 1, "category_id", 2), "annotation 2: unknown category 2"),
    "out of range": (("annotations", 1, "bbox", [60, 0, 9, 9]), "annotation 2: box .* extends outside"),
    "zero area": (("annotations", 1, "bbox", [6, 0, 0, 9]), "annotation 2: box of zero area"),
    "text": (("annotations", 1, "bbox", "[6, 0, 3, 2]"), "annotation 2: bbox wants four numbers, got '.6, 0, 3, 2.'"),
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
    with pytest.raises(DataError, match="different categories: comb is missing in train and has the id 91 in val"):
        open_root(root)
    first, second, *rest = CATEGORIES
    swapped = [{**first, "name": second["name"]}, {**second, "name": first["name"]}, *rest]
    write(root, "val", {**content("val"), "categories": swapped})
    message = (
        f"{first['name']} has the id {first['id']} in train and has the id {second['id']} in val; give each the same"
    )
    with pytest.raises(DataError, match=message):
        open_root(root)


@pytest.mark.parametrize("masks", [False, True])
def test_an_area_that_is_missing_is_that_of_the_mask(root, masks):
    changed = content("train")
    for item in changed["annotations"]:
        del item["area"]
    changed["annotations"][1]["segmentation"] = [[40, 30, 60, 30, 40, 40]]
    # the same column, compressed
    counts = run_lengths.frPyObjects(changed["annotations"][2]["segmentation"], 48, 64)["counts"].decode()
    changed["annotations"][2]["segmentation"] = {"size": [48, 64], "counts": counts}
    write(root, "train", changed)
    data = open_root(root, masks=masks)
    areas = [item["area"] for item in data.train.record.to_coco()["annotations"]]
    assert areas == [400, 100, 48, 48]
    assert any("train: objects without an area, by which COCO's figures" in line for line in data.findings.lines())
    for item in changed["annotations"]:
        item["segmentation"] = []
    write(root, "train", changed)
    areas = [item["area"] for item in open_root(root).train.record.to_coco()["annotations"]]
    assert areas == [400, 24.5 * 18, 81, 81]


def test_the_record_is_the_file_again(root):
    record = open_root(root, masks=True).train.record
    written, read = record.to_coco(), content("train")
    assert written["images"] == read["images"]
    assert written["annotations"] == sorted(read["annotations"], key=lambda item: item["image_id"])
    assert written["categories"] == sorted(CATEGORIES, key=lambda item: item["id"])


def test_where_no_image_is_left_the_first_problem_is_told(root):
    data = content("train")
    for image in data["images"]:
        image["width"] = "wide"
    write(root, "train", data)
    with pytest.raises(DataError, match="no usable images in train: train image 1: width and height"):
        open_root(root, on_problem="skip")


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
    assert "classes whose names differ in case, spaces, marks or look-alike letters alone: 'person', 'Person'" in notes


def test_what_leaves_too_few_images_to_be_split_is_told(tmp_path):
    pictures(tmp_path / "images", range(1, 5))
    found = small(4)
    for item in found["images"]:
        item["width"] = 640
    (tmp_path / "result.json").write_text(json.dumps(found))
    with pytest.raises(DataError, match=r"4 problems: all image 1: 1\.png has 64 x 48 pixels, not 640 x 48"):
        open_root(tmp_path)
    with pytest.raises(DataError, match=r"4 problems: all image 1: 1\.png has 64 x 48.*: 0 images are too few"):
        open_root(tmp_path, on_problem="skip")


def test_a_data_set_of_crowds_alone_says_so(root):
    # as CVAT marks every mask of its brush
    for split in ("train", "val"):
        changed = content(split)
        for item in changed["annotations"]:
            item["iscrowd"] = 1
        write(root, split, changed)
    with pytest.raises(
        DataError, match=r"no images with annotations but crowds and difficult objects \(iscrowd, ignore"
    ):
        open_root(root)

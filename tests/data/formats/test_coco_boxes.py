"""COCO's format: boxes that are not used, or mean something else than they say."""

import json

import numpy as np
import PIL.Image
import pytest
from coco_sets import annotation, content, folder_of_coco, open_root, pictures, small, write
from pycocotools import mask as run_lengths

from involution.data.coco_boxes import TAKEN
from involution.data.errors import DataError


@pytest.fixture
def root(tmp_path):
    return folder_of_coco(tmp_path)


def test_boxes_given_twice_are_told(root):
    data = content("train")
    data["annotations"].append({**data["annotations"][0], "id": 99})
    write(root, "train", data)
    told = "train: boxes given twice, of one class and place, which count twice: 1 (train 0.png)"
    assert told in open_root(root).findings.notes


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
        "images of which no object is trained on": ["1.png"],
    }


def test_images_without_objects_are_background_or_left_out(root):
    data = open_root(root)
    assert len(data.train) == 3
    assert "train: images without objects, trained on as background: 1 (2.png)" in data.findings.notes
    data = open_root(root, background=False)
    assert (len(data.train), len(data.val)) == (2, 2)
    assert data.findings.ignored["images without objects"] == ["2.png"]
    assert data.findings.used == {"train": 2, "val": 2}


def test_segmentations_that_are_no_polygons_are_told(root):
    assert not any("segmentations" in note for note in open_root(root).findings.notes)
    data = content("train")
    data["annotations"][0]["segmentation"] = [10, 5, 30, 5, 30, 25]
    data["annotations"][1]["segmentation"] = [[10, 5, 30, 5]]
    write(root, "train", data)
    told = "train: segmentations that are no lists of polygons of three points or more, which no mask can be made of: 2"
    assert any(note.startswith(told) for note in open_root(root).findings.notes)


def test_ids_of_images_as_text_are_told(root):
    data = content("train")
    for item in data["images"]:
        item["id"] = str(item["id"])
    write(root, "train", data)
    with pytest.raises(DataError, match="image 1: no whole number as id"):
        open_root(root)
    data["images"][0]["id"] = 1
    write(root, "train", data)
    with pytest.raises(DataError, match="unknown image 2: image_id is a number, the image's id is text; write both"):
        open_root(root)


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


def lengths_of(*parts):
    """Compressed run lengths of rectangles: left, top, right, bottom."""
    mask = np.zeros((48, 64), np.uint8, order="F")
    for left, top, right, bottom in parts:
        mask[top:bottom, left:right] = 1
    return {"size": [48, 64], "counts": run_lengths.encode(mask)["counts"].decode()}


@pytest.mark.parametrize("evidence", ["polygon", "area", "run lengths"])
def test_boxes_given_by_their_corners_are_refused(tmp_path, evidence):
    def to_corners(item):
        item["bbox"] = [4, 5, 24, 35]
        del item["segmentation" if evidence == "area" else "area"]
        if evidence == "run lengths":
            item["segmentation"] = lengths_of((4, 5, 24, 35))

    flat(tmp_path, to_corners)
    with pytest.raises(DataError, match=r"result\.json: .* of 4 annotations these are left, top, right and bottom"):
        open_root(tmp_path)


def test_the_area_of_a_mask_says_nothing_of_its_box(tmp_path):
    def to_mask(item):
        # by chance the mask's area is that of a box between these corners
        lengths = lengths_of((10, 10, 20, 20), (20, 30, 30, 40))
        item |= {"bbox": [10, 10, 20, 30], "segmentation": lengths, "area": 200}

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


def test_boxes_apart_from_their_masks_and_turned_ones_are_told(tmp_path):
    def spoil(item):
        if item["id"] == 1:
            item["segmentation"] = lengths_of((40, 5, 60, 10))
        if item["id"] == 4:
            # no pixel at all
            item["segmentation"] = {"size": [48, 64], "counts": [48 * 64]}
        if item["id"] == 2:
            item["segmentation"] = [[40, 5, 60, 5, 60, 10]]
        if item["id"] == 3:
            item["attributes"] = {"occluded": False, "rotation": 30.0}

    flat(tmp_path, spoil)
    notes = open_root(tmp_path).findings.notes
    assert "all: boxes that do not fit their masks: 2 (annotation 1, annotation 2)" in notes
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


def test_fields_that_are_not_read_are_told(tmp_path):
    def more(item):
        item |= {"track_id": 7, "attributes": {"occluded": item["id"] > 2, "rotation": 0}, "num_keypoints": 0}

    flat(tmp_path, more)
    found = json.loads((tmp_path / "result.json").read_text())
    found |= {"info": {"year": 2026}, "videos": [{"id": 1}]}
    found["images"][0] |= {"license": 1, "weather": "rain"}
    found["categories"][0] |= {"supercategory": "animal", "isthing": 1}
    (tmp_path / "result.json").write_text(json.dumps(found))
    notes = open_root(tmp_path).findings.notes
    assert notes[:4] == [
        "all: fields of the file that are not read: videos (1)",
        "all: fields of images that are not read: weather (1)",
        "all: fields of annotations that are not read: track_id (4), attributes.occluded (2)",
        "all: fields of categories that are not read: isthing (1)",
    ]


def test_boxes_of_another_mode_are_malformed(tmp_path):
    flat(tmp_path, lambda item: item.update(bbox_mode=item["id"] % 2))
    with pytest.raises(DataError, match=r"2 problems: all annotation 2: bbox_mode 0: wanted left, top, width"):
        open_root(tmp_path)


def test_the_splits_that_images_name_are_taken(tmp_path):
    flat(tmp_path, lambda item: None, count=6)
    found = json.loads((tmp_path / "result.json").read_text())
    for image, split in zip(found["images"], ("train", "train", "validation", "test", "train2017", "val"), strict=True):
        image["split"] = split
    (tmp_path / "result.json").write_text(json.dumps(found))
    data = open_root(tmp_path)
    assert data.findings.used == {"train": 3, "val": 2, "test": 1}
    assert f"{tmp_path / 'result.json'}: splits as its images say" in data.findings.notes
    assert [scene.id for scene in open_root(tmp_path, only="test").test.record.scenes] == [4]
    found["images"][3]["split"] = "val"
    (tmp_path / "result.json").write_text(json.dumps(found))
    with pytest.raises(DataError, match=r"has no test split; it has train, val"):
        open_root(tmp_path, only="test")
    for image in found["images"]:
        image["split"] = "val"
    (tmp_path / "result.json").write_text(json.dumps(found))
    with pytest.raises(DataError, match=r"none of its images says it is of train, but of val"):
        open_root(tmp_path)
    found["images"][0]["split"] = "restval"
    del found["images"][3]["split"]
    (tmp_path / "result.json").write_text(json.dumps(found))
    with pytest.raises(DataError, match=r"as split of every image, got others for 2 \(1\.png: restval, 4\.png: none\)"):
        open_root(tmp_path)


def test_images_of_another_split_than_their_file_are_told(root):
    data = content("train")
    data["images"][1]["split"] = "val"
    write(root, "train", data)
    told = "train: images that say they are of another split, taken all the same: 1 (1.png)"
    assert told in open_root(root).findings.notes


def test_areas_that_fit_no_box_are_told(tmp_path):
    flat(tmp_path, lambda item: item.update(area=[600, 0, 900, 616][item["id"] - 1]))
    said = "all: areas of 0, or larger than the box, by which COCO's figures count small and large objects: "
    assert f"{said}2 (annotation 2, annotation 3)" in open_root(tmp_path).findings.notes


def test_images_whose_objects_are_malformed_are_no_background(root):
    data = content("train")
    data["annotations"][1]["bbox"] = [60, 0, 90, 9]
    data["annotations"][3]["category_id"] = 5
    write(root, "train", data)
    with pytest.raises(DataError, match="2 problems: train annotation 2"):
        open_root(root)
    found = open_root(root, on_problem="skip")
    assert [scene.file.name for scene in found.train.record.scenes] == ["0.png", "2.png"]
    assert "left out" in found.findings.lines()[-1]
    assert found.findings.ignored["images whose objects are all malformed"] == ["train: 1.png"]
    assert (
        "train: images of which some objects are malformed, left out as if there were nothing in their places: 1 "
        "(0.png)"
    ) in found.findings.notes
    # an evaluation would count what is found there as wrong
    write(root, "val", {**content("val"), "annotations": [{**content("val")["annotations"][3], "bbox": [0, 0, 0, 9]}]})
    assert len(open_root(root, on_problem="skip", only="val").val) == 1


def test_crowds_alone_are_no_background(root):
    data = content("train")
    data["annotations"][3]["iscrowd"] = 1
    write(root, "train", data)
    found = open_root(root)
    assert found.findings.ignored["images of which no object is trained on"] == ["1.png"]
    assert len(found.train) == 2

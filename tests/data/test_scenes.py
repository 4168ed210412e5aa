"""digit-scenes: what is drawn, and what is written."""

import filecmp
import json

import numpy as np
import PIL.Image
import pytest
from sklearn.datasets import load_digits

from involution.data import scenes
from involution.data.arrays import digits_splits
from involution.data.errors import DataError
from involution.data.registry import Options, open_data
from involution.data.scenes import compose_scene, make_digit_scenes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_digit_scenes(tmp_path_factory.mktemp("scenes") / "small", {"train": 40, "val": 10})


def test_is_a_coco_data_set(folder):
    data = open_data("detect", f"digit-scenes:{folder}", Options(masks=True))
    assert data.category_ids == list(range(1, 11))
    assert data.classes == [str(digit) for digit in range(10)]
    for split, size in (("train", 40), ("val", 10)):
        dataset = data.split(split)
        assert len(dataset) == size
        for image, target in dataset:
            assert image.shape == (3, 128, 128)
            assert 2 <= len(target["labels"]) <= 5
            for box, mask in zip(target["boxes"].int().tolist(), target["masks"].numpy(), strict=True):
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                assert box == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_label_maps_are_the_masks(folder):
    val = open_data("detect", f"digit-scenes:{folder}", Options(masks=True)).val
    for scene, (_, target) in zip(val.record.scenes, val, strict=True):
        name = scene.file.name
        labels = np.asarray(PIL.Image.open(folder / "labels" / "val" / name))
        for label, mask in zip(target["labels"].tolist(), target["masks"].numpy(), strict=True):
            assert (labels[mask == 1] == label + 1).all()
        assert (labels > 0).sum() == target["masks"].sum()
    assert (folder / "classes.txt").read_text().split() == ["background", *map(str, range(10))]


def test_same_seed_same_files_and_another_seed_others(folder, tmp_path):
    again = make_digit_scenes(tmp_path / "again", {"train": 40, "val": 10})
    other = make_digit_scenes(tmp_path / "other", {"train": 40, "val": 10}, seed=1)
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 2 * 50 + 3
    assert filecmp.cmpfiles(folder, again, files, shallow=False)[0] == files
    assert not filecmp.cmp(folder / "train" / "000000.png", other / "train" / "000000.png", shallow=False)


def test_no_digit_is_in_both_splits():
    found = scenes._digits_of_splits({"train": 1, "val": 1}, 0)
    train, val = ({image.tobytes() for image in images} for images, _ in found.values())
    everything = {image.tobytes() for image in load_digits().images / 16.0}
    assert not train & val
    assert train | val == everything


def test_digits_have_their_size_and_little_is_covered():
    images, labels = scenes._digits_of_splits({"train": 1, "val": 1}, 0)["train"]
    rng = np.random.default_rng(3)
    counts = set()
    for _ in range(60):
        scene, masks, digits = compose_scene(images, labels, rng)
        assert scene.shape == (128, 128, 3)
        assert scene.dtype == np.uint8
        assert len(masks) == len(digits)
        counts.add(len(digits))
        assert np.stack(masks).sum(0).max() == 1
        # the topmost is whole
        assert 20 <= max(scenes._box(masks[-1])[2:]) <= 48
    assert counts == {2, 3, 4, 5}


def test_made_once_and_never_half(tmp_path, monkeypatch):
    target = make_digit_scenes(tmp_path / "once", {"train": 2, "val": 1})
    before = (target / "train" / "000000.png").stat().st_mtime_ns
    assert make_digit_scenes(target) == target
    assert (target / "train" / "000000.png").stat().st_mtime_ns == before

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dumps", full)
    with pytest.raises(OSError, match="No space"):
        make_digit_scenes(tmp_path / "broken", {"train": 2, "val": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["once"]


def test_digits_of_val_are_the_classifiers_test_digits():
    """So a backbone trained by the recipe `digits` has seen none of them."""
    shown = scenes._digits_of_splits({"train": 1, "val": 1}, 0)["val"][0]
    *learned, test = ({image.numpy().tobytes() for image in part.images[:, 0]} for part in digits_splits(0))
    assert {(image * 255).round().astype(np.uint8).tobytes() for image in shown} == test
    assert not test & (learned[0] | learned[1])


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match="holds something other than the scenes of digits"):
        make_digit_scenes(tmp_path, {"train": 1, "val": 1})
    assert (tmp_path / "classes.txt").read_text() == "cat\ndog\n"

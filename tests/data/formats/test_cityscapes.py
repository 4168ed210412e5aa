import numpy as np
import PIL.Image
import pytest

from involution.data.errors import DataError
from involution.data.label_code import IGNORED
from involution.data.registry import Options, open_data


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)


def test_cityscapes_ids_become_the_19_classes(tmp_path):
    for split in ("train", "val"):
        ids = np.arange(36, dtype=np.uint8).reshape(4, 9)
        ids[3, 8] = 200
        save(tmp_path / "leftImg8bit" / split / "bonn" / "bonn_0_1_leftImg8bit.png", np.zeros((4, 9, 3), np.uint8))
        save(tmp_path / "gtFine" / split / "bonn" / "bonn_0_1_gtFine_labelIds.png", ids)
    data = open_data("segment", f"cityscapes:{tmp_path}")
    assert len(data.classes) == 19
    assert (data.classes[0], data.classes[13], data.classes[18]) == ("road", "car", "bicycle")
    labels = data.val[0][1].flatten()
    # published: road is 7, car 26, bicycle 33; 0 to 6 and caravan, trailer (29, 30) don't count
    assert (labels[7], labels[26], labels[33]) == (0, 13, 18)
    assert (labels[[0, 6, 29, 30, 35]] == IGNORED).all()
    assert (labels != IGNORED).sum() == 19


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="no leftImg8bit/train/"):
        open_data("segment", f"cityscapes:{tmp_path}")


def test_files_of_other_names_are_told(tmp_path):
    ids = np.arange(36, dtype=np.uint8).reshape(4, 9)
    for split in ("train", "val"):
        save(tmp_path / "leftImg8bit" / split / "bonn" / "bonn_0_1_leftImg8bit.png", np.zeros((4, 9, 3), np.uint8))
        for name in ("labelIds", "color", "instanceIds"):
            save(tmp_path / "gtFine" / split / "bonn" / f"bonn_0_1_gtFine_{name}.png", ids)
    save(tmp_path / "leftImg8bit" / "train" / "bonn" / "bonn_2.png", np.zeros((4, 9, 3), np.uint8))
    save(tmp_path / "gtFine" / "train" / "bonn" / "bonn_7_gtFine_labelIds.png", ids)
    ignored = open_data("segment", f"cityscapes:{tmp_path}").findings.ignored
    assert {reason: len(names) for reason, names in ignored.items()} == {
        "files whose names are not CITY/*_leftImg8bit.png or CITY/*_gtFine_labelIds.png": 1,
        "other files of Cityscapes": 4,
        "label maps without an image": 1,
    }


def test_values_of_ones_own_do_not_apply(tmp_path):
    for split in ("train", "val"):
        save(tmp_path / "leftImg8bit" / split / "bonn" / "bonn_0_1_leftImg8bit.png", np.zeros((4, 9, 3), np.uint8))
        ids = np.arange(36, dtype=np.uint8).reshape(4, 9)
        save(tmp_path / "gtFine" / split / "bonn" / "bonn_0_1_gtFine_labelIds.png", ids)
    said = "data.values and data.ignore_index do not apply: Cityscapes' own table has the class of each value"
    assert open_data("segment", f"cityscapes:{tmp_path}", Options(ignore_index=7)).findings.notes[0] == said
    assert said not in open_data("segment", f"cityscapes:{tmp_path}").findings.notes
    # as where the maps of training ids were saved in their place
    for split in ("train", "val"):
        ids = np.zeros((4, 9), np.uint8)
        save(tmp_path / "gtFine" / split / "bonn" / "bonn_0_1_gtFine_labelIds.png", ids)
    with pytest.raises(DataError, match=r"ignored, covers 100\.00% of the pixels(?!.*data\.values)"):
        open_data("segment", f"cityscapes:{tmp_path}")

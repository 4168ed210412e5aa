import pytest
import torch
from generated import image_folder

from involution.data.errors import DataError
from involution.data.registry import open_data


def test_imagenet_uses_meta_names_but_never_unpickles(tmp_path):
    root = image_folder(tmp_path, splits=("train", "val"), classes=("n01", "n02"))
    assert open_data("classify", f"imagenet:{root}").classes == ["n01", "n02"]
    torch.save(({"n01": ("tench", "Tinca tinca"), "n02": ("goldfish",)}, ["n01"]), root / "meta.bin")
    data = open_data("classify", f"imagenet:{root}")
    assert data.classes == ["tench", "goldfish"]
    with pytest.raises(DataError, match="has no test split; use train or val"):
        data.split("test")

    torch.save(Evil(str(tmp_path / "ran")), root / "meta.bin")
    with pytest.raises(DataError, match=r"meta\.bin: not torchvision's class list"):
        open_data("classify", f"imagenet:{root}")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(DataError, match="wanted train/ and val/"):
        open_data("classify", f"imagenet:{root / 'train'}")


def test_names_that_two_classes_share_have_their_number(tmp_path):
    root = image_folder(tmp_path, splits=("train", "val"), classes=("n01", "n02"))
    torch.save(({"n01": ("crane",), "n02": ("tench",), "n03": ("crane", "machine")}, []), root / "meta.bin")
    # of all that the file names, so that a class is called the same in a part of ImageNet
    assert open_data("classify", f"imagenet:{root}").classes == ["crane (n01)", "tench"]


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")

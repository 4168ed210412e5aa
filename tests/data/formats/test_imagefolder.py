import numpy as np
import pytest
from generated import image_folder

from involution.data.errors import DataError
from involution.data.registry import open_data


def sizes(data):
    return [len(part) for part in data.parts.values()]


def test_imagefolder_with_its_own_splits(tmp_path):
    data = open_data("classify", f"imagefolder:{image_folder(tmp_path)}")
    assert data.classes == ["ant", "bee", "cat"]
    assert sizes(data) == [24, 24, 24]
    image, label = data.val[23]
    assert (image.size, image.mode, label) == ((24, 20), "RGB", 2)


def test_imagefolder_without_splits_is_cut_60_20_20(tmp_path):
    image_folder(tmp_path, splits=(".",), per_class=10)
    data = open_data("classify", f"imagefolder:{tmp_path}")
    assert sizes(data) == [18, 6, 6]
    files = [set(part.files) for part in (data.train, data.val, data.test)]
    assert len(set.union(*files)) == 30
    assert np.bincount(data.test.labels).tolist() == [2, 2, 2]


def test_imagefolder_faults(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        open_data("classify", f"imagefolder:{tmp_path / 'none'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no class folders"):
        open_data("classify", f"imagefolder:{tmp_path / 'empty'}")
    root = image_folder(tmp_path / "full")
    (root / "val" / "dog").mkdir()
    with pytest.raises(DataError, match="unknown to the training images: dog"):
        open_data("classify", f"imagefolder:{root}")
    (root / "val" / "dog").rmdir()
    (root / "train" / "ant" / "000.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 24 images.*000\.jpg.*empty"):
        open_data("classify", f"imagefolder:{root}")
    few = image_folder(tmp_path / "few", splits=(".",), per_class=1)
    with pytest.raises(DataError, match="can't split 3 images of 3 classes"):
        open_data("classify", f"imagefolder:{few}")

"""Which folders hold the images and which their labels, by the words of their names."""

import pytest

from involution.data.errors import DataError
from involution.data.findings import Findings
from involution.data.pair_folders import find_pairs


@pytest.mark.parametrize(
    ("names", "images", "labels"),
    [
        (("Original", "Ground Truth"), "Original", "Ground Truth"),
        (("images", "original", "masks", "manual"), "images", "masks"),
        (("imgs", "groundtruth"), "imgs", "groundtruth"),
    ],
)
def test_folders_of_images_and_labels(tmp_path, names, images, labels):
    for name in names:
        (tmp_path / name).mkdir()
    assert find_pairs(tmp_path, Findings()) == {"all": (tmp_path / images, tmp_path / labels)}


def test_two_folders_of_images_are_refused(tmp_path):
    for name in ("images", "photos", "masks"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="images/ and photos/ both stand for the images; keep one of them"):
        find_pairs(tmp_path, Findings())

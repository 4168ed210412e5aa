"""Names of splits, as people and tools write them."""

import itertools

import pytest

from involution.data.errors import DataError
from involution.data.findings import Findings
from involution.data.splits import name_splits, no_split, split_by_name, words_of

NAMES = {
    "train": "train Training TRAIN trainset train_set train2017 train-2024 train_images TrainImages images_train trn "
    "training_data instances_train2014 obj_train_data",
    "val": "val valid Valid validation Validation_Set val2017 valimages dev devset Development dev-data",
    "test": "test Testing testset test2015 test_images tst holdout hold-out hold_out HoldOut held-out heldout_set",
    None: "cat dog training-shoes-store trainer trainval invalid devil contest latest testify images labels 2017 ''",
}


@pytest.mark.parametrize(("split", "name"), [(split, name) for split, names in NAMES.items() for name in names.split()])
def test_words_of_a_name(split, name):
    found = words_of(name)
    assert (found.split if not found.rest else None) == split


def test_words_for_images_and_labels():
    names = ("trainannot", "val_labels", "Masks", "train", "manual", "TrainSegmentations")
    assert [words_of(name).labels for name in names] == ["annot", "labels", "masks", "", "manual", "segmentations"]
    names = ("Ground Truth", "Ground_Truth", "GroundTruth", "ground-truth", "groundtruth", "train_ground_truth")
    assert {(words_of(name).labels, words_of(name).rest) for name in names} == {("groundtruth", ())}
    names = ("train_images", "JPEGImages", "imgs", "Original", "train")
    assert [words_of(name).images for name in names] == ["images", "jpegimages", "imgs", "original", ""]
    assert words_of("train_val").split is None
    assert words_of("pets_train").rest == ("pets",)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("train", "val", "extra"), {"train": "train", "val": "val"}),
        (("trainset", "testset"), {"train": "trainset", "test": "testset"}),
        (("train2024", "val2024"), {"train": "train2024", "val": "val2024"}),
        (("pets_train", "pets_holdout"), {"train": "pets_train", "test": "pets_holdout"}),
        (("train", "train_old", "dev"), {"train": "train", "val": "dev"}),
        (("val", "dev", "train"), {"train": "train", "val": "val"}),
        (("train", "train_labels", "val", "val_labels"), {"train": "train", "val": "val"}),
        (("train station", "bus stop"), {}),
        (("pets_train",), {}),
    ],
)
def test_names_of_splits(names, found):
    findings = Findings()
    assert name_splits(names, "here", findings) == found
    strange = [f"{name}/ as {split}" for split, name in found.items() if name != split]
    assert findings.notes == ([f"here: taken {', '.join(strange)}"] if strange else [])


@pytest.mark.parametrize("names", [("train2014", "train2017"), ("Train", "train"), ("dev", "devset")])
def test_two_names_of_one_split_are_refused(names):
    with pytest.raises(
        DataError, match=f"here: {names[0]} and {names[1]} both stand for (train|val); keep one of them"
    ):
        name_splits(names, "here", Findings())


def test_a_split_that_is_not_there_names_the_option():
    assert str(no_split("here", "test", ["train", "val"])) == (
        "here has no test split; it has train, val: choose with --split train or val"
    )
    assert str(no_split("here", "test", [])) == "here has no test split"


def test_an_added_image_moves_no_other():
    names = [f"{kind}/{number}.jpg" for kind in ("ant", "bee") for number in range(200)]
    labels = [0] * 200 + [1] * 200
    pieces = split_by_name(names, (0.2, 0.2), 0, labels)
    assert sorted(itertools.chain(*pieces)) == list(range(400))
    assert [len(piece) / 400 for piece in pieces] == pytest.approx([0.6, 0.2, 0.2], abs=0.05)
    more = split_by_name([*names, "ant/new.jpg"], (0.2, 0.2), 0, [*labels, 0])
    assert [[index for index in piece if index < 400] for piece in more] == pieces
    # nor does one that is gone, or the order
    assert split_by_name(names[::-1], (0.2, 0.2), 0, labels[::-1]) == [
        sorted(399 - index for index in piece) for piece in pieces
    ]
    assert split_by_name(names, (0.2, 0.2), 1, labels) != pieces
    # as macOS and as Linux spell it
    assert split_by_name(["e\u0301.jpg"] * 9, (0.5,), 0) == split_by_name(["\u00e9.jpg"] * 9, (0.5,), 0)


def test_an_image_that_filled_an_empty_piece_goes_back_and_is_told():
    names, findings = [f"{number}.jpg" for number in range(4)], Findings()
    drawn = split_by_name([*names, *(f"{number}.png" for number in range(40))], (0.2, 0.2), 3)
    pieces = split_by_name(names, (0.2, 0.2), 3, findings=findings)
    moved = [index for piece, own in zip(pieces, drawn, strict=True) for index in piece if index not in own]
    assert moved
    assert findings.notes == [
        "images that fill a split without others, and go back to their own once it has some: "
        f"{len(moved)} ({', '.join(names[index] for index in sorted(moved))})"
    ]
    # what is where its name puts it is not worth a line
    findings = Findings()
    split_by_name([*names, *(f"{number}.png" for number in range(40))], (0.2, 0.2), 3, findings=findings)
    assert findings.notes == []


@pytest.mark.parametrize("seed", range(20))
def test_no_piece_of_a_small_class_is_empty(seed):
    names = [f"{number}.jpg" for number in range(9)]
    pieces = split_by_name(names, (0.2, 0.2), seed, [0, 0, 0, 1, 1, 1, 2, 2, 2])
    assert [sorted(index // 3 for index in piece) for piece in pieces] == [[0, 1, 2]] * 3
    with pytest.raises(DataError, match="wanted 3 or more of each, got class 1 2; add images of these"):
        split_by_name(names, (0.2, 0.2), seed, [0, 0, 0, 0, 0, 0, 0, 1, 1])

"""What exported files say of themselves, and what is refused."""

import json
import re

import pytest

from involution.engine.loading import load
from involution.export import ExportError, Metadata
from involution.export import metadata as module
from involution.export.metadata import preprocessing, read_metadata


def made(**changes):
    values = {
        "task": "classify",
        "model": "rednet_nano",
        "classes": ["ant", "bee ✓"],
        "category_ids": [],
        "preprocessing": {
            "in_graph": [],
            "channels": "RGB",
            "resize": 30,
            "longest": None,
            "crop": 24,
            "multiple_of": None,
            "interpolation": "bilinear",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
            "exif": "apply",
            "value_range": None,
        },
        "inputs": [{"name": "images", "dtype": "float32", "shape": ["batch", 3, 24, 24]}],
        "outputs": ["logits"],
        "license": None,
        "source": "best.ckpt",
        "versions": {"involution": "0.1.0"},
    }
    return Metadata(**{**values, **changes})


def test_it_is_read_as_it_was_written():
    assert read_metadata(made().to_json(), "a.onnx") == made()


def test_the_documented_object_is_the_schema():
    keys = set(re.findall(r'"(\w+)":', module.__doc__))
    found = json.loads(made().to_json())
    assert keys == {*found, *found["preprocessing"], *found["precision"], *found["inputs"][0], "involution", "torch"}


def test_a_file_that_says_nothing_of_its_precision_has_float32():
    found = json.loads(made().to_json())
    del found["precision"], found["most"]
    assert read_metadata(json.dumps(found), "a.onnx") == made()
    with pytest.raises(ExportError, match="has precision"):
        read_metadata(changed(precision={"type": "int3"}), "a.onnx")


@pytest.mark.parametrize("task", ["classify", "grey", "segment"])
def test_the_card_prepares_images_as_the_checkpoint_does(checkpoints, task):
    _, card = load(checkpoints[task])
    found = made(task=card.task, model=card.model, classes=card.classes, preprocessing=preprocessing(card, ())).card()
    for name in ("task", "classes", "input_size", "mean", "std", "interpolation", "category_ids"):
        assert getattr(found, name) == getattr(card, name), name
    if card.task == "classify":
        side = card.input_size[-1]
        assert round(side / found.crop_pct) == round(side / card.crop_pct)


def test_a_reading_of_its_own_is_kept(checkpoints):
    _, card = load(checkpoints["classify"])
    card.recipe["data"] |= {"exif": "ignore", "value_range": [0.0, 4095.0]}
    found = preprocessing(card, ("normalise",))
    assert (found["in_graph"], found["exif"], found["value_range"]) == (["normalise"], "ignore", [0.0, 4095.0])
    assert made(preprocessing=found).card().recipe["data"] == {"exif": "ignore", "value_range": [0.0, 4095.0]}


def changed(**changes):
    return json.dumps({**json.loads(made().to_json()), **changes})


WRONG = {
    "none": (None, r"^a\.onnx: says nothing about its classes and images; wanted a file of `involution export`$"),
    "text": ("{", r"is not JSON: '{'$"),
    "list": ("[1]", r"is no object with a schema"),
    "newer": (changed(schema=2), r"written by a newer involution: schema 2, this version reads up to 1$"),
    "task": (changed(task="paint"), r"what it says of itself has task 'paint'$"),
    "classes": (changed(classes="ant"), r"has classes 'ant'$"),
    "inputs": (changed(inputs=[]), r"has inputs \[\]$"),
    "preprocessing": (changed(preprocessing={}), r"has no preprocessing\.in_graph$"),
    "mean": (changed(preprocessing={**made().preprocessing, "mean": [1]}), r"what it says of itself has 1 means and"),
    "true": (changed(schema=True), r"is no object with a schema"),
    "long": (" " * (module.MOST_BYTES + 1), r"has 16,777,217 characters; at most 16,777,216 are read$"),
    "no crop": (
        changed(preprocessing={**made().preprocessing, "crop": None}),
        r"has no preprocessing\.crop, which classify needs$",
    ),
    "detector without a size": (
        changed(task="detect", category_ids=[1, 2]),
        r"has no preprocessing\.longest, which det",
    ),
    "range": (
        changed(preprocessing={**made().preprocessing, "value_range": ["a", None]}),
        r"has preprocessing\.value_range \['a', None\]$",
    ),
    "two inputs": (
        changed(inputs=2 * made().inputs),
        r"has inputs \[.*\], which classify has not$|, which classify has not$",
    ),
    "flat": (changed(inputs=[{**made().inputs[0], "shape": ["batch", 3]}]), r", which classify has not$"),
    "huge": (
        changed(preprocessing={**made().preprocessing, "resize": 10**9, "crop": 10**9}),
        r"wanted sides from 1 to",
    ),
    "other task": (changed(task="segment"), r"^a\.onnx: made for the task 'segment', wanted classify$"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_in_one_line(case):
    text, message = WRONG[case]
    with pytest.raises(ExportError, match=message) as told:
        read_metadata(text, "a.onnx", "classify")
    assert "\n" not in str(told.value)

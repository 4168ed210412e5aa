"""The card: its format, what older ones become, and what is refused."""

import math
from pathlib import Path

import pytest
import torch

from involution.engine import card as card_module
from involution.engine.card import FORMAT, ModelCard, migrate
from involution.models import CheckpointError

OLD = Path(__file__).parent / "checkpoints_0_1_0"


def old(task="classify"):
    return torch.load(OLD / f"{task}-best.ckpt", weights_only=True)["involution"]


@pytest.mark.parametrize("task", ["classify", "detect", "segment"])
def test_there_and_back(task):
    card = ModelCard.from_dict(old(task))
    assert card.task == task
    assert len(card.classes) == (11 if task == "segment" else 10)
    written = card.to_dict()
    assert written["format"] == FORMAT == 1
    assert ModelCard.from_dict(written) == card


def test_what_a_newer_version_added_within_a_format_is_left_out():
    assert ModelCard.from_dict({**old(), "licence": "mit"}) == ModelCard.from_dict(old())


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        ("0.9.2", r'pip install "involution>=0\.9\.2"$'),
        ("x; rm", "pip install --upgrade involution$"),
        (3, "--upgrade"),
    ],
)
def test_a_newer_format_is_refused_with_the_version_to_install(version, wanted):
    newer = {**old(), "format": FORMAT + 1, "versions": {"involution": version}}
    with pytest.raises(CheckpointError, match=f"written by a newer involution: its card has format 2, .*{wanted}"):
        ModelCard.from_dict(newer)


@pytest.mark.parametrize("number", [-1, 1.0, "1", True, None])
def test_a_format_that_is_no_number(number):
    with pytest.raises(CheckpointError, match=r"its card has format .*, wanted a number from 0 to 1"):
        ModelCard.from_dict({**old(), "format": number})


def test_renamed_settings(monkeypatch):
    names = {"data.spec": "data.source", "optimizer.lr": "optimizer.rate.peak", "seed": None, "data.none": "data.some"}
    monkeypatch.setitem(card_module.RENAMED, "classify", names)
    before = old()
    recipe = migrate(before)["recipe"]
    assert recipe["data"]["source"] == "digits"
    assert recipe["optimizer"]["rate"] == {"peak": 0.02}
    assert "seed" not in recipe
    assert not {"spec", "none", "some"} & set(recipe["data"])
    # the file's own stays as it is, and today's recipes are not touched
    assert before == old()
    assert migrate({**before, "format": FORMAT})["recipe"] == before["recipe"]


def test_pretrained_of_0_1_0_is_dropped():
    card = old()
    card["model_args"]["pretrained"] = True
    card["recipe"]["model"]["args"]["pretrained"] = True
    assert ModelCard.from_dict(card) == ModelCard.from_dict(old())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": None}, "has classes None, wanted class names"),
        ({"classes": []}, "wanted class names"),
        ({"classes": ["a", 3]}, "wanted class names"),
        ({"model": None}, "has model None, wanted a network's name"),
        ({"model": "a\x1b[31m"}, r"'a\\x1b\[31m', wanted a network's name"),
        ({"task": ""}, "wanted a task's name"),
        ({"model_args": [1]}, "wanted arguments by name"),
        ({"model_args": {"a": {3: 1}}}, "its card has keys that are not words"),
        ({"model_args": {"a": torch.zeros(1)}}, "its card is of type Tensor, wanted numbers, words"),
        ({"input_size": (1, 0, 16)}, r"has input_size \(1, 0, 16\), wanted sides from 1 to 7000"),
        ({"input_size": (1, 10**6, 10**6)}, "wanted sides from 1 to 7000 pixels"),
        ({"input_size": (1, 16)}, "wanted channels, height and width"),
        ({"input_size": (1, 16.0, 16)}, "wanted channels, height and width"),
        ({"mean": [0.5, 0.5]}, "has 2 means and 1 deviations for 1 channels"),
        ({"mean": "half"}, "wanted a number for each channel"),
        ({"std": [0.0]}, "wanted a number greater than 0"),
        ({"std": [math.inf]}, "its card is inf, wanted a finite number"),
        ({"crop_pct": math.nan}, "its card is nan, wanted a finite number"),
        ({"crop_pct": 0}, "wanted a number from 0.01 to 1"),
        ({"interpolation": "lanczos"}, "wanted bilinear or bicubic"),
        ({"interpolation": []}, "wanted bilinear or bicubic"),
        ({"position": "x"}, "has position 'x', wanted the epoch and batch"),
        ({"position": [1, -1]}, "wanted the epoch and batch"),
        ({"category_ids": [1]}, "has 1 category ids for 10 classes"),
        ({"recipe": "digits"}, "wanted settings by name"),
        ({"recipe": {"data": "digits"}}, r"has recipe\.data 'digits', wanted settings by name"),
        ({"recipe": {"data": {"spec": 3}}}, r"has recipe\.data\.spec 3, wanted a data set"),
        ({"recipe": {"data": {"exif": ["apply"]}}}, r"recipe\.data\.exif \['apply'\], wanted apply or ignore"),
        ({"recipe": {"model": [3]}}, r"has recipe\.model \[3\], wanted settings by name"),
        ({"recipe": {"model": {"args": "x"}}}, r"has recipe\.model\.args 'x', wanted arguments by name"),
        *(
            (
                {"recipe": {"data": {"value_range": value}}},
                r"has recipe\.data\.value_range .*, wanted two finite numbers",
            )
            for value in ("ab", 5, ["a", "b"], [1], [1, 2, 3], [5, 1], [3, 3], [0, 1e40], [True, 2], {"0": 1})
        ),
        ({"recipe": {"data": {"value_range": [0, math.inf]}}}, "its card is inf, wanted a finite number"),
        ({"versions": {"torch": 2}}, "wanted versions by name"),
        ({"classes": 10**400}, "has a whole number beyond"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(CheckpointError, match=message):
        ModelCard.from_dict({**old(), **changes})


def test_deep_and_circular_values_end():
    deep = []
    for _ in range(5000):
        deep = [deep]
    circle = {}
    circle["again"] = circle
    for value in (deep, circle, {"wide": [0] * 2_000_000}):
        with pytest.raises(CheckpointError, match="its card is too large or too deep"):
            ModelCard.from_dict({**old(), "model_args": {"x": value}})

"""The card in a checkpoint: what the network is and how its images are prepared.

The format has a number. A card in an older format is migrated step by step; one in a newer format is refused. A setting
that is renamed or removed is entered in `RENAMED`, so that older checkpoints keep working.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

from involution.engine.settings import LARGEST_SIDE
from involution.plain import CheckpointError, plain, shown

# what this version writes; 0 is the format of 0.1.0, which has no number
FORMAT = 1
# task -> settings of format 0 and their names in format 1; None if removed
RENAMED: dict[str, dict[str, str | None]] = {"classify": {}, "detect": {}, "segment": {}}

_LONGEST = 500


@dataclass(frozen=True)
class ModelCard:
    """Everything needed to use a trained network, apart from its weights.

    Attributes:
        task: `classify`, `detect` or `segment`.
        model: name in timm's registry, or of the detector or segmenter.
        model_args: further arguments of its constructor.
        classes: class names in the order of the outputs.
        input_size: (C, H, W); for a detector the shorter side and the limit of the longer one, for a segmenter the
            shorter side twice, or 0 if images keep their size.
        mean: per channel, in units of 0 to 1.
        std: per channel, in units of 0 to 1.
        interpolation: of the resize, bilinear or bicubic.
        crop_pct: the shorter side is resized to H / crop_pct, then the centre is cropped.
        recipe: the settings of the training, as `RunConfig.to_dict` gives them.
        versions: of the libraries used in training.
        category_ids: a detector's category ids in the data set, in the order of the classes.
    """

    task: str
    model: str
    model_args: dict[str, Any]
    classes: list[str]
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    recipe: dict[str, Any]
    versions: dict[str, str]
    category_ids: list[int] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The card as plain types, with the number of its format."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelCard:
        """The card from the result of `to_dict`, of this version or an older one.

        Raises:
            CheckpointError: for a card in a newer format, an incomplete one, or invalid values.
        """
        card = migrate(values)
        missing = [one.name for one in fields(cls) if one.default_factory is MISSING and one.name not in card]
        if missing:
            raise CheckpointError(f"its card is incomplete: {', '.join(missing)} missing")
        for name, (wanted, right) in _SCHEMA.items():
            if name in card and not right(card[name]):
                raise CheckpointError(f"its card has {name} {shown(card[name])}, wanted {wanted}")
        for setting, (wanted, right) in _OF_RECIPE.items():
            value = card["recipe"]
            for part in setting.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            if value is not None and not right(value):
                raise CheckpointError(f"its card has recipe.{setting} {shown(value)}, wanted {wanted}")
        known = {one.name: card[one.name] for one in fields(cls) if one.name in card}
        for name in ("input_size", "mean", "std"):
            known[name] = tuple(known[name])
        made = cls(**known)
        channels = made.input_size[0]
        if (len(made.mean), len(made.std)) != (channels, channels):
            raise CheckpointError(
                f"its card has {len(made.mean)} means and {len(made.std)} deviations for {channels} channels"
            )
        # for a segmenter 0 means that images keep their size
        sides = made.input_size[1:]
        if max(sides) > LARGEST_SIDE or (min(sides) < 1 and made.task != "segment"):
            raise CheckpointError(
                f"its card has input_size {made.input_size}, wanted sides from 1 to {LARGEST_SIDE} pixels"
            )
        if made.category_ids and len(made.category_ids) != len(made.classes):
            raise CheckpointError(f"its card has {len(made.category_ids)} category ids for {len(made.classes)} classes")
        return made


def migrate(values: Mapping[str, Any]) -> dict[str, Any]:
    """A card in any known format, migrated to the current one; the given card is not changed.

    Args:
        values: the card as stored in the file, plain values.

    Raises:
        CheckpointError: for a card in a newer format, or something that is not a card.
    """
    complaint = plain(values)
    if complaint:
        raise CheckpointError(f"its card {complaint}")
    card: dict[str, Any] = deepcopy(dict(values))
    number = card.pop("format", 0)
    if not _integer(number) or number < 0:
        raise CheckpointError(f"its card has format {shown(number)}, wanted a number from 0 to {FORMAT}")
    if number > FORMAT:
        versions = card.get("versions")
        writer = versions.get("involution") if isinstance(versions, dict) else None
        known = isinstance(writer, str) and re.fullmatch(r"\d+(\.\d+){1,3}\w{0,10}", writer)
        wanted = f'pip install "involution>={writer}"' if known else "pip install --upgrade involution"
        raise CheckpointError(
            f"written by a newer involution: its card has format {number}, this version reads up to {FORMAT}; {wanted}"
        )
    for step in _MIGRATIONS[number:]:
        step(card)
    return card


def _from_0(card: dict[str, Any]) -> None:
    recipe = card.get("recipe")
    if isinstance(recipe, dict):
        for old, new in RENAMED.get(str(card.get("task")), {}).items():
            _rename(recipe, old, new)
    data = recipe.get("data") if isinstance(recipe, dict) else None
    if isinstance(data, dict) and "split_seed" in data:
        # there was no other way, and the images must stay where they were
        data.setdefault("split_by", "draw")
        data.setdefault("split_copies", "apart")
    # 0.1.0 passed it on to timm, which would download weights that the checkpoint replaces
    model = recipe.get("model") if isinstance(recipe, dict) else None
    settings = model if isinstance(model, dict) else {}
    for args in (card.get("model_args"), settings.get("args"), settings.get("backbone_args")):
        if isinstance(args, dict) and isinstance(args.get("pretrained"), bool):
            del args["pretrained"]


# the function at index i migrates a card from format i to format i + 1
_MIGRATIONS: list[Callable[[dict[str, Any]], None]] = [_from_0]


def _rename(recipe: dict[str, Any], old: str, new: str | None) -> None:
    """Move a setting, by dotted names; remove it if ``new`` is None."""
    *groups, name = old.split(".")
    source: Any = recipe
    for group in groups:
        source = source.get(group) if isinstance(source, dict) else None
    if not isinstance(source, dict) or name not in source:
        return
    value = source.pop(name)
    if new is not None:
        *groups, name = new.split(".")
        target = recipe
        for group in groups:
            inner = target.setdefault(group, {})
            if not isinstance(inner, dict):
                return
            target = inner
        target[name] = value


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _word(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST and value.isprintable()


def _list(value: Any, right: Callable[[Any], bool], least: int = 1) -> bool:
    return isinstance(value, list | tuple) and len(value) >= least and all(map(right, value))


def _by_name(value: Any, right: Callable[[Any], bool] = lambda _: True) -> bool:
    return isinstance(value, dict) and all(map(right, value.values()))


# field -> what is wanted, and a check for it
_SCHEMA: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "task": ("a task's name", _word),
    "model": ("a network's name", _word),
    "model_args": ("arguments by name", _by_name),
    "classes": ("class names", lambda value: _list(value, lambda one: isinstance(one, str))),
    "input_size": (
        "channels, height and width",
        lambda value: _list(value, _place, 3) and len(value) == 3 and 1 <= value[0] <= 1024,
    ),
    "mean": ("a number for each channel", lambda value: _list(value, _number)),
    "std": (
        "a number greater than 0 for each channel",
        lambda value: _list(value, lambda one: _number(one) and one > 0),
    ),
    "interpolation": ("bilinear or bicubic", lambda value: value in ("bilinear", "bicubic")),
    "crop_pct": ("a number from 0.01 to 1", lambda value: _number(value) and 0.01 <= value <= 1),
    "recipe": ("settings by name", _by_name),
    "versions": ("versions by name", lambda value: _by_name(value, lambda one: isinstance(one, str))),
    "category_ids": ("whole numbers", lambda value: _list(value, _integer, 0)),
    "position": ("the epoch and batch to resume from", lambda value: _list(value, _place, 2) and len(value) == 2),
}


def _range(value: Any) -> bool:
    return _list(value, lambda one: _number(one) and abs(one) < 1e30) and len(value) == 2 and value[0] < value[1]


# what is read of the recipe without its task; a setting that is null or not there has its default
_OF_RECIPE: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "data": ("settings by name", _by_name),
    "data.spec": ("a data set", lambda value: isinstance(value, str)),
    "data.exif": ("apply or ignore", lambda value: value in ("apply", "ignore")),
    "data.value_range": ("two finite numbers, the lower one first", _range),
    "model": ("settings by name", _by_name),
    "model.args": ("arguments by name", _by_name),
}


def _place(value: Any) -> bool:
    return _integer(value) and value >= 0

"""What an exported file says of itself: one JSON object, the same in every format.

::

    {
      "schema": 1,
      "task": "classify",                      classify, segment or detect
      "model": "rednet50",
      "classes": ["tench", ...],               in the order of the outputs
      "category_ids": [],                      of a detector, in the order of the classes
      "preprocessing": {
        "in_graph": [],                        what the graph does itself, with 8-bit pictures; empty: nothing of it.
                                               resize, crop, pad, normalise: as said below; softmax: of the logits;
                                               picture_size: results are for the picture's own pixels
        "channels": "RGB",                     their order; "L" for one channel of grey
        "resize": 256,                         the shorter side in pixels, antialiased; null: images keep their size
        "longest": null,                       of a detector: the longer side gets at most this many pixels
        "crop": 224,                           then the centre square of this side is cut out; null: nothing is
        "multiple_of": null,                   of a detector: zeros are added below and right up to a multiple of this
        "interpolation": "bilinear",           bilinear or bicubic
        "mean": [0.485, 0.456, 0.406],         per channel, where black is 0 and white is 1:
        "std": [0.229, 0.224, 0.225],          input = (value - mean) / std
        "exif": "apply",                       apply: images are turned as their EXIF orientation says; ignore
        "value_range": null                    [low, high] that became black and white, of more than 8 bits
      },
      "inputs": [{"name": "images", "dtype": "float32", "shape": ["batch", 3, 224, 224]}],
      "outputs": ["logits"],
      "precision": {"type": "int8",            float32; int8; or float16 or bfloat16: of the stored weights alone
                    "calibration": "..."},     of int8, what it was calibrated on; else null
      "most": null,                            of a detector: how many objects it finds in an image at most
      "license": "apache-2.0",                 of the weights; null: not known
      "source": "rednet50.paddle_in1k",        file or published name that it was made from
      "versions": {"involution": "0.1.0", "torch": "2.14.1"}
    }
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from involution.data.images import Reading
from involution.export.errors import ExportError
from involution.plain import CheckpointError, shown

if TYPE_CHECKING:
    from involution.engine.card import ModelCard

SCHEMA = 1
KEY = "involution"
"""Name of the entry that holds the JSON."""

KEY_8_BITS = f"{KEY}_8_bits"
"""Name of the entry that says how many involutions are in 8 bits."""

MOST_BYTES = 2**24
STEPS = ("resize", "crop", "pad", "normalise", "softmax", "picture_size")
"""What a graph may do itself of what comes before and after a network."""

FLOAT32 = {"type": "float32", "calibration": None}
"""The precision of a file that says nothing of it."""

IMAGES = 300
"""How many images a file is calibrated on by default."""

WEIGHTS = ("float32", "float16", "bfloat16")
"""Types that weights can be stored as."""

_DTYPES = ("float32", "uint8", "int64")


@dataclass(frozen=True)
class Metadata:
    """What an exported file says of itself; the attributes are those of the JSON object in this module's docstring."""

    task: str
    model: str
    classes: list[str]
    category_ids: list[int]
    preprocessing: dict[str, Any]
    inputs: list[dict[str, Any]]
    outputs: list[str]
    license: str | None
    source: str
    versions: dict[str, str]
    precision: dict[str, Any] = field(default_factory=lambda: dict(FLOAT32))
    most: int | None = None

    def to_json(self) -> str:
        """The JSON object."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, ensure_ascii=False)

    @property
    def in_graph(self) -> bool:
        """Whether the graph takes 8-bit pictures."""
        return bool(self.preprocessing["in_graph"])

    def card(self) -> ModelCard:
        """The card of the checkpoint as far as predictions need it.

        Raises:
            CheckpointError: for values that no card has.
        """
        from involution.engine.card import ModelCard

        found = self.preprocessing
        channels = {"RGB": 3, "L": 1}[found["channels"]]
        resize, crop, longest = found["resize"] or 0, found["crop"], found["longest"]
        sides = (crop, crop) if crop else (resize, longest or resize)
        return ModelCard.from_dict(
            {
                "format": 1,
                "task": self.task,
                "model": self.model,
                "model_args": {},
                "classes": self.classes,
                "input_size": [channels, *sides],
                "mean": found["mean"],
                "std": found["std"],
                "interpolation": found["interpolation"],
                "crop_pct": crop / resize if crop and resize else 1.0,
                "recipe": {"data": {"exif": found["exif"], "value_range": found["value_range"]}},
                "versions": self.versions,
                "category_ids": self.category_ids,
            }
        )


def preprocessing(card: ModelCard, in_graph: Sequence[str], multiple_of: int | None = None) -> dict[str, Any]:
    """How images are prepared, from a checkpoint's card."""
    side, longest = card.input_size[1:]
    reading = Reading.of(card.recipe.get("data", {}))
    crops, pads = card.task == "classify", card.task == "detect"
    return {
        "in_graph": list(in_graph),
        "channels": "L" if card.input_size[0] == 1 else "RGB",
        "resize": (round(side / card.crop_pct) if crops else side) or None,
        "longest": longest if pads else None,
        "crop": side if crops else None,
        "multiple_of": multiple_of,
        "interpolation": card.interpolation,
        "mean": list(card.mean),
        "std": list(card.std),
        "exif": reading.exif,
        "value_range": None if reading.value_range is None else list(reading.value_range),
    }


def read_metadata(text: str | None, path: Any, task: str | None = None) -> Metadata:
    """The metadata of a file, checked.

    Args:
        text: the entry as it is in the file, None where there is none.
        path: the file, for messages.
        task: refuse a file of another task.

    Raises:
        ExportError: if there is none, it is damaged, of a newer version, or of another task.
    """
    if text is None:
        raise ExportError(f"{path}: says nothing about its classes and images; wanted a file of `involution export`")
    if len(text) > MOST_BYTES:
        raise ExportError(
            f"{path}: what it says of itself has {len(text):,} characters; at most {MOST_BYTES:,} are read"
        )
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path}: what it says of itself is not JSON: {shown(text)}") from error
    if not isinstance(found, dict) or type(found.get("schema")) is not int:
        raise ExportError(f"{path}: what it says of itself is no object with a schema: {shown(text)}")
    if found["schema"] > SCHEMA:
        raise ExportError(
            f"{path}: written by a newer involution: schema {found['schema']}, this version reads up to {SCHEMA}"
        )
    found.setdefault("precision", dict(FLOAT32))
    found.setdefault("most", None)
    complaint = _complaint(found)
    if complaint:
        raise ExportError(f"{path}: what it says of itself {complaint}")
    made = Metadata(**{name: found[name] for name in Metadata.__dataclass_fields__})
    try:
        made.card()
    except (CheckpointError, ValueError) as error:
        raise ExportError(f"{path}: {str(error).replace('its card', 'what it says of itself')}") from error
    if task is not None and made.task != task:
        raise ExportError(f"{path}: made for the task {made.task!r}, wanted {task}")
    return made


def _complaint(found: Mapping[str, Any]) -> str | None:
    for name, right in _SCHEMA.items():
        if name not in found or not right(found[name]):
            return f"has {name} {shown(found[name])}" if name in found else f"has no {name}"
    for name, right in _PREPROCESSING.items():
        inner = found["preprocessing"]
        if name not in inner or not right(inner[name]):
            return f"has preprocessing.{name} {shown(inner[name])}" if name in inner else f"has no preprocessing.{name}"
    for name in _SIZES[found["task"]]:
        if found["preprocessing"][name] is None:
            return f"has no preprocessing.{name}, which {found['task']} needs"
    # a detector's size before it was filled up comes beside its image
    wanted = 2 if found["task"] == "detect" and not found["preprocessing"]["in_graph"] else 1
    if len(found["inputs"]) != wanted or len(found["inputs"][0]["shape"]) != 4:
        return f"has inputs {shown(found['inputs'])}, which {found['task']} has not"
    return None


def _words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _side(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0)


def _input(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("name"), str)
        and value.get("dtype") in _DTYPES
        and isinstance(value.get("shape"), list)
        and all(isinstance(size, int | str) and not isinstance(size, bool) for size in value["shape"])
    )


def _range(value: Any) -> bool:
    return value is None or (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(one, int | float) and not isinstance(one, bool) for one in value)
    )


# what of its images' sizes a task must know
_SIZES = {"classify": ("resize", "crop"), "detect": ("resize", "longest"), "segment": ()}
# names -> whether a value is right; what a card has is checked by the card
_SCHEMA = {
    "task": lambda value: value in ("classify", "segment", "detect"),
    "model": lambda value: isinstance(value, str),
    "classes": _words,
    "category_ids": lambda value: isinstance(value, list),
    "preprocessing": lambda value: isinstance(value, dict),
    "inputs": lambda value: isinstance(value, list) and len(value) > 0 and all(map(_input, value)),
    "outputs": _words,
    "license": lambda value: value is None or isinstance(value, str),
    "source": lambda value: isinstance(value, str),
    "versions": lambda value: isinstance(value, dict),
    "most": _side,
    "precision": lambda value: isinstance(value, dict) and value.get("type") in (*WEIGHTS, "int8"),
}
_PREPROCESSING = {
    "in_graph": lambda value: _words(value) and set(value) <= set(STEPS),
    "channels": lambda value: value in ("RGB", "L"),
    "resize": _side,
    "longest": _side,
    "crop": _side,
    "multiple_of": _side,
    "interpolation": lambda value: value in ("bilinear", "bicubic"),
    "mean": lambda value: isinstance(value, list),
    "std": lambda value: isinstance(value, list),
    "exif": lambda value: value in ("apply", "ignore"),
    "value_range": _range,
}

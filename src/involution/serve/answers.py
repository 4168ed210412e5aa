"""The answers of a server: a typed model for each task, from which the description of the interface is made."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Result(_Answer):
    notes: list[str] | None = Field(
        default=None,
        description="what is worth knowing of how the image was read or seen; left out where there is nothing",
    )


class Label(_Answer):
    """A class of a classified image."""

    label: str
    score: float = Field(description="probability (softmax), 0 to 1")


class Classes(_Result):
    """The most likely classes of an image, most likely first."""

    task: Literal["classify"]
    model: str
    classes: list[Label]


class Mask(_Answer):
    """The pixels of an object as run lengths, in COCO's compressed form."""

    size: tuple[int, int] = Field(description="height and width of the image")
    counts: str = Field(description="as pycocotools.mask.decode takes it")


class Outline(_Answer):
    """The pixels of an object whose middles are inside its polygons."""

    size: tuple[int, int] = Field(description="height and width of the image")
    polygons: list[list[list[tuple[float, float]]]] = Field(
        description="as in GeoJSON: of each polygon its outer ring, then its holes; of each ring x, y in pixels"
    )


class Object(_Answer):
    """An object that was found."""

    label: str
    category_id: int = Field(description="of the data set that the detector was trained on")
    score: float = Field(description="0 to 1")
    box: tuple[float, float, float, float] = Field(description="x1, y1, x2, y2 in pixels")
    mask: Mask | Outline | None = Field(description="null for a detector without masks")


class Objects(_Result):
    """The objects of an image, most certain first."""

    task: Literal["detect"]
    model: str
    height: int
    width: int
    objects: list[Object]


class Share(_Answer):
    """A class that was found in an image."""

    label: str
    value: int = Field(description="of its pixels in the label map")
    share: float = Field(description="of the image's pixels, above 0, to 1")


class LabelMap(_Result):
    """The class of each pixel."""

    task: Literal["segment"]
    model: str
    height: int
    width: int
    classes: list[Share] = Field(description="largest first")
    label_map: str = Field(
        description="a PNG file whose values are the classes, with a palette, in base64",
        json_schema_extra={"contentEncoding": "base64", "contentMediaType": "image/png"},
    )


class Problem(_Answer):
    """Why there is no answer."""

    error: str = Field(description="the kind, a word")
    message: str = Field(description="a line in words")
    request_id: str = Field(description="as in the log and in the header x-request-id")


TASKS: dict[str, type[_Result]] = {"classify": Classes, "detect": Objects, "segment": LabelMap}


def answer(model: str, task: str, result: Any, notes: Sequence[str] = (), masks: str = "rle") -> bytes:
    """The JSON of a result of `involution.predict`.

    Args:
        model: name that the network is served as.
        task: classify, detect or segment.
        result: of its predictor.
        notes: what is worth knowing of how the image was read or seen.
        masks: what a detector's are given as, rle or polygons.
    """
    row = result.row()
    found: _Result
    if task == "classify":
        labels = zip(row["labels"], row["scores"], strict=True)
        found = Classes(
            task="classify", model=model, classes=[Label(label=name, score=score) for name, score in labels]
        )
    elif task == "detect":
        size = (row["height"], row["width"])
        columns = zip(row["labels"], row["category_ids"], row["scores"], row["boxes"], strict=True)
        drawn = _drawn(result, row, masks == "polygons")
        objects = [
            Object(
                label=label,
                category_id=category,
                score=score,
                box=tuple(box),
                mask=mask,
            )
            for (label, category, score, box), mask in zip(columns, drawn, strict=True)
        ]
        found = Objects(task="detect", model=model, height=size[0], width=size[1], objects=objects)
    else:
        shares = zip(row["labels"], row["shares"], strict=True)
        places = {name: place for place, name in enumerate(result.classes)}
        found = LabelMap(
            task="segment",
            model=model,
            height=row["height"],
            width=row["width"],
            classes=[Share(label=name, value=places[name], share=share) for name, share in shares],
            label_map=base64.b64encode(row["label_map"]).decode(),
        )
    found.notes = list(notes) or None
    return found.model_dump_json(exclude=None if notes else {"notes"}).encode() + b"\n"


def _drawn(result: Any, row: Mapping[str, Any], polygons: bool) -> list[Mask | Outline | None]:
    """The masks of a detector's result; the runs of its row are COCO's."""
    size = (row["height"], row["width"])
    if row["masks"] is None:
        return [None] * len(row["labels"])
    if not polygons:
        return [Mask(size=size, counts=counts) for counts in row["masks"]]
    import numpy as np

    from involution.serve.outlines import outlines

    return [Outline(size=size, polygons=outlines(mask)) for mask in np.asarray(result.masks)]

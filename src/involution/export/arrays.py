"""Exported files in runtimes that take NumPy's arrays: the predictors of the tasks, without PyTorch.

Where torchvision is installed, it resizes images as for a checkpoint. Without it Pillow does, by the same method with
other roundings: a few pixels in a hundred differ, by one or two of 255. A file that resizes by itself needs neither.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from involution.data.images import ImageError
from involution.data.resizing import (
    channels_first,
    check_not_too_long,
    check_not_too_narrow,
    linear,
    normalised,
    shorter_side,
)
from involution.engine.predictor import Predictor
from involution.engine.tasks.classify.predictor import ClassificationPredictor
from involution.engine.tasks.detect.predictor import DetectionPredictor
from involution.engine.tasks.segment.predictor import SegmentationPredictor
from involution.export.errors import ExportError
from involution.export.metadata import Metadata
from involution.extras import is_installed

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from involution.export.registry import ArrayRun


@dataclass(frozen=True)
class File:
    """A file that is loaded.

    Attributes:
        run: runs it.
        metadata: what it says of itself.
    """

    run: ArrayRun
    metadata: Metadata

    @property
    def takes_pixels(self) -> bool:
        """Whether it takes 8-bit pictures, which its graph prepares."""
        return self.metadata.in_graph

    def scores(self, images: NDArray[Any]) -> NDArray[Any]:
        """Logits, or logarithms of probabilities, of images `[N, C, H, W]`."""
        (found,) = self.run([images])
        classes = len(self.metadata.classes)
        if found.ndim < 2 or found.shape[1] != classes:
            raise ExportError(f"the file names {classes} classes and computes {' x '.join(map(str, found.shape))}")
        with np.errstate(divide="ignore"):
            return np.log(found) if self.takes_pixels else found


class FileClassifier(ClassificationPredictor):
    """A classifier in a file."""

    def _probabilities(self, images: Sequence[PIL.Image.Image]) -> NDArray[Any]:
        file: Any = self.model
        inputs = [self._prepared(image) for image in images]
        # whole pictures differ in size
        batches = [one[None] for one in inputs] if self.takes_pixels else [np.stack(inputs)]
        logits = np.concatenate([file.scores(batch) for batch in batches]).astype(np.float32)
        return _softmax(_among(logits, self.within))

    def _prepared(self, image: PIL.Image.Image) -> NDArray[Any]:
        card, side = self.card, self.card.input_size[-1]
        image, short = image.convert("L" if self.channels == 1 else "RGB"), round(side / card.crop_pct)
        if self.takes_pixels:
            check_not_too_narrow(image.size, short)
            return channels_first(image)
        if _is_there("torchvision"):
            return self._transform(image).numpy()
        resized = shorter_side(image, short, card.interpolation)
        left, top = (round((length - side) / 2) for length in resized.size)
        return normalised(channels_first(resized.crop((left, top, left + side, top + side))), card.mean, card.std)


class FileSegmenter(SegmentationPredictor):
    """A segmenter in a file."""

    def _labels(self, image: PIL.Image.Image) -> Tensor | NDArray[Any]:
        file: Any = self.model
        scores, size = file.scores(self._prepared(image.convert("RGB"))[None]), (image.height, image.width)
        if scores.shape[2:] != size:
            scores = linear(scores, size)
        return _own(_among(scores, self.within)[0].argmax(0).astype(np.uint8))

    def _prepared(self, image: PIL.Image.Image) -> NDArray[Any]:
        card, short = self.card, self.card.input_size[-1]
        if self.takes_pixels:
            if short:
                check_not_too_narrow(image.size, short)
            return channels_first(image)
        if _is_there("torchvision"):
            return self.look(image).input[0].numpy()
        resized = shorter_side(image, short) if short else image
        return normalised(channels_first(resized), card.mean, card.std)


class FileDetector(DetectionPredictor):
    """A detector in a file."""

    def _limits(self) -> tuple[int, int | None]:
        file: Any = self.model
        return 0, file.metadata.most

    def _found(self, images: Sequence[PIL.Image.Image]) -> list[dict[str, Any]]:
        return [self._one(channels_first(image.convert("RGB"))) for image in images]

    def _one(self, pixels: NDArray[Any]) -> dict[str, Any]:
        file: Any = self.model
        own = size = (pixels.shape[1], pixels.shape[2])
        if self.takes_pixels:
            outputs = file.run([pixels[None]])
        else:
            image, size = self._prepared(pixels)
            outputs = file.run([image[None], np.array(size)])
        classes = len(self.card.classes)
        if len(outputs) < 3 or (outputs[2] >= classes).any():
            raise ExportError(f"the file computes something else than boxes, scores and labels of {classes} classes")
        ratios = np.array(own, np.float32) / np.array(size, np.float32)
        found = {"boxes": outputs[0] * ratios[[1, 0, 1, 0]], "scores": outputs[1], "labels": outputs[2]}
        if len(outputs) > 3:
            found["masks"] = _own(_pasted(outputs[3], found["boxes"], own)[:, None])
        return found

    def _prepared(self, pixels: NDArray[Any]) -> tuple[NDArray[Any], tuple[int, int]]:
        """The image as torchvision's detectors prepare it, and height and width of what is not filled up."""
        file: Any = self.model
        said: Mapping[str, Any] = file.metadata.preprocessing
        height, width = pixels.shape[1:]
        check_not_too_long((width, height), said["longest"])
        factor = min(said["resize"] / min(height, width), said["longest"] / max(height, width))
        size = (math.floor(height * factor), math.floor(width * factor))
        image, multiple = linear(normalised(pixels, said["mean"], said["std"]), size), said["multiple_of"] or 1
        wanted = file.metadata.inputs[0]["shape"][2:]
        whole = [
            -(-length // multiple) * multiple if isinstance(fixed, str) else fixed
            for length, fixed in zip(size, wanted, strict=True)
        ]
        if whole[0] < size[0] or whole[1] < size[1]:
            raise ImageError(
                f"the file was exported for images of at most {whole[0]} x {whole[1]} pixels after the resize, got "
                f"{size[0]} x {size[1]}"
            )
        return np.pad(image, ((0, 0), (0, whole[0] - size[0]), (0, whole[1] - size[1]))), size


PREDICTORS: dict[str, type[Predictor[Any]]] = {
    "classify": FileClassifier,
    "detect": FileDetector,
    "segment": FileSegmenter,
}


# what is installed does not change
_is_there = functools.cache(is_installed)


def _own(found: NDArray[Any]) -> Tensor | NDArray[Any]:
    """An array as results hold it: as a tensor, unless there is no PyTorch."""
    if not _is_there("torch"):
        return found
    import torch

    return torch.from_numpy(found)


def _among(scores: NDArray[Any], within: Sequence[int] | None) -> NDArray[Any]:
    """Scores `[N, classes, ...]` without the classes that are not to be chosen from."""
    if within is None:
        return scores
    kept = np.full_like(scores, -math.inf)
    kept[:, list(within)] = scores[:, list(within)]
    return kept


def _softmax(logits: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(invalid="ignore"):
        parts = np.exp(logits - logits.max(1, keepdims=True))
    found: NDArray[Any] = parts / parts.sum(1, keepdims=True)
    return found


def _pasted(masks: NDArray[Any], boxes: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Which pixels of an image are an object's, `[n, H, W]`, as torchvision pastes its masks.

    Args:
        masks: `[n, m, m]`, how likely each part of a box is the object's.
        boxes: `[n, 4]`, x1, y1, x2, y2 in pixels of the image.
        size: height and width of the image.
    """
    pasted = np.zeros((len(masks), *size), bool)
    # a margin of one, so that what is at the edge of a mask fades
    side = masks.shape[-1]
    padded, grown = np.pad(masks, ((0, 0), (1, 1), (1, 1))), np.float32((side + 2) / side)
    middles, halves = (boxes[:, 2:] + boxes[:, :2]) * 0.5, (boxes[:, 2:] - boxes[:, :2]) * 0.5 * grown
    corners = np.concatenate([middles - halves, middles + halves], 1).astype(np.int64)
    for place, (x1, y1, x2, y2) in enumerate(corners.tolist()):
        mask = linear(padded[place], (max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1))) > 0.5
        top, left, bottom, right = max(y1, 0), max(x1, 0), min(y2 + 1, size[0]), min(x2 + 1, size[1])
        if top < bottom and left < right:
            pasted[place, top:bottom, left:right] = mask[top - y1 : bottom - y1, left - x1 : right - x1]
    return pasted

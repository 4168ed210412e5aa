"""Segment images with a trained checkpoint: label maps, and pictures of them.

Example:
    >>> segmenter = SegmentationPredictor.from_checkpoint("runs/digit-segments/best.ckpt")  # doctest: +SKIP
    >>> segmenter.predict("scene.png").shares  # doctest: +SKIP
    {'background': 0.93, '7': 0.07}
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from involution.data.addresses import path_of
from involution.engine.files import Origin, absolute, atomic_path, current_origin, made_of, make_folder
from involution.engine.predictor import Add, Look, Predictor, Result, SkippedImage, among, drawn_factor

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

    from involution.data.colours import RGB

# number of classes in a row of the table
_SHOWN = 5
# how much of a colour lies over the image, what remains of the light beside an edge, and edges across an image
_TINT, _SHADE, _LINES = 0.45, 0.35, 240


@dataclass(frozen=True)
class SegmentationResult(Result):
    """The class of each pixel of one image.

    Args:
        file: Path of the image, or `image` for one given in memory.
        seconds: Time for this image, from reading to result.
        classes: Names of all classes.
        shares: Fraction of the pixels, 0..1, of each class that was found, largest first.
        labels: [H, W], uint8, indices into `classes`; an array of NumPy where there is no PyTorch.
    """

    classes: tuple[str, ...]
    shares: dict[str, float]
    labels: Tensor | NDArray[Any] = field(repr=False, compare=False)

    def cells(self) -> list[str]:
        """The largest classes with their shares."""
        shown = list(self.shares.items())[:_SHOWN]
        more = f", {len(self.shares) - len(shown)} more" if len(self.shares) > len(shown) else ""
        return [", ".join(f"{name} {share:.1%}" for name, share in shown) + more]

    def row(self) -> dict[str, Any]:
        """Shares of the classes that were found, and the label map as the bytes of a PNG file."""
        file = io.BytesIO()
        self.picture().save(file, format="PNG")
        return {
            "height": self.labels.shape[0],
            "width": self.labels.shape[1],
            "labels": list(self.shares),
            "shares": list(self.shares.values()),
            "label_map": file.getvalue(),
        }

    def picture(self) -> Image:
        """The label map as an image whose values are the classes' indices, with a palette."""
        import numpy as np
        import PIL.Image

        from involution.data.colours import palette

        image = PIL.Image.fromarray(np.asarray(self.labels)).convert("P")
        image.putpalette([value for colour in palette(self.classes) for value in colour])
        return image

    def draw(self, image: str | Path | Image) -> Image:
        """A copy of the image, a path or PIL image, with the classes' colours laid over it and their edges drawn."""
        return draw_segmentation(image, self)

    def draw_explained(self, image: str | Path | Image) -> Image:
        """The same with a legend of the classes that were found below it."""
        import PIL.Image

        from involution.data.legend import legend

        drawn = self.draw(image)
        below = legend(self.legend(), drawn.width)
        both = PIL.Image.new("RGB", (drawn.width, drawn.height + below.height))
        both.paste(drawn)
        both.paste(below, (0, drawn.height))
        return both

    def legend(self) -> list[tuple[str, RGB | None]]:
        """The classes that were found with their colours in pictures, None for a background, the largest first."""
        from involution.data.colours import is_background, palette

        colours = dict(zip(self.classes, palette(self.classes), strict=True))
        return [(name, None if is_background(name) else colours[name]) for name in self.shares]


class SegmentationPredictor(Predictor[SegmentationResult]):
    """A trained segmenter with everything needed to use it.

    Args:
        model: Network of logits [N, classes, H, W], used in eval mode on the device where it is.
        card: The card of its checkpoint.
    """

    task = "segment"
    verb = "segmented"
    output = ("FOLDER", "write label maps as PNG files whose values are the classes")
    draws = True
    row_types: ClassVar[Mapping[str, str]] = {
        "height": "int",
        "width": "int",
        "labels": "list of text",
        "shares": "list of float",
        "label_map": "bytes",
    }

    @cached_property
    def _transform(self) -> Callable[[Any], Tensor]:
        from torchvision import tv_tensors

        from involution.data.transforms import segmentation_eval_transform, whole_picture

        short = self.card.input_size[-1] or None
        if self.takes_pixels:
            return whole_picture(short, self.channels)
        prepare = segmentation_eval_transform(self.card.mean, self.card.std, short)
        return lambda pixels: prepare(tv_tensors.Image(pixels))[0]

    def columns(self, **options: Any) -> list[str]:
        """One column."""
        return ["classes"]

    def look(self, image: Image) -> Look:
        """The whole image, resized."""
        import torchvision.transforms.v2.functional as F

        pixels = self._transform(F.pil_to_tensor(image.convert("RGB")))
        return Look(pixels[None], (pixels.shape[1], pixels.shape[2]))

    def run(self, names: Sequence[str], images: Sequence[Image], **options: Any) -> list[SegmentationResult]:
        """The class of each pixel, at the images' own sizes."""
        return [self._result(name, self._labels(image)) for name, image in zip(names, images, strict=True)]

    def _labels(self, image: Image) -> Tensor | NDArray[Any]:
        """The class of each pixel, `[H, W]` in uint8."""
        import torch

        size = (image.height, image.width)
        with torch.inference_mode():
            logits = self.model(self.look(image).input.to(self.device))
            if logits.shape[2:] != size:
                logits = torch.nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
            # behind the resize, where what is not to be chosen would become no number
            return among(logits, self.within)[0].argmax(0).to(torch.uint8).cpu()

    def _result(self, name: str, labels: Tensor | NDArray[Any]) -> SegmentationResult:
        import numpy as np

        counts = np.bincount(np.asarray(labels).ravel()) / (labels.shape[0] * labels.shape[1])
        found = {self.card.classes[label]: share for label, share in enumerate(counts.tolist()) if share}
        return SegmentationResult(
            file=name,
            seconds=0.0,
            classes=tuple(self.card.classes),
            shares=dict(sorted(found.items(), key=lambda item: -item[1])),
            labels=labels,
        )

    @contextmanager
    def open_output(self, path: str | Path, **options: Any) -> Iterator[Add]:
        """A folder of label maps, one PNG for each image."""
        make_folder(path)

        def add(result: Any, name: str) -> None:
            if not isinstance(result, SkippedImage):
                write_label_map(path_of(path) / f"{name}.png", result)

        yield add


def write_label_map(path: str | Path, result: SegmentationResult) -> None:
    """Write a label map as PNG whose values are the classes' indices, with a palette; never half written.

    Args:
        path: The file.
        result: What it is the map of.

    Raises:
        FileExistsError: For a file that this package did not make, or that holds the map of another image.
        OSError: If it can't be written.
    """
    origin = current_origin() or Origin("label map", (absolute(result.file),))
    with made_of(origin), atomic_path(path) as partial:
        result.picture().save(partial, format="PNG")


def draw_segmentation(image: str | Path | Image, result: SegmentationResult) -> Image:
    """A copy of an image, a path or PIL image, with the classes' colours laid over it and their edges drawn.

    A background, by its name, stays as it is, as do pixels of no class. Small images are enlarged.

    Raises:
        ImageError: If it can't be read.
        PredictError: If it is not of the size that the result is for.
    """
    import torch
    import torchvision.transforms.v2.functional as F

    from involution.data.colours import is_background, palette

    labels = torch.as_tensor(result.labels)
    height, width = labels.shape
    pixels = F.pil_to_tensor(result.seen(image, (height, width)).convert("RGB"))
    factor = drawn_factor(pixels.shape[1], pixels.shape[2])
    pixels, labels = (part.repeat_interleave(factor, -2).repeat_interleave(factor, -1) for part in (pixels, labels))
    drawn = pixels.float()
    line = max(2, min(labels.shape) // _LINES)
    masks = [
        (labels == label, torch.tensor(colour, dtype=torch.float32)[:, None])
        for label, (name, colour) in enumerate(zip(result.classes, palette(result.classes), strict=True))
        if not is_background(name) and (labels == label).any()
    ]
    plain = torch.ones_like(labels, dtype=torch.bool)
    for mask, paint in masks:
        plain &= ~mask
        drawn[:, mask] = (1 - _TINT) * drawn[:, mask] + _TINT * paint
        drawn[:, _rim(mask, line)] = paint
    # dark beside the colours, so that an edge is seen on anything
    drawn[:, _rim(plain, max(1, line // 2))] *= _SHADE
    return F.to_pil_image(drawn.round().to(torch.uint8))


def _rim(mask: Tensor, line: int) -> Tensor:
    """The pixels of a mask `[H, W]` that are no farther than a line's width from what is not in it."""
    from torch.nn.functional import max_pool2d

    outside = (~mask)[None, None].float()
    # one direction after the other is much less work for wide lines
    for size, padding in (((2 * line + 1, 1), (line, 0)), ((1, 2 * line + 1), (0, line))):
        outside = max_pool2d(outside, size, stride=1, padding=padding)
    return mask & (outside[0, 0] > 0)

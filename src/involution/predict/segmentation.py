"""Segment images with a trained checkpoint: label maps, and pictures of them.

Example:
    >>> segmenter = Segmenter.from_checkpoint("runs/digit-segments/best.ckpt")  # doctest: +SKIP
    >>> segmenter.predict("scene.png").shares  # doctest: +SKIP
    {'background': 0.93, '7': 0.07}
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from involution.predict.files import PredictError, SkippedImage, find_device

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from involution.engine.checkpoint import ModelCard


@dataclass(frozen=True)
class SegmentationResult:
    """The class of each pixel of one image.

    Args:
        file: Path of the image, or `image` for one given in memory.
        classes: Names of all classes.
        shares: Share of the pixels, 0..1, of each class that was found, the largest first.
        seconds: Time for this image, from reading to result.
        labels: [H, W], uint8, places in `classes`.
    """

    file: str
    classes: tuple[str, ...]
    shares: dict[str, float]
    seconds: float
    labels: Tensor = field(repr=False, compare=False)


class Segmenter:
    """A trained segmenter with everything that it needs to be used.

    Args:
        model: Network of logits [N, classes, H, W], used in eval mode on the device where it is.
        card: What the checkpoint tells about it.
    """

    def __init__(self, model: nn.Module, card: ModelCard) -> None:
        from involution.data.transforms import segmentation_eval_transform

        self.model = model.eval()
        self.card = card
        self.device = next(model.parameters()).device
        self._transform = segmentation_eval_transform(card.mean, card.std, card.input_size[-1] or None)

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str = "auto") -> Segmenter:
        """Read a checkpoint that `involution segment train` wrote.

        Args:
            path: best.ckpt or last.ckpt of a run.
            device: Where the network runs; "auto" takes an accelerator if there is one.

        Raises:
            CheckpointError: If the file is missing or no checkpoint of a segmenter.
            PredictError: If there is no such device.
        """
        from involution.engine.segment import load_segmenter

        return cls(*load_segmenter(path, find_device(device)))

    def predict(self, image: str | Path | Image) -> SegmentationResult:
        """Segment one image of any size.

        Args:
            image: A path or PIL image.

        Raises:
            ImageError: If it can't be read.
        """
        import torchvision.transforms.v2.functional as F
        from torchvision import tv_tensors

        from involution.data.images import read_image, to_8_bit

        start = time.perf_counter()
        picture = read_image(image) if isinstance(image, str | Path) else to_8_bit(image)
        pixels, _ = self._transform(tv_tensors.Image(F.pil_to_tensor(picture.convert("RGB"))))
        with torch.inference_mode():
            logits = self.model(pixels[None].to(self.device))
            size = (picture.height, picture.width)
            if logits.shape[2:] != size:
                logits = torch.nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
            labels = logits[0].argmax(0).to(torch.uint8).cpu()
        counts = labels.flatten().bincount().double() / labels.numel()
        found = {self.card.classes[label]: share for label, share in enumerate(counts.tolist()) if share}
        return SegmentationResult(
            file=str(image) if isinstance(image, str | Path) else "image",
            classes=tuple(self.card.classes),
            shares=dict(sorted(found.items(), key=lambda item: -item[1])),
            seconds=time.perf_counter() - start,
            labels=labels,
        )

    def stream(self, files: Iterable[str | Path]) -> Iterator[SegmentationResult | SkippedImage]:
        """Segment files, one after the other; those that can't be read become `SkippedImage`."""
        from involution.data.images import ImageError

        for file in files:
            try:
                yield self.predict(file)
            except ImageError as error:
                yield SkippedImage(str(file), str(error).removeprefix(f"{file}: "))


def write_label_map(path: str | Path, result: SegmentationResult) -> None:
    """Write a label map as PNG whose values are the classes' places, shown by a palette; whole or not at all."""
    import PIL.Image

    from involution.engine.files import atomic_path

    image = PIL.Image.fromarray(result.labels.numpy()).convert("P")
    image.putpalette([value for colour in palette(len(result.classes)) for value in colour])
    try:
        with atomic_path(path) as partial:
            image.save(partial, format="PNG")
    except OSError as error:
        raise PredictError(f"can't write {path}: {error.strerror}") from error


def draw_segmentation(image: Image, result: SegmentationResult) -> Image:
    """A copy of an image, small ones enlarged, with the classes' colours laid over it by torchvision."""
    import torchvision.transforms.v2.functional as F
    from torchvision.utils import draw_segmentation_masks

    pixels = F.pil_to_tensor(image.convert("RGB"))
    factor = max(1, round(480 / min(pixels.shape[1:])))
    pixels, labels = (
        part.repeat_interleave(factor, -2).repeat_interleave(factor, -1) for part in (pixels, result.labels)
    )
    found = labels.unique().tolist()
    colours = palette(len(result.classes))
    masks = torch.stack([labels == label for label in found])
    drawn = draw_segmentation_masks(pixels, masks, alpha=0.55, colors=[colours[label] for label in found])
    return F.to_pil_image(drawn)


def palette(count: int) -> list[tuple[int, int, int]]:
    """Colours of classes, the first one dark: Pascal VOC's, which differ even for 255 classes."""
    colours = []
    for label in range(count):
        # bits 0, 3, 6 of the label go to the high bits of red, 1, 4, 7 to green, 2, 5 to blue
        red, green, blue = (sum((label >> (3 * bit + part) & 1) << (7 - bit) for bit in range(3)) for part in range(3))
        colours.append((red, green, blue))
    return colours

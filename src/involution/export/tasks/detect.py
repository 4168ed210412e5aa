"""Exporting detectors: an image to boxes, scores, labels and perhaps masks, after the suppression of overlaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from involution.data.images import ImageError
from involution.detection import first_label
from involution.engine.card import ModelCard
from involution.engine.predictor import Predictor
from involution.export.errors import ExportError
from involution.export.graph import Graph, Input, Run
from involution.export.metadata import Metadata
from involution.export.registry import Settings, TaskExport, register_task

# of the image of the trace, where the size is left open: the coarsest level must have more than one row
_SIDES = (384, 512)
# boxes that differ by less are the same
_PIXELS, _SCORES = 0.5, 1e-2


def _check(network: nn.Module, card: ModelCard, settings: Settings) -> None:
    from involution.export.detectors import is_exportable

    if not is_exportable(network):
        raise ExportError(f"{card.model} can't be exported; of the detectors retinanet, faster_rcnn and mask_rcnn can")
    multiple = _multiple_of(network)
    if settings.size and any(side % multiple for side in settings.size):
        height, width = settings.size
        raise ExportError(f"wanted a --size of multiples of {multiple} for this detector, got {height}x{width}")


def _graph(network: nn.Module, card: ModelCard, settings: Settings) -> Graph:
    from involution.export.detectors import DetectorGraph, PictureGraph
    from involution.export.resample import FitInside

    height, width = settings.size or _SIDES
    graph = DetectorGraph(network)
    outputs = ("boxes", "scores", "labels", *(["masks"] if graph.with_masks else []))
    open_sizes = {2: "height", 3: "width"}
    if settings.with_preprocessing:
        pixels = torch.randint(0, 256, (1, 3, *_SIDES), dtype=torch.uint8)
        whole = PictureGraph(
            graph, FitInside(*card.input_size[1:], _multiple_of(network), settings.size), card.mean, card.std
        )
        return Graph(whole, (Input("images", pixels, open_sizes),), outputs)
    images = Input("images", torch.rand(1, 3, height, width), {} if settings.size else open_sizes)
    size = Input("size", torch.tensor([height - 5, width - 7]))
    return Graph(graph, (images, size), outputs)


def _multiple_of(network: Any) -> int:
    if getattr(getattr(network, "transform", None), "fixed_size", None) is not None:
        raise ExportError("a detector with a fixed_size of its own can't be exported")
    return int(getattr(getattr(network, "transform", None), "size_divisible", 1))


class DetectorFile(nn.Module):
    """An exported detector, called like torchvision's.

    Args:
        run: runs the file.
        metadata: what the file says of itself.
    """

    def __init__(self, run: Run, metadata: Metadata) -> None:
        super().__init__()
        from torchvision.models.detection.transform import GeneralizedRCNNTransform

        found = metadata.preprocessing
        sides = found["resize"], found["longest"]
        divisible = found["multiple_of"] or 1
        self.transform = GeneralizedRCNNTransform(*sides, found["mean"], found["std"], size_divisible=divisible).eval()
        self.classes = len(metadata.classes)
        self.run, self.shape, self.in_graph = run, metadata.inputs[0]["shape"], metadata.in_graph
        self.detections_per_img = metadata.most

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Return boxes, scores, labels and perhaps masks of each image."""
        return [self._one(image) for image in images]

    def _one(self, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[1:]
        if self.in_graph:
            pixels = (image.cpu() * 255).round().to(torch.uint8)
            # boxes of this size already; what is left is to paste the masks
            return self._result(self.run([pixels[None]]), (height, width), (height, width))
        prepared, _ = self.transform([image])
        (size,) = prepared.image_sizes
        return self._result(self.run([self._filled(prepared.tensors), torch.tensor(size)]), size, (height, width))

    def _result(self, outputs: Sequence[Tensor], size: tuple[int, int], own: tuple[int, int]) -> dict[str, Tensor]:
        """What was found in an image of a size, at its own size."""
        if len(outputs) < 3 or (outputs[2] >= self.classes).any():
            raise ExportError(
                f"the file computes something else than boxes, scores and labels of {self.classes} classes"
            )
        found = dict(zip(("boxes", "scores", "labels"), outputs, strict=False))
        if len(outputs) > 3:
            found["masks"] = outputs[3][:, None]
        (result,) = self.transform.postprocess([found], [size], [own])
        whole: dict[str, Tensor] = result
        return whole

    def _filled(self, image: Tensor) -> Tensor:
        """The image with zeros up to the file's own size, if it has one."""
        height, width = (
            got if isinstance(wanted, str) else wanted
            for wanted, got in zip(self.shape[2:], image.shape[2:], strict=True)
        )
        below, beside = height - image.shape[2], width - image.shape[3]
        if below < 0 or beside < 0:
            raise ImageError(
                f"the file was exported for images of at most {height} x {width} pixels after the resize, got "
                f"{image.shape[2]} x {image.shape[3]}"
            )
        return torch.nn.functional.pad(image, (0, beside, 0, below))


def _prepare(predictor: Predictor[Any], image: Any) -> Any:
    import torchvision.transforms.v2.functional as F

    pixels = F.to_dtype(F.pil_to_tensor(image.convert("RGB")), torch.float32, scale=True)
    return [pixels.to(predictor.device)]


def _outputs(predictor: Predictor[Any], image: Any, result: Any) -> tuple[Tensor, ...]:
    (found,) = result
    found = {**found, "labels": found["labels"] - first_label(predictor.model)}
    return tuple(found[name].cpu() for name in ("boxes", "scores", "labels", "masks") if name in found)


def _agreement(
    wanted: Sequence[tuple[Tensor, ...]], found: Sequence[tuple[Tensor, ...]], resized: bool = False
) -> tuple[float, float, str]:
    difference, same, most = 0.0, 0, 0
    for ours, theirs in zip(wanted, found, strict=True):
        most += max(len(ours[0]), len(theirs[0]))
        # by coordinates, among those of the same class and score
        distance = (ours[0][:, None] - theirs[0][None]).abs().amax(2)
        other = (ours[2][:, None] != theirs[2]) | ((ours[1][:, None] - theirs[1]).abs() > _SCORES)
        nearest = distance.masked_fill(other, torch.inf)
        if not nearest.numel():
            continue
        least = nearest.amin(1)
        matched = least < _PIXELS
        if len(ours) > 3 and matched.any():
            masks = theirs[3][nearest.argmin(1)]
            matched &= ((ours[3] > 0.5) == (masks > 0.5)).flatten(1).float().mean(1) > 0.99
        same += int(matched.sum())
        difference = max(difference, float(least[matched].max()) if matched.any() else 0.0)
    # where two boxes overlap by nearly what is allowed, a rounding decides between them
    allowed = _PIXELS if same >= 0.99 * most else -1.0
    return difference, allowed, f"{same:,} of {most:,} boxes"


def _inside(card: ModelCard) -> tuple[str, ...]:
    return ("normalise", "resize", "pad", "picture_size")


register_task(
    TaskExport(
        "detect",
        _graph,
        DetectorFile,
        _prepare,
        _outputs,
        _agreement,
        _multiple_of,
        _inside,
        opens=("height", "width"),
        check=_check,
    )
)

"""Detect objects with a trained checkpoint: typed results, pictures, and COCO's results format.

Example:
    >>> detector = Detector.from_checkpoint("runs/digit-scenes/best.ckpt")  # doctest: +SKIP
    >>> detector.predict("scene.png").labels  # doctest: +SKIP
    ('7', '3')
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from involution.predict.files import PredictError, SkippedImage, find_device

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from involution.engine.checkpoint import ModelCard


@dataclass(frozen=True)
class DetectionResult:
    """The objects found in one image, the most certain first.

    Args:
        file: Path of the image, or `image` for one given in memory.
        size: Height and width of the image in pixels.
        labels: Category names.
        category_ids: The data set's ids of these categories.
        scores: 0..1.
        boxes: x1, y1, x2, y2 in pixels.
        seconds: Time for this image, from reading to results.
        masks: Pixels [n, H, W] (bool) of each object, None for a detector without masks.
    """

    file: str
    size: tuple[int, int]
    labels: tuple[str, ...]
    category_ids: tuple[int, ...]
    scores: tuple[float, ...]
    boxes: tuple[tuple[float, float, float, float], ...]
    seconds: float
    masks: Tensor | None = field(default=None, repr=False, compare=False)


class Detector:
    """A trained detector with everything that it needs to be used.

    Args:
        model: One of torchvision's detectors, used in eval mode on the device where it is.
        card: What the checkpoint tells about it.
    """

    def __init__(self, model: nn.Module, card: ModelCard) -> None:
        from involution.detection import first_label

        self.model = model.eval()
        self.card = card
        self.device = next(model.parameters()).device
        self._first = first_label(model)

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str = "auto") -> Detector:
        """Read a checkpoint that `involution detect train` wrote.

        Args:
            path: best.ckpt or last.ckpt of a run.
            device: Where the network runs; "auto" takes an accelerator if there is one.

        Raises:
            CheckpointError: If the file is missing or no checkpoint of a detector.
            PredictError: If there is no such device.
        """
        from involution.engine.detect import load_detector

        return cls(*load_detector(path, find_device(device)))

    def predict(self, image: str | Path | Image, *, score: float = 0.5) -> DetectionResult:
        """Find the objects in one image of any size.

        Args:
            image: A path or PIL image.
            score: Leave out objects that are less certain.

        Raises:
            ImageError: If it can't be read.
        """
        import torchvision.transforms.v2.functional as F

        from involution.data.images import read_image, to_8_bit

        if not 0 <= score <= 1:
            raise PredictError(f"wanted a score from 0 to 1, got {score}")
        start = time.perf_counter()
        named = isinstance(image, str | Path)
        picture = read_image(image) if isinstance(image, str | Path) else to_8_bit(image)
        pixels = F.to_dtype(F.pil_to_tensor(picture.convert("RGB")), torch.float32, scale=True)
        with torch.inference_mode():
            found = self.model([pixels.to(self.device)])[0]
        keep = found["scores"] >= score
        labels = (found["labels"][keep] - self._first).tolist()
        return DetectionResult(
            file=str(image) if named else "image",
            size=(picture.height, picture.width),
            labels=tuple(self.card.classes[label] for label in labels),
            category_ids=tuple(self.card.category_ids[label] for label in labels),
            scores=tuple(found["scores"][keep].tolist()),
            boxes=tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in found["boxes"][keep].tolist()),
            seconds=time.perf_counter() - start,
            masks=(found["masks"][keep][:, 0] > 0.5).cpu() if "masks" in found else None,
        )

    def stream(self, files: Iterable[str | Path], *, score: float = 0.5) -> Iterator[DetectionResult | SkippedImage]:
        """Find the objects in files, one after the other; those that can't be read become `SkippedImage`."""
        from involution.data.images import ImageError

        for file in files:
            try:
                yield self.predict(file, score=score)
            except ImageError as error:
                yield SkippedImage(str(file), str(error).removeprefix(f"{file}: "))


def draw_detections(image: Image, result: DetectionResult) -> Image:
    """A copy of an image with boxes, names, scores and masks drawn on it by torchvision."""
    import matplotlib
    import torchvision.transforms.v2.functional as F
    from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

    pixels = F.pil_to_tensor(image.convert("RGB"))
    # small images are enlarged, so that names can be read
    factor = max(1, round(480 / min(pixels.shape[1:])))
    pixels = pixels.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    if not result.labels:
        return F.to_pil_image(pixels)
    colours = [_COLOURS[category % len(_COLOURS)] for category in result.category_ids]
    if result.masks is not None:
        masks = result.masks.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        pixels = draw_segmentation_masks(pixels, masks, alpha=0.5, colors=colours)
    names = [f"{label} {score:.0%}" for label, score in zip(result.labels, result.scores, strict=True)]
    boxes = torch.tensor(result.boxes) * factor
    side = min(pixels.shape[1:])
    pixels = draw_bounding_boxes(
        pixels,
        boxes,
        names,
        colors=colours,
        width=max(2, side // 200),
        # the one font that comes with what is installed anyway
        font=str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"),
        font_size=max(10, side // 24),
        label_colors="black",
        label_background_colors=colours,
        fill_labels=True,
    )
    return F.to_pil_image(pixels)


# bright colours that differ for colour-blind eyes (Okabe and Ito)
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


def write_detections(path: str | Path, results: Sequence[DetectionResult | SkippedImage]) -> None:
    """Write detections as JSON; the file appears complete or not at all.

    ``{"images": [{"id", "file_name", "width", "height"}], "annotations": [{"image_id", "category_id",
    "category_name", "bbox" (x, y, width, height), "score", perhaps "segmentation"}], "skipped": [{"file",
    "reason"}]}``: the annotations are in COCO's results format, the image ids are places in the list of images.
    """
    from involution.engine.files import atomic_path

    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for result in results:
        if isinstance(result, SkippedImage):
            continue
        images.append({"id": len(images), "file_name": result.file, "width": result.size[1], "height": result.size[0]})
        annotations += _annotations(result, images[-1]["id"])
    content = {
        "images": images,
        "annotations": annotations,
        "skipped": [vars(result) for result in results if isinstance(result, SkippedImage)],
    }
    try:
        with atomic_path(path) as partial:
            partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise PredictError(f"can't write {path}: {error.strerror}") from error


def _annotations(result: DetectionResult, image_id: int) -> list[dict[str, Any]]:
    annotations: list[dict[str, Any]] = []
    for label, category, score, (x1, y1, x2, y2) in zip(
        result.labels, result.category_ids, result.scores, result.boxes, strict=True
    ):
        annotations.append(
            {
                "image_id": image_id,
                "category_id": category,
                "category_name": label,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
        )
    if result.masks is not None:
        from pycocotools import mask as run_lengths

        for annotation, mask in zip(annotations, result.masks.numpy(), strict=True):
            encoded = run_lengths.encode(mask.astype("uint8", order="F"))
            annotation["segmentation"] = {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}
    return annotations

"""Detect objects with a trained checkpoint: typed results, pictures, and COCO's formats.

Example:
    >>> detector = DetectionPredictor.from_checkpoint("runs/digit-scenes/best.ckpt")  # doctest: +SKIP
    >>> detector.predict("scene.png").labels  # doctest: +SKIP
    ('7', '3')
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from involution.engine.files import atomic_path
from involution.engine.predictor import (
    Add,
    Look,
    Option,
    PredictError,
    Predictor,
    Result,
    SkippedImage,
    drawn_factor,
)
from involution.engine.tasks.detect.coco_format import ImageEntries, category_ids, coco_results

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor, nn

    from involution.data.noticed import Noticed
    from involution.engine.checkpoint import ModelCard


@dataclass(frozen=True)
class DetectionResult(Result):
    """The objects found in one image, most certain first.

    Args:
        file: Path of the image, or `image` for one given in memory.
        seconds: Time for this image, from reading to results.
        size: Height and width of the image in pixels.
        labels: Category names.
        category_ids: The data set's ids of these categories.
        scores: 0..1.
        boxes: x1, y1, x2, y2 in pixels.
        masks: Pixels [n, H, W] (bool) of each object, None for a detector without masks; an array of NumPy where there
            is no PyTorch.
        most: How many objects the detector finds in an image at most, None if it does not say.
    """

    size: tuple[int, int]
    labels: tuple[str, ...]
    category_ids: tuple[int, ...]
    scores: tuple[float, ...]
    boxes: tuple[tuple[float, float, float, float], ...]
    masks: Tensor | NDArray[Any] | None = field(default=None, repr=False, compare=False)
    most: int | None = field(default=None, repr=False, compare=False)

    @property
    def found(self) -> int:
        """How many objects were found."""
        return len(self.labels)

    @property
    def full(self) -> bool:
        """Whether as many objects were found as can be, so that others may be missing."""
        return self.most is not None and self.found >= self.most

    def cells(self) -> list[str]:
        """The objects by name, counted."""
        counts = Counter(self.labels)
        words = ", ".join(f"{count} × {name}" if count > 1 else name for name, count in counts.items())
        return [words or "nothing"]

    def row(self) -> dict[str, Any]:
        """Everything found; masks as COCO's compressed run lengths of `height` × `width` pixels."""
        found = coco_results(0, self.category_ids, self.boxes, self.scores, self.masks)
        return {
            "height": self.size[0],
            "width": self.size[1],
            "labels": list(self.labels),
            "category_ids": list(self.category_ids),
            "scores": list(self.scores),
            "boxes": [list(box) for box in self.boxes],
            "masks": None if self.masks is None else [item["segmentation"]["counts"] for item in found],
        }

    def draw(self, image: str | Path | Image) -> Image:
        """A copy of the image, a path or PIL image, with boxes, names, scores and masks drawn on it."""
        return draw_detections(image, self)


class DetectionPredictor(Predictor[DetectionResult]):
    """A trained detector with everything needed to use it.

    Args:
        model: One of torchvision's detectors, used in eval mode on the device where it is.
        card: The card of its checkpoint.
    """

    task = "detect"
    verb = "searched"
    options = (Option("score", 0.5, "minimum score of an object, 0 to 1", float),)
    output = ("FILE", "write all results to FILE.json")
    suffixes = (".json",)
    output_options = (
        Option(
            "format",
            "results",
            "of --output: COCO's results format, a list that pycocotools' loadRes takes; or a dataset, with images, "
            "categories and the detections as annotations",
            choices=("results", "dataset"),
        ),
        Option("annotations", None, "COCO file of your own whose ids of images and categories --output takes, by name"),
    )
    draws = True
    row_types: ClassVar[Mapping[str, str]] = {
        "height": "int",
        "width": "int",
        "labels": "list of text",
        "category_ids": "list of int",
        "scores": "list of float",
        "boxes": "list of list of float",
        "masks": "list of text",
    }

    def __init__(self, model: nn.Module, card: ModelCard) -> None:
        super().__init__(model, card)
        self._first, self.most = self._limits()

    def _limits(self) -> tuple[int, int | None]:
        """The label of the first class, and how many objects are found in an image at most."""
        from involution.detection.detectors import first_label, most_objects

        return first_label(self.model), most_objects(self.model)

    @property
    def body(self) -> nn.Module:
        """The backbone with its feature pyramid."""
        return self.model.get_submodule("backbone")

    @classmethod
    def check_options(cls, *, score: float = 0.5) -> None:
        """Refuse a score outside 0 to 1."""
        if not 0 <= score <= 1:
            raise PredictError(f"wanted a score from 0 to 1, got {score}")

    def remarks(self, *, score: float = 0.5, **options: Any) -> list[str]:
        """Say so where the detector itself leaves out objects of the wanted scores."""
        from involution.detection.detectors import least_score

        args = self.card.recipe.get("model", {}).get("args") or {}
        # of exported files the settings of the training tell it; torchvision's is 0.05
        known = args.get("box_score_thresh", args.get("score_thresh", 0.0 if "detr" in self.card.model else 0.05))
        own = least_score(self.model)
        least = float(known) if own is None else own
        if score >= least:
            return []
        return [
            f"score {score:g} finds objects of {least:g} and more: the detector itself leaves out those below, by "
            "score_thresh or box_score_thresh of model.args in its training"
        ]

    def columns(self, **options: Any) -> list[str]:
        """One column."""
        return ["found"]

    def summary(self, done: int, found: int, skipped: int) -> str:
        """How many objects were found in how many images."""
        return f"{found:,} objects in {done:,} images, {skipped:,} skipped"

    def look(self, image: Image) -> Look:
        """The whole image, resized as the detector does it, padded below and on the right."""
        images, _ = self.model.transform([_pixels(image).to(self.device)])  # type: ignore[operator]
        return Look(images.tensors, images.image_sizes[0])

    def run(self, names: Sequence[str], images: Sequence[Image], *, score: float = 0.5) -> list[DetectionResult]:
        """The objects of each image with at least this score."""
        if not images:
            return []
        found = self._found(images)
        return [self._result(*item, score) for item in zip(names, images, found, strict=True)]

    def _found(self, images: Sequence[Image]) -> list[dict[str, Any]]:
        """Boxes, scores, labels and perhaps masks of each image, as tensors or arrays."""
        import torch

        with torch.inference_mode():
            found: list[dict[str, Any]] = self.model([_pixels(image).to(self.device) for image in images])
        return found

    def _result(self, name: str, image: Image, found: dict[str, Any], score: float) -> DetectionResult:
        every = (found["labels"] - self._first).tolist()
        wanted = enumerate((found["scores"] >= score).tolist())
        keep = [place for place, high in wanted if high and (self.within is None or every[place] in self.within)]
        labels = [every[place] for place in keep]
        masks: Any = found["masks"][keep][:, 0] > 0.5 if "masks" in found else None
        return DetectionResult(
            file=name,
            seconds=0.0,
            size=(image.height, image.width),
            labels=tuple(self.card.classes[label] for label in labels),
            category_ids=tuple(self.card.category_ids[label] for label in labels),
            scores=tuple(found["scores"][keep].tolist()),
            boxes=tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in found["boxes"][keep].tolist()),
            masks=masks.cpu() if hasattr(masks, "cpu") else masks,
            most=self.most,
        )

    @contextmanager
    def open_output(
        self,
        path: str | Path,
        *,
        images: Sequence[str | Path] = (),
        noticed: Noticed | None = None,
        format: str = "results",
        annotations: str | None = None,
    ) -> Iterator[Add]:
        """JSON in one of COCO's formats.

        ``results``: ``[{"image_id", "category_id", "bbox" (x, y, width, height), "score", perhaps "segmentation",
        "file_name"}]``. ``dataset``: ``{"annotations": [the same with "id", "area", "iscrowd"], "images": [{"id",
        "file_name", "width", "height"}], "categories": [{"id", "name"}]}``.

        Args:
            path: ends in .json.
            images: files that will be added, so that those without an entry of their size are refused at once.
            noticed: told which entries of the annotations are of none of them.
            format: one of the two.
            annotations: a COCO file whose ids of images and categories are taken, by file name and name; without,
                images are numbered from 1, and categories are those of the training.
        """
        self.check_output(path)
        find = ImageEntries(annotations) if annotations else None
        own = (category_ids(annotations, self.card.classes) if annotations else None) or self.card.category_ids
        theirs = dict(zip(self.card.classes, own, strict=True))
        if find is not None:
            for missing in find.check(images, self.reading) if images else []:
                if noticed is not None:
                    noticed.count("unpredicted", missing)
        written: list[dict[str, Any]] = []
        with atomic_path(path) as partial, partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
            between = iter(["\n"])
            count = number = 0
            file.write('{"annotations": [' if format == "dataset" else "[")

            def add(result: Any, name: str) -> None:
                nonlocal count, number
                if isinstance(result, SkippedImage):
                    return
                height, width = result.size
                number += 1
                key = number if find is None else find(result.file)["id"]
                if format == "dataset":
                    written.append({"id": key, "file_name": result.file, "width": width, "height": height})
                ids = [theirs[label] for label in result.labels]
                for found in coco_results(key, ids, result.boxes, result.scores, result.masks):
                    count += 1
                    if format == "dataset":
                        box_width, box_height = found["bbox"][2:]
                        found |= {"id": count, "area": box_width * box_height, "iscrowd": 0}
                    else:
                        found["file_name"] = result.file
                    file.write(next(between, ",\n") + json.dumps(found, ensure_ascii=False))

            yield add
            if format == "dataset":
                categories = [{"id": key, "name": name} for name, key in theirs.items()]
                rest = json.dumps({"images": written, "categories": categories}, indent=1, ensure_ascii=False)
                file.write(f"\n],{rest[1:]}\n")
            else:
                file.write("\n]\n")


def _pixels(image: Image) -> Tensor:
    import torch
    import torchvision.transforms.v2.functional as F

    return F.to_dtype(F.pil_to_tensor(image.convert("RGB")), torch.float32, scale=True)


def draw_detections(image: str | Path | Image, result: DetectionResult, scores: bool = True) -> Image:
    """A copy of an image, a path or PIL image, with boxes, names, perhaps scores, and masks drawn on it by torchvision.

    Raises:
        ImageError: If it can't be read.
        PredictError: If it is not of the size that the result is for.
    """
    import torch
    import torchvision.transforms.v2.functional as F
    from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

    from involution.data.colours import OKABE_ITO
    from involution.data.legend import font_file

    pixels = F.pil_to_tensor(result.seen(image, result.size).convert("RGB"))
    # enlarge small images so that names can be read
    factor = drawn_factor(pixels.shape[1], pixels.shape[2])
    pixels = pixels.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    if not result.labels:
        return F.to_pil_image(pixels)
    colours = [OKABE_ITO[category % len(OKABE_ITO)] for category in result.category_ids]
    if result.masks is not None:
        masks = torch.as_tensor(result.masks).repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        pixels = draw_segmentation_masks(pixels, masks, alpha=0.5, colors=colours)
    pairs = zip(result.labels, result.scores, strict=True)
    names = [f"{label} {score:.0%}" if scores else label for label, score in pairs]
    boxes = torch.tensor(result.boxes) * factor
    side = min(pixels.shape[1:])
    pixels = draw_bounding_boxes(
        pixels,
        boxes,
        names,
        colors=colours,
        width=max(2, side // 200),
        font=font_file(),
        font_size=max(10, side // 24),
        label_colors="black",
        label_background_colors=colours,
        fill_labels=True,
    )
    return F.to_pil_image(pixels)

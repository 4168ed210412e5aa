"""Classify images with a trained checkpoint.

Example:
    >>> classifier = ClassificationPredictor.from_checkpoint("runs/digits/best.ckpt")  # doctest: +SKIP
    >>> classifier.predict("seven.png").label  # doctest: +SKIP
    '7'
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TextIO

from involution.data.addresses import path_of
from involution.data.images import read_image
from involution.engine.files import atomic_path
from involution.engine.predictor import Add, Look, Option, PredictError, Predictor, Result, SkippedImage, among

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor, nn

    from involution.engine.checkpoint import ModelCard


@dataclass(frozen=True)
class ClassificationResult(Result):
    """The most likely classes of one image.

    Args:
        file: Path of the image, or `image 0`, `image 1`, ... for one given in memory.
        seconds: Time for this image: its batch's preparation and forward pass, shared evenly.
        labels: Class names, most likely first.
        scores: Their probabilities (softmax), in 0..1.
    """

    labels: tuple[str, ...]
    scores: tuple[float, ...]

    @property
    def label(self) -> str:
        """The most likely class."""
        return self.labels[0]

    @property
    def score(self) -> float:
        """The probability of the most likely class."""
        return self.scores[0]

    def cells(self) -> list[str]:
        """Class and percentage in turn."""
        ranked = zip(self.labels, self.scores, strict=True)
        return [cell for label, score in ranked for cell in (label, f"{100 * score:.1f}")]

    def row(self) -> dict[str, Any]:
        """Names and probabilities of the classes."""
        return {"labels": list(self.labels), "scores": list(self.scores)}


class ClassificationPredictor(Predictor[ClassificationResult]):
    """A trained classifier with everything needed to use it.

    Args:
        model: Network with `len(card.classes)` outputs, used in eval mode on the device where it is.
        card: The card of its checkpoint: classes, input size, normalisation.
    """

    task = "classify"
    verb = "classified"
    options = (
        Option("topk", 5, "number of classes to list per image", int),
        Option("batch_size", 64, "images per forward pass", int),
    )
    batch_size = 64
    output = ("FILE", "write all results to FILE.json or FILE.csv")
    suffixes = (".json", ".csv")
    row_types: ClassVar[Mapping[str, str]] = {"labels": "list of text", "scores": "list of float"}

    def __init__(self, model: nn.Module, card: ModelCard) -> None:
        super().__init__(model, card)
        self.channels = card.input_size[0]

    @cached_property
    def _transform(self) -> Callable[[Image], Tensor]:
        from involution.data.transforms import eval_transform, whole_picture

        card, side = self.card, self.card.input_size[-1]
        if self.takes_pixels:
            return whole_picture(round(side / card.crop_pct), self.channels)
        return eval_transform(side, self.channels, card.mean, card.std, card.interpolation, card.crop_pct)

    @classmethod
    def check_options(cls, *, topk: int = 5) -> None:
        """Refuse fewer than one class."""
        if topk < 1:
            raise PredictError(f"wanted topk of 1 or more, got {topk}")

    def columns(self, **options: Any) -> list[str]:
        """The most likely class."""
        return ["class", "%"]

    def table(self, rows: list[list[str]], **options: Any) -> tuple[list[str], list[list[str]]]:
        """A row for each image, its less likely classes in one cell; those of a single image below each other."""
        header, rows = super().table(rows, **options)
        if len(rows) == 1:
            (file, *cells), ranks = rows[0], range(0, len(rows[0]) - 1, 2)
            return header, [["" if place else file, *cells[place : place + 2]] for place in ranks]
        if len(rows[0]) == len(header):
            return header, rows
        # two columns for each class would not fit a terminal
        then = [", ".join(map(" ".join, zip(row[3::2], row[4::2], strict=True))) for row in rows]
        return [*header, "then"], [[*row[:3], less_likely] for row, less_likely in zip(rows, then, strict=True)]

    def prepare(self, image: str | Path | Image) -> Tensor:
        """The network's input `[C, H, W]` for a path or PIL image, which is read and resized as in training."""
        return self._transform(read_image(image, reading=self.reading))

    def look(self, image: Image) -> Look:
        """The centre of the resized image."""
        side, crop_pct = self.card.input_size[-1], self.card.crop_pct
        return Look(self._transform(image)[None], *centre_crop(image.size, side, crop_pct))

    def share_seen(self, image: Image) -> float:
        """How much of an image is in the centre that the network sees."""
        return share_seen(image.size, self.card.input_size[-1], self.card.crop_pct)

    def run(self, names: Sequence[str], images: Sequence[Image], *, topk: int = 5) -> list[ClassificationResult]:
        """The `topk` most likely classes of each image; all of them if the network has fewer."""
        if not images:
            return []
        found = self._probabilities(images)
        most = min(topk, found.shape[1] if self.within is None else len(self.within))
        # of equal ones the first class comes first
        ranks = (-found).argsort(1, kind="stable")[:, :most]
        classes = self.card.classes
        return [
            ClassificationResult(name, 0.0, tuple(classes[index] for index in best), tuple(scores[best].tolist()))
            for name, best, scores in zip(names, ranks, found, strict=True)
        ]

    def _probabilities(self, images: Sequence[Image]) -> NDArray[Any]:
        """Of each class for each image, `[N, classes]` in float32; 0 for classes that are not to be chosen from."""
        import torch

        inputs = [self._transform(image) for image in images]
        # whole pictures differ in size
        batches = [one[None] for one in inputs] if self.takes_pixels else [torch.stack(inputs)]
        with torch.inference_mode():
            logits = torch.cat([self.model(batch.to(self.device)) for batch in batches]).float()
            found: NDArray[Any] = among(logits, self.within).softmax(1).cpu().numpy()
        return found

    @contextmanager
    def open_output(self, path: str | Path, **options: Any) -> Iterator[Add]:
        """JSON or CSV, by the suffix of `path`.

        JSON: `{"results": [{"file", "seconds", "labels", "scores"}], "skipped": [{"file", "reason"}]}`. CSV: one
        row per image, in order, with the columns file, label_1, score_1, ..., seconds, error.
        """
        self.check_output(path)
        suffix = path_of(path).suffix.lower()
        with (
            atomic_path(path) as partial,
            partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
        ):
            yield from _json(file) if suffix == ".json" else _csv(file)


def _json(file: TextIO) -> Iterator[Add]:
    skipped: list[dict[str, Any]] = []
    between = iter(["\n"])
    file.write('{"results": [')

    def add(result: Any, name: str) -> None:
        if isinstance(result, SkippedImage):
            skipped.append({"file": result.file, "reason": result.reason})
        else:
            found = {name: getattr(result, name) for name in ("file", "seconds", "labels", "scores")}
            file.write(next(between, ",\n") + json.dumps(found, ensure_ascii=False))

    yield add
    file.write(f'\n], "skipped": {json.dumps(skipped, indent=1, ensure_ascii=False)}}}\n')


def _csv(file: TextIO) -> Iterator[Add]:
    writer = csv.writer(file)
    # the number of columns is known from the first readable image
    waiting: list[SkippedImage] = []
    ranks = -1

    def begin(count: int) -> None:
        nonlocal ranks
        ranks = count
        columns = [name for rank in range(1, ranks + 1) for name in (f"label_{rank}", f"score_{rank}")]
        writer.writerow(["file", *columns, "seconds", "error"])
        for skipped in waiting:
            add(skipped, "")

    def add(result: Any, name: str) -> None:
        if isinstance(result, SkippedImage):
            if ranks < 0:
                waiting.append(result)
            else:
                writer.writerow([result.file, *[""] * (2 * ranks), "", result.reason])
            return
        if ranks < 0:
            begin(len(result.labels))
        ranked = zip(result.labels, result.scores, strict=True)
        cells = [cell for label, score in ranked for cell in (label, f"{score:.6f}")]
        writer.writerow([result.file, *cells, f"{result.seconds:.6f}", ""])

    yield add
    if ranks < 0:
        begin(0)


def share_seen(size: tuple[int, int], side: int, crop_pct: float) -> float:
    """How much of an image (width, height) is in the square cut from it, 0 to 1."""
    (height, width), _ = centre_crop(size, side, crop_pct)
    return min(1.0, side / height) * min(1.0, side / width)


def centre_crop(size: tuple[int, int], side: int, crop_pct: float) -> tuple[tuple[int, int], tuple[int, int]]:
    """Size (height, width) that an image (width, height) is resized to, and (top, left) of the square cut from it."""
    # as torchvision resizes the shorter side and rounds the crop
    short = round(side / crop_pct)
    width, height = size
    least = min(width, height)
    resized = (int(short * height / least), int(short * width / least))
    return resized, (round((resized[0] - side) / 2), round((resized[1] - side) / 2))

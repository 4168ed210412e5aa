"""Classify images with a trained checkpoint: typed results, in batches, with unreadable files set aside.

Example:
    >>> classifier = Classifier.from_checkpoint("runs/digits/best.ckpt")  # doctest: +SKIP
    >>> classifier.predict(["seven.png"])[0].label  # doctest: +SKIP
    '7'
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from involution.predict.files import PredictError, SkippedImage, find_device, results_format

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from involution.engine.checkpoint import ModelCard


@dataclass(frozen=True)
class ClassificationResult:
    """The most likely classes of one image.

    Args:
        file: Path of the image, or `image 0`, `image 1`, ... for one given in memory.
        labels: Class names, most likely first.
        scores: Their probabilities (softmax), in 0..1.
        seconds: Time for this image: its batch's preparation and forward pass, shared evenly.
    """

    file: str
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    seconds: float

    @property
    def label(self) -> str:
        """The most likely class."""
        return self.labels[0]

    @property
    def score(self) -> float:
        """The probability of the most likely class."""
        return self.scores[0]


class Classifier:
    """A trained model with everything that it needs to classify images.

    Args:
        model: Network with `len(card.classes)` outputs, used in eval mode on the device where it is.
        card: What the checkpoint tells about it: classes, input size, normalisation.
    """

    def __init__(self, model: nn.Module, card: ModelCard) -> None:
        from involution.data.transforms import eval_transform

        self.model = model.eval()
        self.card = card
        self.device = next(model.parameters()).device
        self._transform = eval_transform(
            card.input_size[-1], card.input_size[0], card.mean, card.std, card.interpolation, card.crop_pct
        )

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str = "auto") -> Classifier:
        """Read a checkpoint that `involution classify train` wrote.

        Args:
            path: best.ckpt or last.ckpt of a run.
            device: Where the network runs; "auto" takes an accelerator if there is one.

        Raises:
            CheckpointError: If the file is missing or no classification checkpoint.
            PredictError: If there is no such device.
        """
        from involution.engine.checkpoint import load_classifier

        return cls(*load_classifier(path, find_device(device)))

    def predict(
        self, images: Iterable[str | Path | Image], *, batch_size: int = 64, topk: int = 5
    ) -> list[ClassificationResult]:
        """Classify images, all of which must be readable; `stream` sets unreadable ones aside instead.

        Raises:
            ImageError: At the first image that cannot be read.
        """
        from involution.data.images import ImageError

        results = []
        for result in self.stream(images, batch_size=batch_size, topk=topk):
            if isinstance(result, SkippedImage):
                raise ImageError(f"{result.file}: {result.reason}")
            results.append(result)
        return results

    def stream(
        self, images: Iterable[str | Path | Image], *, batch_size: int = 64, topk: int = 5
    ) -> Iterator[ClassificationResult | SkippedImage]:
        """Classify images one batch at a time, in the order given, holding one batch in memory.

        Args:
            images: Paths or PIL images, of any number.
            batch_size: Images per forward pass.
            topk: Classes per image; all of them where the model has fewer.

        Yields:
            For each image a `ClassificationResult`, or a `SkippedImage` if it could not be read.
        """
        if batch_size < 1 or topk < 1:
            raise PredictError(f"wanted batch_size and topk of 1 or more, got {batch_size} and {topk}")
        numbered = enumerate(images)
        while batch := list(islice(numbered, batch_size)):
            yield from self._classify(batch, topk)

    def prepare(self, image: Image) -> Tensor:
        """The network's input `[C, H, W]` for an image, resized, cropped and normalised as in training."""
        from involution.data.images import to_8_bit

        return self._transform(to_8_bit(image))

    def _classify(
        self, batch: Sequence[tuple[int, str | Path | Image]], topk: int
    ) -> list[ClassificationResult | SkippedImage]:
        start = time.perf_counter()
        names = [str(image) if isinstance(image, str | Path) else f"image {index}" for index, image in batch]
        inputs = [self._read(image, name) for (_, image), name in zip(batch, names, strict=True)]
        tensors = [item for item in inputs if not isinstance(item, SkippedImage)]
        if not tensors:
            return [item for item in inputs if isinstance(item, SkippedImage)]
        with torch.inference_mode():
            probabilities = self.model(torch.stack(tensors).to(self.device)).float().softmax(1)
            top = probabilities.topk(min(topk, probabilities.shape[1]), dim=1)
        classes = self.card.classes
        labels = iter([tuple(classes[index] for index in row) for row in top.indices.tolist()])
        scores = iter(top.values.tolist())
        seconds = (time.perf_counter() - start) / len(tensors)
        return [
            item
            if isinstance(item, SkippedImage)
            else ClassificationResult(name, next(labels), tuple(next(scores)), seconds)
            for name, item in zip(names, inputs, strict=True)
        ]

    def _read(self, image: str | Path | Image, name: str) -> Tensor | SkippedImage:
        from involution.data.images import ImageError, read_image

        if isinstance(image, str | Path):
            try:
                image = read_image(image)
            except ImageError as error:
                return SkippedImage(name, str(error).removeprefix(f"{name}: "))
        return self.prepare(image)


def write_results(path: str | Path, results: Sequence[ClassificationResult | SkippedImage]) -> None:
    """Write results as JSON or CSV, by the suffix of `path`; the file appears complete or not at all.

    JSON: `{"results": [{"file", "labels", "scores", "seconds"}], "skipped": [{"file", "reason"}]}`. CSV: one
    row per image, in order, with the columns file, label_1, score_1, ..., seconds, error.
    """
    from involution.engine.files import atomic_path

    text = _as_json(results) if results_format(path) == ".json" else _as_csv(results)
    try:
        with atomic_path(path) as partial:
            partial.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise PredictError(f"can't write {path}: {error.strerror}") from error


def _as_json(results: Sequence[ClassificationResult | SkippedImage]) -> str:
    done = [vars(result) for result in results if isinstance(result, ClassificationResult)]
    skipped = [vars(result) for result in results if isinstance(result, SkippedImage)]
    return json.dumps({"results": done, "skipped": skipped}, indent=2, ensure_ascii=False) + "\n"


def _as_csv(results: Sequence[ClassificationResult | SkippedImage]) -> str:
    topk = max((len(result.labels) for result in results if isinstance(result, ClassificationResult)), default=0)
    columns = [name for rank in range(1, topk + 1) for name in (f"label_{rank}", f"score_{rank}")]
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["file", *columns, "seconds", "error"])
    for result in results:
        if isinstance(result, SkippedImage):
            writer.writerow([result.file, *[""] * len(columns), "", result.reason])
        else:
            ranked = [
                cell
                for label, score in zip(result.labels, result.scores, strict=True)
                for cell in (label, f"{score:.6f}")
            ]
            writer.writerow([result.file, *ranked, f"{result.seconds:.6f}", ""])
    return buffer.getvalue()

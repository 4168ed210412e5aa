"""Using a trained network on images, for any task: reading, batching, setting unreadable files aside."""

from __future__ import annotations

import glob
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, overload

from typing_extensions import Self

from involution.data.addresses import path_of
from involution.data.errors import printable
from involution.data.findings import Findings, some
from involution.data.images import ImageError, Reading, read_image
from involution.data.noticed import HARDLY_SEEN, Noticed, is_colourful
from involution.data.walk import images_below
from involution.engine.files import check_folder, check_output, is_ours
from involution.engine.settings import MOST

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from involution.engine.checkpoint import ModelCard


class PredictError(ValueError):
    """A prediction that can't be done as asked."""


@dataclass(frozen=True)
class SkippedImage:
    """An image that could not be read, and why.

    Attributes:
        file: Path of the image, or its name.
        reason: Why, in words.
        kind: Why, in a word: one of `ImageError`, or `network` if the network can't take it.
    """

    file: str
    reason: str
    kind: str = "broken"


@dataclass(frozen=True)
class Encoded:
    """An image file's content, from wherever it comes.

    Attributes:
        name: What results and errors call it.
        content: The bytes of a file, in any format that is read.
    """

    name: str
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Result(ABC):
    """The result for one image, to which a task adds its own.

    Attributes:
        file: Path of the image; `image`, or `image 0`, `image 1`, … of several, for one given in memory.
        seconds: Time for this image, from reading to result, shared evenly within a batch.
        reading: How the image was read.
    """

    file: str
    seconds: float
    reading: Reading = field(default_factory=Reading, kw_only=True, repr=False, compare=False)

    @abstractmethod
    def cells(self) -> list[str]:
        """The cells of a table for this image, apart from its file."""

    @property
    def found(self) -> int:
        """How many things were found."""
        return 1

    @property
    def full(self) -> bool:
        """Whether as many things were found as can be, so that others may be missing."""
        return False

    def row(self) -> dict[str, Any]:
        """The result in plain types, with the names of `Predictor.row_types`."""
        return {"cells": self.cells()}

    def seen(self, image: str | Path | Image, size: tuple[int, int]) -> Image:
        """The image to draw on, read as for the prediction.

        Args:
            image: A path or PIL image.
            size: Height and width that it had then.

        Raises:
            ImageError: If it can't be read.
            PredictError: If it is of another size.
        """
        found = read_image(image, reading=self.reading)
        if (found.height, found.width) != tuple(size):
            raise PredictError(
                f"wanted the image of the prediction, {size[1]} x {size[0]} pixels, got {found.width} x {found.height}"
            )
        return found

    def draw(self, image: str | Path | Image) -> Image:
        """A copy of the image, a path or PIL image, with the result drawn on it."""
        raise NotImplementedError(f"{type(self).__name__} has no picture")

    def draw_explained(self, image: str | Path | Image) -> Image:
        """The same with a legend below it, where colours need one."""
        return self.draw(image)


R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class Option:
    """A setting of a prediction, also offered on the command line.

    Attributes:
        name: of the argument; on the command line with dashes.
        default: its default.
        help: one line.
        kind: its type.
        choices: the allowed values; empty for any of its type.
    """

    name: str
    default: int | float | str | None
    help: str
    kind: type = str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Look:
    """An image as given to the network, and the way back to the file's pixels.

    Attributes:
        input: [1, C, H, W], normalised.
        resized: (height, width) of the image before it is cropped.
        offset: (top, left) of the input in the resized image.
    """

    input: Tensor
    resized: tuple[int, int]
    offset: tuple[int, int] = (0, 0)


# takes a `Result` or a `SkippedImage`, and the name for a file of this image, without suffix
Add = Callable[[Any, str], None]


class Predictor(ABC, Generic[R]):
    """A trained network with everything needed to use it on images.

    Args:
        model: The network, used in eval mode on the device where it is; or an exported file that a subclass runs.
        card: The card of its checkpoint.

    Attributes:
        task: Name of the task.
        verb: What it does to an image, in the past tense.
        options: Settings of `stream`, for the command line.
        batch_size: Default number of images that `stream` handles at a time.
        output: What `open_output` expects, `FILE` or `FOLDER`, and what it writes.
        suffixes: What the name of a file for `open_output` may end in; anything if empty.
        output_options: Settings of `open_output`, for the command line.
        draws: Whether its results can be drawn.
        row_types: Names and types of `Result.row`: int, float, text, bytes, or a "list of" these.
        channels: Channels of the network's input.
        reading: How it wants its images read, as in the training.
        within: Labels that alone it chooses from, as in an evaluation on data of fewer classes; None for all.
    """

    task: ClassVar[str]
    verb: ClassVar[str]
    options: ClassVar[tuple[Option, ...]] = ()
    batch_size: ClassVar[int] = 1
    output: ClassVar[tuple[str, str]]
    suffixes: ClassVar[tuple[str, ...]] = ()
    output_options: ClassVar[tuple[Option, ...]] = ()
    draws: ClassVar[bool] = False
    row_types: ClassVar[Mapping[str, str]] = {"cells": "list of text"}
    channels: int = 3

    def __init__(self, model: nn.Module, card: ModelCard) -> None:
        self.model = model
        self.card = card
        # what runs an exported file need be no module, and may have no parameters
        self.device: Any = "cpu"
        if hasattr(model, "parameters"):
            model.eval()
            self.device = next((parameter.device for parameter in model.parameters()), self.device)
        self.reading = Reading.of(card.recipe.get("data", {}))
        # an exported file may prepare 8-bit pictures in its graph
        self.takes_pixels = bool(getattr(model, "takes_pixels", False))
        self.within: Sequence[int] | None = None

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str = "auto") -> Self:
        """Read a checkpoint of this task.

        Args:
            path: best.ckpt or last.ckpt of a run.
            device: Where the network runs; "auto" uses an accelerator if there is one.

        Raises:
            CheckpointError: If the file is missing or not a checkpoint of this task.
            ConfigError: If there is no such device.
        """
        from involution.engine.devices import find_device
        from involution.engine.loading import load

        return cls(*load(path, find_device(device), task=cls.task))

    def optimize(self) -> Self:
        """Let the network's convolutions do the norms, ReLUs and sums that follow them, which is faster.

        Results differ by rounding. The network then predicts alone: it can't be trained, and has no norms to look into.
        The commands that predict do this; see `involution.models.optimize_for_inference`.

        Returns:
            The predictor itself.
        """
        from involution.models import optimize_for_inference

        optimize_for_inference(self.model)
        return self

    @overload
    def predict(self, images: str | Path | Image, **options: Any) -> R: ...

    @overload
    def predict(self, images: Iterable[str | Path | Image], **options: Any) -> list[R]: ...

    def predict(self, images: Any, **options: Any) -> Any:
        """Use the network on one image, or on several.

        Args:
            images: A path or PIL image, or any number of them.
            **options: Those of `stream`.

        Returns:
            One result, or a list of them.

        Raises:
            ImageError: At the first image that can't be read; `stream` sets such images aside instead.
            PredictError: For invalid options.
        """
        import PIL.Image

        one = isinstance(images, str | Path | PIL.Image.Image)
        results = []
        for result in self.stream([images] if one else images, **options):
            if isinstance(result, SkippedImage):
                raise ImageError(f"{result.file}: {result.reason}")
            results.append(result)
        if not one:
            return results
        return results[0] if isinstance(images, str | Path) else replace(results[0], file="image")

    def stream(
        self,
        images: Iterable[str | Path | Image | Encoded | SkippedImage],
        *,
        batch_size: int | None = None,
        noticed: Noticed | None = None,
        **options: Any,
    ) -> Iterator[R | SkippedImage]:
        """Use the network on images in the given order, keeping one batch in memory.

        Args:
            images: Paths, PIL images or contents of files, of any number; what is known to be no image stays as it is.
            batch_size: Images that are read at a time.
            noticed: Told what is worth telling of the images as they are read; `Noticed.lines` has it in words.
            **options: Those of `run`.

        Yields:
            For each image a result, or a `SkippedImage` if it could not be read or is of a size that the network can't
            take.
        """
        self.check_call(batch_size=batch_size, **options)
        size = self.batch_size if batch_size is None else batch_size
        numbered = enumerate(images)
        while batch := list(islice(numbered, size)):
            start = time.perf_counter()
            items = [_read(image, f"image {index}", self.reading, noticed) for index, image in batch]
            pictures = [item for item in items if not isinstance(item[1], SkippedImage)]
            for name, picture in pictures:
                if noticed is not None and self.share_seen(picture) < HARDLY_SEEN:
                    noticed.count("cropped", name)
                if noticed is not None and self.channels == 1 and is_colourful(picture):
                    noticed.count("colours", name)
            results = iter(self._run_all(pictures, **options))
            seconds = (time.perf_counter() - start) / max(len(pictures), 1)
            for _, item in items:
                result = item if isinstance(item, SkippedImage) else next(results)
                if isinstance(result, SkippedImage):
                    yield result
                else:
                    if noticed is not None and result.full:
                        noticed.count("full", result.file)
                    yield replace(result, seconds=seconds, reading=self.reading)

    def _run_all(self, pictures: Sequence[tuple[str, Image]], **options: Any) -> Sequence[R | SkippedImage]:
        """The results of a batch; an image that the network can't take does not cost the others theirs."""
        try:
            return self.run([name for name, _ in pictures], [picture for _, picture in pictures], **options)
        except (RuntimeError, ValueError, ArithmeticError, MemoryError) as error:
            # our own errors are about what was asked for, not about an image
            if type(error).__module__.startswith("involution.") and not isinstance(error, ImageError):
                raise
            if len(pictures) > 1:
                return [result for picture in pictures for result in self._run_all([picture], **options)]
            size = "{} x {}".format(*pictures[0][1].size)
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            return [SkippedImage(pictures[0][0], f"the network can't take its {size} pixels ({reason})", "network")]

    @classmethod
    def check_call(cls, *, batch_size: int | None = None, **options: Any) -> None:
        """Raise `PredictError` for invalid arguments of `stream`; needs no network."""
        if batch_size is not None and not 1 <= batch_size <= MOST:
            raise PredictError(f"wanted batch_size from 1 to {MOST}, got {batch_size}")
        cls.check_options(**options)

    @classmethod
    def check_options(cls, *args: Any, **options: Any) -> None:
        """Raise `PredictError` for invalid options."""

    def remarks(self, **options: Any) -> list[str]:
        """What this network can't do of what the options ask for, a line each."""
        return []

    @abstractmethod
    def run(self, names: Sequence[str], images: Sequence[Image], *args: Any, **options: Any) -> list[R]:
        """The results of a batch of 8-bit images."""

    @abstractmethod
    def look(self, image: Image) -> Look:
        """An 8-bit image as given to the network."""

    def share_seen(self, image: Image) -> float:
        """How much of an image the network sees, 0 to 1; the rest is cropped away."""
        return 1.0

    @property
    def body(self) -> nn.Module:
        """The part of the network that accepts `look(image).input`."""
        return self.model

    @abstractmethod
    def columns(self, **options: Any) -> list[str]:
        """Titles of a table's columns after the file, for `Result.cells`; those ending in % are right-aligned."""

    def table(self, rows: list[list[str]], **options: Any) -> tuple[list[str], list[list[str]]]:
        """Titles and rows of the table of results.

        Args:
            rows: The file and `Result.cells` of each image.
            **options: Of the prediction.
        """
        return ["file", *self.columns(**options)], rows

    def summary(self, done: int, found: int, skipped: int) -> str:
        """One line about all images."""
        return f"{done:,} {self.verb}, {skipped:,} skipped"

    @classmethod
    def check_output(cls, path: str | Path) -> None:
        """See that `open_output` can write there, before the work and without making anything.

        Raises:
            PredictError: For an unsuitable path.
            OSError: If it can't be written, or holds a file that must not be replaced.
        """
        if cls.output[0] == "FOLDER":
            check_folder(path)
            return
        if cls.suffixes and path_of(path).suffix.lower() not in cls.suffixes:
            raise PredictError(f"wanted an output file that ends in {' or '.join(cls.suffixes)}, got {str(path)!r}")
        check_output(path)

    @abstractmethod
    def open_output(self, path: str | Path, *args: Any, **options: Any) -> AbstractContextManager[Add]:
        """Write results as they come; a file is never left half written.

        Args:
            path: A file or a folder, by `output`.
            *args: None.
            **options: `images`, the files that will be added, `noticed`, which is told what is worth telling of them,
                and those of `output_options`.

        Raises:
            PredictError: For an unsuitable path.
            OSError: If it can't be written.
        """


def among(logits: Tensor, within: Sequence[int] | None) -> Tensor:
    """Logits [N, classes, ...] without the classes that are not to be chosen from.

    Args:
        logits: of all classes.
        within: the labels of those that are; None for all.
    """
    if within is None:
        return logits
    kept = logits.new_full(logits.shape, -math.inf)
    kept[:, within] = logits[:, within]
    return kept


def _read(
    image: str | Path | Image | Encoded | SkippedImage, name: str, reading: Reading, noticed: Noticed | None
) -> tuple[str, Any]:
    if isinstance(image, SkippedImage):
        return image.file, image
    source: str | Path | Image | bytes
    name, source = (image.name, image.content) if isinstance(image, Encoded) else (name, image)
    name = str(image) if isinstance(image, str | Path) else name
    try:
        return name, read_image(source, name=name, reading=reading, noticed=noticed)
    except ImageError as error:
        return name, SkippedImage(name, str(error).removeprefix(printable(f"{name}: ")), error.kind)


def _photos_below(folder: Path, findings: Findings | None) -> list[Path]:
    """All image files below a folder, without the label maps where it is a data set of such."""
    from involution.data.pair_folders import find_pairs
    from involution.data.registry import formats

    found = list(images_below(folder, findings))
    if not any(one.name == "masks" and one.recognises(folder) for one in formats("segment")):
        return found
    labels = {pair.labels for pair in find_pairs(folder, Findings()).values()} - {None}
    maps = [file for file in found if not labels.isdisjoint(file.parents)]
    if findings is not None and maps:
        findings.ignore("label maps of a data set", *maps)
    return [file for file in found if labels.isdisjoint(file.parents)]


def drawn_factor(height: int, width: int) -> int:
    """By how much a small image is enlarged before something is drawn on it; one side of a narrow one stays small."""
    return max(1, min(round(480 / min(height, width)), 2000 // max(height, width)))


def not_found(source: str | Path) -> str:
    """What to say of a source in which `find_images` found nothing."""
    there = glob.has_magic(str(source)) or os.path.lexists(source)
    return f"no images found in {printable(source)}" if there else f"{printable(source)}: no such file or folder"


def find_images(sources: Iterable[str | Path], findings: Findings | None = None) -> tuple[list[Path], list[str]]:
    """Turn files, folders and glob patterns into a list of files.

    A folder stands for all image files in and below it, by their content and sorted; a file is taken whatever it
    holds; anything else is a glob pattern (`**` for all folders below). The sources keep their order, and a
    file that appears twice is taken once. The label maps of a data set are no images.

    Args:
        sources: files, folders and patterns.
        findings: told which files of folders were not taken, and why.

    Returns:
        The files, and the sources that matched nothing.
    """
    files: dict[str, Path] = {}
    unmatched = []
    named: list[Path] = []
    for source in sources:
        path = Path(source)
        # an existing name is that file, even if it contains brackets or stars
        matches = [path] if path.exists() else [Path(match) for match in sorted(glob.glob(str(source), recursive=True))]
        found = [file for match in matches for file in (_photos_below(match, findings) if match.is_dir() else [match])]
        ours = [file for file in found if is_ours(file)]
        if path.is_file():
            named += ours
        else:
            if findings is not None and ours:
                findings.ignore("made by an earlier prediction or command", *ours)
            found = [file for file in found if file not in set(ours)]
        for file in found:
            files.setdefault(os.path.abspath(file), file)
        if not found:
            unmatched.append(str(source))
    if findings is not None and named:
        findings.note(f"taken by name, though made by an earlier prediction or command: {some(list(map(str, named)))}")
    return list(files.values()), unmatched

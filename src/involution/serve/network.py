"""A network that is served: its predictor, the options of a request, and an answer or a refusal for each image."""

from __future__ import annotations

import io
import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from involution.data.images import MAX_PIXELS, Header, ImageError, look
from involution.data.noticed import Noticed
from involution.engine.predictor import Encoded, Option, PredictError, Predictor, SkippedImage
from involution.extras import require
from involution.serve.answers import answer
from involution.serve.errors import Refused, ServeError, nearest_or_all
from involution.serve.logs import told

if TYPE_CHECKING:
    from PIL.Image import Image

    from involution.serve.settings import Settings

_LOG = logging.getLogger("involution.serve")
# what names a place on this machine or in its memory, in the words of libraries
_PRIVATE = re.compile(r"[/\\<>]|0x[0-9a-f]")
# of a number; Python's own would take others
_DIGITS = frozenset("0123456789+-.e")
_LONGEST = 40
# of the server, and not of a predictor
_MASKS = Option("masks", "rle", "what masks are given as: COCO's run lengths, or polygons", str, ("rle", "polygons"))
_STATUS = {"format": (415, "format"), "large": (413, "pixels")}


class Network:
    """A network with its name.

    Args:
        name: that it is served as.
        predictor: as for `involution predict`.
        runtime: what runs it.
        settings: sizes of batches, and limits.
    """

    def __init__(self, name: str, predictor: Predictor[Any], runtime: str, settings: Settings) -> None:
        self.name, self.predictor, self.runtime = name, predictor, runtime
        self.most_pixels = settings.max_pixels
        self.options = {option.name: option for option in predictor.options if option.name != "batch_size"}
        if predictor.task == "detect":
            self.options |= {_MASKS.name: _MASKS}
        self.sizes = _sizes(predictor, runtime, settings.batch_size)

    @property
    def task(self) -> str:
        """Name of its task."""
        return self.predictor.task

    def read_options(self, given: Mapping[str, str]) -> dict[str, Any]:
        """The options of a prediction, from the words of a request; raises `Refused`."""
        found = {name: option.default for name, option in self.options.items()}
        for name, word in given.items():
            if name not in self.options:
                known = ["model", *self.options]
                said = f"no parameter of this network: {name[:_LONGEST]!r}{nearest_or_all(name[:_LONGEST], known)}"
                raise Refused(422, "option", said)
            found[name] = _value(self.options[name], word)
        try:
            self.predictor.check_options(**{name: value for name, value in found.items() if name != _MASKS.name})
        except PredictError as error:
            raise Refused(422, "option", str(error)) from error
        return found

    def pixels(self, image: bytes) -> int:
        """How many pixels an image has, by its header; raises `Refused` for what is none, or too large."""
        try:
            width, height = look(io.BytesIO(image), self.predictor.reading, name="image").size
        except ImageError as error:
            # the image library has a limit of its own
            if error.kind == "large":
                most = min(self.most_pixels, MAX_PIXELS)
                raise Refused(413, "pixels", f"more than the {most:,} pixels that are taken") from error
            raise _refusal(str(error).removeprefix("image: "), error.kind) from error
        if width * height > self.most_pixels:
            said = f"{width} x {height} pixels are more than the {self.most_pixels:,} that are taken"
            raise Refused(413, "pixels", said)
        return width * height

    def run(self, images: Sequence[bytes], options: Mapping[str, Any]) -> list[bytes | Refused]:
        """The answer for each image, or why there is none; one of them never costs the others theirs."""
        try:
            own = dict(options)
            masks = own.pop(_MASKS.name, _MASKS.default)
            names = [str(place) for place in range(len(images))]
            encoded = [Encoded(name, image) for name, image in zip(names, images, strict=True)]
            noticed = _Apart()
            found = list(self.predictor.stream(encoded, batch_size=len(images), noticed=noticed, **own))
            reading = self.predictor.reading
            notes = [noticed.each[name].of_one(reading) for name in names]
            return [self._answer(result, said, masks) for result, said in zip(found, notes, strict=True)]
        # whatever a library makes of an image
        except Exception as error:
            if len(images) > 1:
                return [outcome for image in images for outcome in self.run([image], options)]
            _LOG.error("a fault", extra={"fields": {"model": self.name, "fault": told(error)}})
            return [Refused(503, "fault", "this image could not be worked on; the log says why")]

    def _answer(self, result: Any, notes: Sequence[str], masks: Any) -> bytes | Refused:
        if not isinstance(result, SkippedImage):
            return answer(self.name, self.task, result, notes, masks)
        if result.kind == "network":
            # the words of a runtime can name files
            _LOG.warning("not taken", extra={"fields": {"model": self.name, "reason": result.reason}})
        return _refusal(result.reason, result.kind)

    def warm_up(self) -> None:
        """Run it once in each size of batch, so that the first request need not wait for what is set up then."""
        import PIL.Image

        side = self.predictor.card.input_size[-1] or 256
        file = io.BytesIO()
        PIL.Image.new("RGB" if self.predictor.channels == 3 else "L", (side, side)).save(file, "PNG")
        several = self.sizes if self.runtime == "openvino" else (self.sizes[0], self.sizes[-1])
        for size in dict.fromkeys(several):
            list(self.predictor.stream([Encoded("image", file.getvalue())] * size, batch_size=size))


class _Apart(Noticed):
    """Keeps what is noticed of each image of a batch apart, by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.each: defaultdict[str, Noticed] = defaultdict(Noticed)

    def header(self, name: str, header: Header) -> None:
        """Count an image by what its file says of it."""
        self.each[name].header(name, header)

    def add(
        self, name: str, header: Header, stored: Image, read: Image, value_range: tuple[float, float] | None
    ) -> None:
        """Count an image by what its file says and by its values."""
        self.each[name].add(name, header, stored, read, value_range)

    def count(self, kind: str, name: str) -> None:
        """Count an image as of a kind."""
        self.each[name].count(kind, name)


def _sizes(predictor: Predictor[Any], runtime: str, most: int) -> tuple[int, ...]:
    """How many images can be given to a network at a time."""
    # one after the other in any case: images of different sizes
    most = 1 if predictor.takes_pixels else min(most, predictor.batch_size)
    if runtime != "openvino":
        return tuple(range(1, most + 1))
    # compiled for each size, of which few are kept
    return tuple(dict.fromkeys(min(size, most) for size in (1, 4, 16, most)))[:4]


def _value(option: Option, word: str) -> Any:
    if option.choices:
        if word not in option.choices:
            said = f"wanted {' or '.join(option.choices)} for {option.name}, got {word[:_LONGEST]!r}"
            raise Refused(422, "option", said)
        return word
    try:
        if len(word) > _LONGEST or not _DIGITS.issuperset(word):
            raise ValueError
        return option.kind(word)
    except ValueError as error:
        wanted = {int: "a whole number", float: "a number"}[option.kind]
        raise Refused(422, "option", f"wanted {wanted} for {option.name}, got {word[:_LONGEST]!r}") from error


def _refusal(reason: str, kind: str) -> Refused:
    status, name = _STATUS.get(kind, (422, "image" if kind != "network" else "size"))
    if kind == "network":
        reason = re.sub(r" \(.*", "", reason, flags=re.DOTALL)
    elif _PRIVATE.search(reason):
        reason = "broken or truncated image"
    return Refused(status, name, reason)


def load_networks(settings: Settings) -> list[Network]:
    """The networks that are served, ready to be used.

    Raises:
        ServeError: if there is none to be had.
        CheckpointError, ExportError, MissingExtra: for a file that can't be used.
    """
    from involution.export.load import is_exported, load_exported
    from involution.export.threads import use_threads

    use_threads(settings.worker_threads())
    found = []
    for name, path in settings.models:
        file = is_exported(path)
        runtime = settings.runtime if settings.runtime != "auto" else file.runtime if file else "torch"
        if file is None and runtime == "torch":
            require("torch", "timm")
            from involution.predict import load_predictor

            predictor = load_predictor(path, settings.device).optimize()
        else:
            if settings.device not in ("auto", "cpu"):
                raise ServeError(f"{path}: an exported file runs on the CPU, got --device {settings.device}")
            predictor = load_exported(path, runtime)
        network = Network(name, predictor, runtime, settings)
        network.warm_up()
        found.append(network)
    return found

"""What is worth telling of images that are not plain: turned by EXIF, several in a file, of more than 8 bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from involution.data.findings import Findings, counted, some
from involution.data.images import Header, ImageError, Reading, is_deep, read_image

if TYPE_CHECKING:
    from PIL.Image import Image

    from involution.data.contents import Stored

# of a range that is used less than this share is surely not the range that was meant
USED = 0.1
# of an image of which a network sees less than this share it is told; the middle of a usual photo, 3 : 2, is two thirds
HARDLY_SEEN = 0.4
# as many pixels as this at either end of their values may be broken ones, or words and marks on the picture: 1 in 100
_FEW = 100
_LOOKED = 1 << 16
# mean difference of the strongest and the weakest colour, of 255, that makes an image one in colours
_COLOURFUL = 12.0
# images of a split that are looked at for colours
_FIRST = 16
# what reads the pixels as stored, to those who use a network
OF_TRAINING = "--data.exif ignore in the training"
_SHOWN = 3
_NARROW, _DIM, _OUTSIDE = "narrow", "dim", "outside"


def spread(pixels: Any) -> tuple[float, float]:
    """Between which values nearly all pixels of an image are: all but 1 in 100 at either end.

    Args:
        pixels: an array, or an image of the image library; of many pixels some from all over are looked at.
    """
    import numpy as np

    values = np.asarray(pixels).reshape(-1)
    ordered = np.sort(values[:: (values.size // _LOOKED) | 1])
    few = len(ordered) // _FEW
    return float(ordered[few]), float(ordered[-1 - few])


def is_colourful(image: Image) -> bool:
    """Whether an 8-bit image is in colours, and not grey in a file of colours."""
    if image.mode == "L":
        return False
    import numpy as np

    small = image.convert("RGB")
    small.thumbnail((64, 64))
    pixels = np.asarray(small).astype(np.int16)
    return bool((pixels.max(-1) - pixels.min(-1)).mean() > _COLOURFUL)


def colour_lines(places: Sequence[Stored], reading: Reading, what: str) -> list[str]:
    """A line about images in colours for a network of grey ones; some from all over are looked at.

    Args:
        places: the images.
        reading: how they are read.
        what: what they are called: ``images of val``.
    """
    chosen = places[:: max(1, len(places) // _FIRST)][:_FIRST]
    names = []
    for place in chosen:
        # what can't be read is told by others
        with suppress(ImageError, OSError):
            if is_colourful(read_image(place.open(), name=str(place.file), reading=reading)):
                names.append(place.file.name)
    of = what if len(chosen) == len(places) else f"{len(chosen)} of {len(places):,} {what}"
    said = "in colours, of which the network of one channel sees the brightness alone"
    return [f"{of} {said}: {some(names)}"] if names else []


@dataclass
class Noticed:
    """Counts images by what is worth telling of them, and keeps the names of the first.

    Attributes:
        counts: how many images there are, by kind.
        names: the first of them.
        values: between which values nearly all pixels are of those that use little of their range.
    """

    counts: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)
    values: list[float] = field(default_factory=list)

    def header(self, name: str, header: Header) -> None:
        """Count an image by what its file says of it."""
        kinds = {
            "frames": header.several,
            "alpha": header.alpha,
            "more": header.more,
            "halved": header.halved,
            "inks": header.inks,
            "gamut": header.gamut,
            "no_data": header.no_data,
            "dark_end": header.dark_end,
            "turned": header.orientation > 1,
            "deep": is_deep(header.mode),
            "plain": not is_deep(header.mode),
        }
        for kind, true in kinds.items():
            if true:
                self.count(kind, name)

    def add(
        self, name: str, header: Header, stored: Image, read: Image, value_range: tuple[float, float] | None
    ) -> None:
        """Count an image by what its file says and by its values.

        Args:
            name: of the file.
            header: what the file says.
            stored: the image with all its bits.
            read: the same in 8 bits.
            value_range: the values that become black and white in images of more than 8 bits.
        """
        self.header(name, header)
        if value_range is not None and is_deep(header.mode):
            import numpy as np

            values = np.asarray(stored)
            least, most = spread(values)
            low, high = value_range
            if ((values < low) | (values > high)).mean() > 1 - USED:
                self.count(_OUTSIDE, name)
            elif min(most, high) - max(least, low) < USED * (high - low):
                self.count(_NARROW, name)
                self.values = [min([least, *self.values]), max([most, *self.values])]
        elif header.halved:
            least, most = spread(read)
            if most - least < USED * 255:
                self.count(_DIM, name)

    def merge(self, other: Noticed) -> None:
        """Add what was noticed elsewhere."""
        self.counts += other.counts
        for kind, names in other.names.items():
            self.names[kind] = [*self.names.get(kind, []), *names][:_SHOWN]
        values = [*self.values, *other.values]
        self.values = [min(values), max(values)] if values else []

    def to_dict(self) -> dict[str, Any]:
        """In plain types."""
        return {"counts": dict(self.counts), "names": self.names, "values": self.values}

    @classmethod
    def from_dict(cls, plain: Any) -> Noticed:
        """What `to_dict` returned.

        Raises:
            ValueError: for anything else.
        """
        try:
            counts = Counter({str(kind): int(count) for kind, count in plain["counts"].items()})
            names = {str(kind): [str(name) for name in found] for kind, found in plain["names"].items()}
            return cls(counts, names, [float(value) for value in plain["values"]])
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError("wanted counts, names and values of images") from error

    def lines(
        self, reading: Reading, where: str = "", refer: str = "", setting: str = "--data.exif ignore"
    ) -> list[str]:
        """What is worth saying, a line for each kind.

        Args:
            reading: how the images were read.
            where: what the lines begin with: ``train``.
            refer: annotations that refer to the pixels: ``boxes are``.
            setting: what reads the pixels as stored.
        """
        begin = f"{where}: " if where else ""
        return [f"{begin}{line}" for line in self._lines(reading, refer, setting)]

    def of_one(self, reading: Reading) -> list[str]:
        """The same of a single image, in words for the page and the server."""
        said = {
            "frames": "of several frames or pages the first is used",
            "alpha": "transparent parts are read as white",
            "more": "channels beside the colours are not read",
            "halved": "of 16 bits of colour the upper 8 are read",
            "inks": "its inks of print (CMYK) are read as RGB without their profile",
            "gamut": "its colours are those of another profile or gamma than sRGB's, which is not applied",
            "no_data": "the value that it names for pixels without data is read as any other",
            "dark_end": "its last pixels are zeros to the end of the file: black, or lost where a copy was broken off",
            "turned": "turned upright by its EXIF orientation",
            _NARROW: "nearly all values are {:g} to {:g}, less than a tenth of what becomes black to white".format(
                *self.values
            )
            if self.values
            else "",
            _OUTSIDE: "most of its values are outside of those that become black to white",
            _DIM: "its colours use less than a tenth of their 16 bits",
            "cropped": f"the network sees the middle alone, less than {HARDLY_SEEN:.0%} of it",
            "colours": "in colours, of which the network, trained on grey images, sees the brightness alone",
            "full": "as many objects as the detector finds in one image at most, so that others may be missing",
        }
        if reading.exif == "ignore":
            said["turned"] = "its EXIF orientation is ignored, as in the network's training"
        return [line for kind, line in said.items() if self.counts[kind]]

    def _lines(self, reading: Reading, refer: str, setting: str) -> Iterator[str]:
        for kind, said in _FROM_HEADERS.items():
            # where most images end so, they are dark there
            common = kind == "dark_end" and self.counts[kind] > max(
                _SHOWN, (self.counts["plain"] + self.counts["deep"]) / 2
            )
            if self.counts[kind] and not common:
                # what the setting is for
                aside = "; data.value_range does not apply" if kind == "halved" and reading.value_range else ""
                yield f"{said}{aside}: {self._some(kind)}"
        if self.counts["turned"] and reading.exif == "apply":
            meant = f"; {refer} taken to fit the upright images" if refer else ""
            yield (
                f"turned upright by their EXIF orientation: {self._some('turned')}{meant}; {setting} reads the pixels "
                "as stored"
            )
        elif self.counts["turned"]:
            yield f"EXIF orientation ignored: {self._some('turned')}"
        if self.counts["plain"] and not self.counts["deep"] and reading.value_range:
            yield "data.value_range does not apply: no image is read with more than 8 bits"
        if self.counts["deep"] and self.counts["plain"]:
            kept = ", to which data.value_range does not apply" if reading.value_range else ""
            deep, plain = self._some("deep"), self._some("plain")
            yield f"images of different depths: more than 8 bits in {deep}, 8 in {plain}{kept}"
        for kind, said in _OF_RESULTS.items():
            if self.counts[kind]:
                yield f"{said}: {self._some(kind)}"
        for warning in self.warnings(reading):
            yield f"warning: {warning}"

    def warnings(self, reading: Reading) -> list[str]:
        """Those about the values of images, without the word."""
        return list(self._of_values(reading))

    def _of_values(self, reading: Reading) -> Iterator[str]:
        if self.counts[_NARROW]:
            low, high = self.values
            whole = "{:g} to {:g}".format(*reading.value_range) if reading.value_range else "the range of their type"
            yield (
                f"images that use less than a tenth of {whole}: {self._some(_NARROW)}; nearly all values are "
                f"{low:g} to {high:g}, and --data.value_range in the training says what becomes black and white"
            )
        if self.counts[_OUTSIDE] and reading.value_range:
            whole = "{:g} to {:g}".format(*reading.value_range)
            yield (
                f"images with more than nine tenths of their pixels outside of {whole}, which data.value_range of the "
                f"training makes black to white: {self._some(_OUTSIDE)}"
            )
        if self.counts[_DIM]:
            yield (
                "images with colours of 16 bits that use less than a tenth of them, to which data.value_range does "
                f"not apply; scale them to 8 bits: {self._some(_DIM)}"
            )

    def _some(self, kind: str) -> str:
        known = {name for names in self.names.values() for name in names}
        return counted(self.counts[kind], [_shortest(name, known) for name in self.names[kind]])

    def count(self, kind: str, name: str) -> None:
        """Count an image as of a kind."""
        self.counts[kind] += 1
        names = self.names.setdefault(kind, [])
        if len(names) < _SHOWN:
            names.append(name)


def _shortest(name: str, others: Iterable[str]) -> str:
    """The end of a path by which it is told apart from others: its base name, with as many folders as that takes."""
    parts, *rest = (Path(path).parts for path in (name, *others))
    length = 1
    while length < len(parts) and any(path[-length:] == parts[-length:] for path in rest if path != parts):
        length += 1
    return "/".join(parts[-length:])


_FROM_HEADERS: Mapping[str, str] = {
    "frames": "files with several frames or pages, of which the first is used",
    "alpha": "images with an alpha channel, whose transparent parts are read as white",
    "more": "images with channels that are not read, beside the colours",
    "halved": "images with colours of 16 bits, of which the upper 8 are read",
    "inks": "images in the inks of print (CMYK), read as RGB without their profile",
    "gamut": "images with the colours of another profile or gamma than sRGB's, such as Display P3, which is not "
    "applied",
    "no_data": "images that name a value for pixels without data (GDAL's nodata), which is read as any other",
    "dark_end": "images whose last pixels are zeros to the end of the file: they are black, or lost where a copy was "
    "broken off",
}
_OF_RESULTS: Mapping[str, str] = {
    "cropped": f"images of which the network sees the middle alone, less than {HARDLY_SEEN:.0%} of them",
    "colours": "images in colours, of which the network, trained on grey ones, sees the brightness alone",
    "full": "images with as many objects as the detector finds in one at most, so that others may be missing (in the "
    "training, --model.args '{box_detections_per_img: 300}', of retinanet detections_per_img, allows more)",
    "unpredicted": "images of --annotations that are not predicted",
}


def tell_headers(
    files: Iterable[tuple[Path, object]], reading: Reading, findings: Findings, where: str, refer: str = ""
) -> None:
    """Say what is done with images that are not plain: several pictures in one, turned by EXIF, of different depths.

    Args:
        files: image files with their headers; what is no `Header` is passed over.
        reading: how they are read.
        findings: told of them.
        where: what the messages begin with: ``train``.
        refer: annotations that refer to the pixels: ``boxes are``.
    """
    noticed = Noticed()
    for file, header in files:
        if isinstance(header, Header):
            noticed.header(str(file), header)
    for line in noticed.lines(reading, where, refer):
        findings.note(line)


def tell_frames(files: Iterable[tuple[Path, Header]], findings: Findings, where: str) -> None:
    """Say of which files with several pictures the first alone is used."""
    noticed = Noticed()
    for file, header in files:
        noticed.header(str(file), Header(header.size, header.stored, 1, "L", header.kind, header.several))
    for line in noticed.lines(Reading(), where):
        findings.note(line)

"""Reading image files that somebody else made: known by their content, sizes checked before a pixel is decoded.

One rule makes 8-bit grey or RGB of every file. Integers of 8 and 16 bits are scaled by the range of their type. 32-bit
integers and floats have no range of their own and want ``value_range``, which 16-bit files may have, too. Where a
TIFF file says that its 0 is white, black and white change places.
"""

from __future__ import annotations

import functools
import io
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from involution.data.colour_profile import is_other_png, is_other_than_srgb
from involution.data.errors import DataError, printable
from involution.data.file_ends import has_dark_end, lost_end
from involution.data.paths import why_unreadable
from involution.data.tiff import (
    bits_of,
    has_large_integers,
    has_more_channels,
    has_signed_bytes,
    is_preview,
    is_white_zero,
    lossy,
    names_no_data,
    why_unknown,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from involution.data.noticed import Noticed

MAX_PIXELS = 178_000_000
# above this number of files headers are not read beforehand: it would take minutes
CHECK_LIMIT = 50_000
# taken for images without a look inside
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".avif", ".jp2"),
    *(".heic", ".heif"),
)
# formats with decoders in the image library itself, by the library's feature that they need; the others call programs
# or are rarely seen
_FORMATS = {
    **dict.fromkeys(("JPEG", "PNG", "BMP", "TIFF", "GIF", "PPM")),
    "WEBP": "webp",
    "AVIF": "avif",
    "JPEG2000": "jpg_2000",
}
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
# of a file, in which JPEG 2000 and WebP tell how it is coded, behind its profile
_HEAD = 2**16
# the library joins the parts of a comment one by one
_MAX_GIF_WORDS = 1_000_000
_ORIENTATION = 0x0112
# EXIF's part on how files go together, and what cameras write there of pictures in Adobe RGB
_INTEROPERABILITY, _ADOBE_RGB = 0xA005, "R03"
# what `why_unreadable` says -> the kind of an error
_KINDS = {"no such file": "missing", "the file is empty (0 bytes)": "empty"}
_NO_RANGE = (
    "have no range of their own; save 8 or 16 bits, or say in the training, which predictions follow, what becomes "
    "black and white: --data.value_range LOW HIGH"
)


class ImageError(ValueError):
    """An image that can't be read; the message names the file and the cause.

    Attributes:
        kind: the cause in a word: missing, empty, unreadable (the system refuses it), format (not one that is read),
            large, values (without a range) or broken.
    """

    def __init__(self, message: object, kind: str = "broken") -> None:
        super().__init__(printable(message))
        self.kind = kind


class LoadingError(ImageError):
    """An image that passed the check of its data set and can't be read in training or evaluation."""


@dataclass(frozen=True)
class Reading:
    """How images are read.

    Args:
        exif: ``apply`` turns images upright as their EXIF orientation says, ``ignore`` takes the pixels as stored.
        value_range: the values that become black and white, in files of more than 8 bits; None for the type's range.
    """

    exif: str = "apply"
    value_range: tuple[float, float] | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Reading:
        """How a network wants its images read, by the data settings of its training."""
        value_range = settings.get("value_range")
        return cls(settings.get("exif", "apply"), (value_range[0], value_range[1]) if value_range else None)

    def __post_init__(self) -> None:
        if self.exif not in ("apply", "ignore"):
            raise DataError(f"exif must be apply or ignore, got {self.exif!r}")
        if self.value_range is not None and not -1e30 < self.value_range[0] < self.value_range[1] < 1e30:
            raise DataError(f"value_range must be two numbers, the lower one first, got {list(self.value_range)}")


@dataclass(frozen=True)
class Header:
    """What an image file says of itself.

    Attributes:
        size: width and height as `read_image` gives them.
        stored: width and height as the pixels are stored.
        orientation: EXIF's, 1 to 8; 1 is upright.
        mode: the image library's name of the pixels: L, RGB, I;16, …
        kind: the file's format: JPEG, PNG, …
        several: whether there are more frames or pages than the first, which alone is read.
        alpha: whether parts may be transparent, which are read as white.
        more: whether there are channels beside those that are read, such as near infrared.
        halved: whether it is in colour of 16 bits, of which the upper 8 are read.
        white_zero: whether its 0 is stored as white.
        inks: whether it is in the inks of print (CMYK), of which plain RGB is made without their profile.
        gamut: whether it says that its colours are others than sRGB's, for which they are taken.
        no_data: whether it names a value for pixels without data, which is read as any other.
        dark_end: whether its last pixels are zeros to the file's end, as where a copy was broken off.
    """

    size: tuple[int, int]
    stored: tuple[int, int]
    orientation: int
    mode: str
    kind: str
    several: bool = False
    alpha: bool = False
    more: bool = False
    halved: bool = False
    white_zero: bool = False
    inks: bool = False
    gamut: bool = False
    no_data: bool = False
    dark_end: bool = False


def read_image(
    source: str | os.PathLike[str] | bytes | BinaryIO | Image,
    *,
    name: str | None = None,
    reading: Reading | None = None,
    noticed: Noticed | None = None,
) -> Image:
    """Read an image as 8-bit grey or RGB, upright: the one way in which commands, the page and Python see an image.

    Transparent parts become white, more than 8 bits are scaled to 8, the EXIF orientation is applied, and of an
    animation the first frame is taken.

    Args:
        source: a file, its bytes, an open stream of one, or an image of the image library, opened or made.
        name: what an error calls the image; the path by default.
        reading: how it is read.
        noticed: told what is worth telling of it.

    Returns:
        An image of mode `L` where the source is grey, else `RGB`.

    Raises:
        ImageError: for a missing, empty, truncated or broken file, one that is no image, one whose values have no
            range, or one of more than `MAX_PIXELS` pixels (refused before decoding).
    """
    import PIL.Image

    reading = reading or Reading()
    if isinstance(source, PIL.Image.Image):
        return _converted(source, name or "image", reading, None, noticed)
    if isinstance(source, bytes):
        name = name or "image"
        if not source:
            raise ImageError(f"{name}: the file is empty (0 bytes)", "empty")
        return _decode(io.BytesIO(source), name, reading, noticed)
    if not isinstance(source, str | os.PathLike) and not hasattr(source, "read"):
        said = f"wanted a path, the bytes of a file or a PIL image, got {type(source).__name__}"
        raise ImageError(f"{name or 'image'}: {said}; PIL.Image.fromarray(array) makes an image of an array", "format")
    with _opened(source, name) as (file, shown):
        return _decode(file, shown, reading, noticed)


@contextmanager
def open_pixels(path: str | os.PathLike[str] | BinaryIO, reading: Reading | None = None) -> Iterator[Image]:
    """An image file, or an open stream of one, decoded as it is, in the mode that it has, turned as `read_image` does.

    Its ``info["lossy"]`` is what `involution.data.tiff.lossy` says of it, and ``info["most"]`` the largest value that
    its file can hold, where the library spreads 0 to it over 0 to 255.

    Raises:
        ImageError: as `read_image`.
    """
    with _opened(path, None) as (file, name):
        opened = _open(file, name)
        position = file.tell()
        file.seek(0)
        loss = lossy(opened, file.read(_HEAD))
        file.seek(position)
        most = _largest_stored(opened)
        image = _loaded(opened, name, reading or Reading())
        image.info |= {"lossy": loss, "most": most}
        yield image


def look(path: str | os.PathLike[str] | BinaryIO, reading: Reading | None = None, name: str | None = None) -> Header:
    """Read the header of an image file, or of an open stream, without decoding it; raises as `read_image` does."""
    reading = reading or Reading()
    with _opened(path, name) as (file, name):
        image = _open(file, name)
        if reading.value_range is None:
            _type_range(image, name)
        return _header(image, file, name, reading)


def _header(image: Image, file: BinaryIO | None, name: str, reading: Reading) -> Header:
    """Of an image that is not decoded yet; without a file it is one picture."""
    orientation = _orientation(image, name)
    stored = _stored_size(image)
    return Header(
        stored[::-1] if reading.exif == "apply" and orientation >= 5 else stored,
        stored,
        orientation,
        image.mode,
        image.format or "",
        file is not None and _has_several(image, file),
        _has_alpha(image),
        has_more_channels(image),
        _is_halved(image),
        is_white_zero(image),
        image.mode == "CMYK",
        is_other_than_srgb(image.info.get("icc_profile")) or is_other_png(image) or _is_adobe_rgb(image),
        names_no_data(image),
        file is not None and has_dark_end(file, image),
    )


def check_image(path: str | os.PathLike[str], reading: Reading | None = None) -> tuple[int, int]:
    """Check an image file's header and size without decoding it; raises as `read_image` does.

    Returns:
        Width and height, upright, as `read_image` gives it.
    """
    return look(path, reading).size


def is_image(path: str | os.PathLike[str]) -> bool:
    """Whether a file's content is an image in a format that is read, or HEIC, which a package can open."""
    try:
        with _opened(path, None) as (file, name):
            _open(file, name)
    except HeicError:
        return True
    except ImageError:
        return False
    return True


class HeicError(ImageError):
    """An image in HEIC, and nothing that opens it."""


@contextmanager
def _opened(path: str | os.PathLike[str] | BinaryIO, name: str | None) -> Iterator[tuple[BinaryIO, str]]:
    if not isinstance(path, str | os.PathLike):
        yield path, name or "image"
        return
    name = name or os.fspath(path)
    why = why_unreadable(path)
    if why:
        raise ImageError(f"{name}: {why}", _KINDS.get(why, "unreadable"))
    try:
        file = Path(path).open("rb")  # noqa: SIM115
    except OSError as error:
        raise ImageError(f"{name}: can't be opened ({error.strerror or error})", "unreadable") from error
    with file:
        yield file, name


@contextmanager
def _library(name: str) -> Iterator[None]:
    """Turn whatever the image library says of hostile bytes into one error."""
    import PIL.Image

    with warnings.catch_warnings():
        # sizes are judged by our own limit, and broken metadata by what can be read of the pixels
        warnings.filterwarnings("ignore", module=r"PIL\.")
        try:
            yield
        except ImageError:
            raise
        except PIL.Image.DecompressionBombError as error:
            raise ImageError(f"{name}: too large to decode ({error})", "large") from error
        except Exception as error:
            raise ImageError(f"{name}: broken or truncated image ({error or type(error).__name__})") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    import PIL.features
    import PIL.Image

    # what it logs besides raising an error would be printed, each time that a file is opened
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    PIL.Image.init()
    wanted = [name for name, feature in _FORMATS.items() if feature is None or PIL.features.check(feature)]
    return tuple(name for name in wanted if name in PIL.Image.OPEN)


def _open(file: BinaryIO, name: str) -> Image:
    import PIL.Image

    head = file.read(64)
    if head[:4] == b"GIF8":
        _refuse_gif_words(file, name)
    lost = lost_end(file)
    if lost:
        raise ImageError(f"{name}: its end is lost: the last {lost:,} bytes are zeros; copy or fetch it again")
    file.seek(0)
    if head[4:8] == b"ftyp" and (head[8:12] in _HEIC or any(brand in head[16:] for brand in _HEIC)):
        return _open_heic(file, name)
    with _library(name):
        try:
            image = PIL.Image.open(file, formats=_formats())
        except PIL.UnidentifiedImageError as error:
            why = why_unknown(file, head) or "not an image in a known format"
            raise ImageError(f"{name}: {why}", "format") from error
    if is_preview(image, head):
        said = "a camera's raw file, of which a preview alone could be read; save it as TIFF, PNG or JPEG"
        raise ImageError(f"{name}: {said}", "format")
    if has_signed_bytes(image):
        raise ImageError(f"{name}: has values from -128 to 127, which are not read; save 16 bits, or add 128", "values")
    width, height = image.size
    if width * height > MAX_PIXELS:
        said = f"{width} x {height} pixels are more than the {MAX_PIXELS:,} that are decoded"
        raise ImageError(f"{name}: {said}", "large")
    return image


def _open_heic(file: BinaryIO, name: str) -> Image:
    import PIL.Image

    try:
        import pillow_heif  # type: ignore[import-not-found, unused-ignore]
    except ModuleNotFoundError as error:
        said = "an image in HEIC; `pip install pillow-heif` opens it, or save it as JPEG"
        raise HeicError(f"{name}: {said}", "format") from error
    with _library(name):
        pillow_heif.register_heif_opener()
        return PIL.Image.open(file, formats=("HEIF",))


def _refuse_gif_words(file: BinaryIO, name: str) -> None:
    """Refuse a GIF that has long comments before its first frame: joining their parts takes quadratic time."""
    file.seek(10)
    flags = file.read(3)[:1]
    if flags and flags[0] & 128:
        file.seek(3 << ((flags[0] & 7) + 1), os.SEEK_CUR)
    words = 0
    while file.read(1) == b"!":
        file.seek(1, os.SEEK_CUR)
        while (size := file.read(1)) and size[0]:
            words += size[0]
            if words > _MAX_GIF_WORDS:
                raise ImageError(f"{name}: a GIF with more than {_MAX_GIF_WORDS:,} bytes of comments")
            file.seek(size[0], os.SEEK_CUR)


def _has_several(image: Image, file: BinaryIO) -> bool:
    """Whether an image that is not decoded yet has more frames or pages than its first."""
    if image.format == "GIF":
        return _gif_has_several(file)
    # a JPEG with further pictures, such as the other eye's, is MPO to the library
    several = ("TIFF", "PNG", "WEBP", "AVIF", "MPO", "HEIF")
    return image.format in several and bool(getattr(image, "is_animated", False))


def _gif_has_several(file: BinaryIO) -> bool:
    """Whether a second frame follows the first; the library would join the comments between them one by one."""
    file.seek(10)
    frames = 0
    flags = file.read(3)[:1]
    if flags and flags[0] & 128:
        file.seek(3 << ((flags[0] & 7) + 1), os.SEEK_CUR)
    while (kind := file.read(1)) in (b"!", b","):
        if kind == b",":
            frames += 1
            if frames > 1:
                return True
            flags = file.read(9)[8:]
            skipped = (3 << ((flags[0] & 7) + 1) if flags and flags[0] & 128 else 0) + 1
        else:
            skipped = 1
        file.seek(skipped, os.SEEK_CUR)
        while (size := file.read(1)) and size[0]:
            file.seek(size[0], os.SEEK_CUR)
    return False


def _orientation(image: Image, name: str) -> int:
    """EXIF's orientation of an image that is not decoded yet: the one place that decides it, for check and reader."""
    if image.format == "PNG" and "exif" not in image.info:
        # it may stand behind the pixels: the library would decode the whole image to look for it
        return 1
    with _library(name):
        found: Any = image.getexif().get(_ORIENTATION)
    return int(found) if found in range(1, 9) else 1


def _stored_size(image: Image) -> tuple[int, int]:
    if image.format == "TIFF":
        # the library gives the size of the turned image here
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        return (tags[256], tags[257])
    return image.size


def _loaded(image: Image, name: str, reading: Reading) -> Image:
    """Decode an image, turned as the reading says."""
    import PIL.Image

    orientation = _orientation(image, name)
    with _library(name):
        image.load()
        if orientation == 1:
            return image
        turn = PIL.Image.Transpose
        # how the stored pixels become upright, and the way back
        upright = {2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM, 5: turn.TRANSPOSE}
        upright |= {6: turn.ROTATE_270, 7: turn.TRANSVERSE, 8: turn.ROTATE_90}
        back = {**upright, 6: turn.ROTATE_90, 8: turn.ROTATE_270}
        # of TIFF the library turns the pixels itself, and then forgets the orientation
        done = image.format == "TIFF" and image.getexif().get(_ORIENTATION) is None
        if done == (reading.exif == "apply"):
            return image
        turned = image.transpose((back if done else upright)[orientation])
        # an orientation that went along would turn it again
        turned.info = {key: value for key, value in turned.info.items() if key == "transparency"}
        return turned


def _decode(file: BinaryIO, name: str, reading: Reading, noticed: Noticed | None) -> Image:
    return _converted(_open(file, name), name, reading, file, noticed)


def _converted(opened: Image, name: str, reading: Reading, file: BinaryIO | None, noticed: Noticed | None) -> Image:
    value_range = reading.value_range or _type_range(opened, name)
    header = None
    if noticed is not None:
        # where the decoder goes on
        position = file.tell() if file is not None else 0
        header = _header(opened, file, name, reading)
        if file is not None:
            file.seek(position)
    # of 8 bits the library does it
    inverted = is_deep(opened.mode) and is_white_zero(opened)
    image = _loaded(opened, name, reading)
    if has_large_integers(opened):
        import numpy as np
        import PIL.Image

        # the library takes the upper half of them for negative ones
        image = PIL.Image.fromarray(np.asarray(image).view(np.uint32).astype(np.float32))
    with _library(name):
        read = to_8_bit(image, value_range, name)
    if noticed is not None and header is not None:
        noticed.add(name, header, image, read, value_range)
    return read.point(range(255, -1, -1)) if inverted else read


def is_deep(mode: str) -> bool:
    """Whether the image library's name of the pixels stands for grey of more than 8 bits."""
    return mode in ("I", "F") or mode.startswith("I;16")


def _type_range(image: Image, name: str) -> tuple[float, float] | None:
    """The values that an image's type can have, None for 8 bits.

    Raises:
        ImageError: for a type without a range of its own.
    """
    if not is_deep(image.mode):
        return None
    bits = bits_of(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        # 12 bits in TIFF, which are packed
        return (0.0, 2.0**bits - 1) if 8 < bits < 16 else (0.0, 65535.0)
    if image.mode == "I" and bits == 16:
        # the library reads signed 16 bits as 32
        return (-32768.0, 32767.0)
    kind = "floats" if image.mode == "F" else "32-bit integers"
    raise ImageError(f"{name}: {kind} {_NO_RANGE}", "values")


def _is_adobe_rgb(image: Image) -> bool:
    """Whether a camera says by EXIF, without a profile, that the colours are Adobe RGB's."""
    if "exif" not in image.info or image.info.get("icc_profile"):
        return False
    try:
        return str(image.getexif().get_ifd(_INTEROPERABILITY).get(1, "")).startswith(_ADOBE_RGB)
    # whatever the library makes of broken metadata, which is judged by the pixels
    except Exception:
        return False


def _is_halved(image: Image) -> bool:
    """Whether the library keeps 8 of an image's 16 bits; of one that is not decoded yet."""
    tiles: Any = getattr(image, "tile", [])
    return not is_deep(image.mode) and any(";16" in str(tile[3]) for tile in tiles[:1])


def _largest_stored(image: Image) -> int:
    """The largest value of grey that a file of fewer than 8 bits can hold, of one that is not decoded yet; else 255."""
    tiles: Any = getattr(image, "tile", [])
    if image.mode != "L" or not tiles:
        return 255
    how = tiles[0][3]
    if image.format == "PPM":
        return int(how[-1]) if isinstance(how, tuple) and isinstance(how[-1], int) and how[-1] > 0 else 255
    bits = re.match(r"L;([24])", how if isinstance(how, str) else str(how[0]) if how else "")
    return 2 ** int(bits[1]) - 1 if bits else 255


def _has_alpha(image: Image) -> bool:
    return image.mode in ("LA", "PA", "La", "RGBa", "RGBA") or "transparency" in image.info


def to_8_bit(image: Image, value_range: tuple[float, float] | None = None, name: str = "image") -> Image:
    """An opened image of any mode as `L` where it is grey, else `RGB`; transparent parts become white.

    Args:
        image: the image.
        value_range: the values that become black and white where it has more than 8 bits; None for the type's range.
        name: what an error calls it.

    Raises:
        ImageError: for values that have no range of their own, or are no numbers.
    """
    import PIL.Image

    if is_deep(image.mode):
        import numpy as np

        low, high = value_range or _type_range(image, name) or (0.0, 1.0)
        pixels = np.asarray(image).astype(np.float64)
        if np.isnan(pixels).any():
            raise ImageError(f"{name}: {int(np.isnan(pixels).sum())} pixels are NaN", "values")
        scaled = (pixels.clip(low, high) - low) * (255.0 / (high - low))
        return PIL.Image.fromarray(scaled.round().astype(np.uint8), mode="L")
    if _has_alpha(image):
        rgba = image.convert("RGBA")
        white = PIL.Image.new("RGBA", rgba.size, "white")
        flat = PIL.Image.alpha_composite(white, rgba)
        return flat.convert("L" if image.mode in ("LA", "La") else "RGB")
    return image if image.mode == "L" else image.convert("L" if image.mode == "1" else "RGB")

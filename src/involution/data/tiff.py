"""What TIFF and JPEG 2000 files say of their pixels that the image library passes over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

# tags of TIFF, and the bit of the first for a picture of lower resolution
_KIND, _REDUCED = 254, 1
_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _SIGN = 258, 259, 262, 277, 339
# of GDAL, for satellite and elevation data
_NO_DATA = 42113
# kinds of compression
_JPEG = (6, 7, 34892)
# of JPEG 2000: the marker of how the image is coded, and where behind it 0 stands for a transform that rounds
_CODING, _TRANSFORM = b"\xff\x52", 13


def is_preview(image: Image, head: bytes) -> bool:
    """Whether a file's first picture is a small copy of what a camera stored: of DNG, NEF, ARW, CR2."""
    if image.format != "TIFF":
        return False
    return head[8:10] == b"CR" or bool(int(_tags(image).get(_KIND, 0)) & _REDUCED)


def has_signed_bytes(image: Image) -> bool:
    """Whether there are values from -128 to 127, which the library takes for those from 0 to 255."""
    if image.format != "TIFF":
        return False
    tags = _tags(image)
    return 2 in tags.get(_SIGN, ()) and set(tags.get(_BITS, ())) == {8}


def is_white_zero(image: Image) -> bool:
    """Whether the value 0 stands for white, as in scans and in ImageJ's inverted pictures."""
    return image.format == "TIFF" and _tags(image).get(_PHOTOMETRIC) == 0


def has_more_channels(image: Image) -> bool:
    """Whether there are more channels than the library reads, such as near infrared beside RGB."""
    return image.format == "TIFF" and int(_tags(image).get(_SAMPLES, 1)) > len(image.getbands())


def bits_of(image: Image) -> int:
    """Bits of each value in a TIFF file of one channel; 0 in others."""
    bits = tuple(_tags(image).get(_BITS, ())) if image.format == "TIFF" and hasattr(image, "tag_v2") else ()
    return int(bits[0]) if len(bits) == 1 else 0


def has_large_integers(image: Image) -> bool:
    """Whether there are integers of 32 bits without a sign, which the library takes for those with one."""
    return image.mode == "I" and bits_of(image) == 32 and 2 not in _tags(image).get(_SIGN, ())


def names_no_data(image: Image) -> bool:
    """Whether a file names a value that stands for pixels without data."""
    return image.format == "TIFF" and _NO_DATA in _tags(image)


def lossy(image: Image, head: bytes) -> str:
    """How an image was stored that does not keep its values, in words; "" for one that keeps them.

    Args:
        image: opened, not decoded.
        head: the first kilobytes of its file.
    """
    if image.format in ("JPEG", "MPO"):
        return "JPEG"
    if image.format == "TIFF":
        return "TIFF with JPEG's compression" if _tags(image).get(_COMPRESSION) in _JPEG else ""
    coding = head.find(_CODING) if image.format == "JPEG2000" else -1
    return "JPEG 2000 with loss" if coding >= 0 and head[coding + _TRANSFORM : coding + _TRANSFORM + 1] == b"\0" else ""


def _tags(image: Image) -> Any:
    return image.tag_v2  # type: ignore[attr-defined]

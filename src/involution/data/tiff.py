"""What TIFF, JPEG 2000 and WebP files say of their pixels that the image library passes over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from PIL.Image import Image

# tags of TIFF, and the bit of the first for a picture of lower resolution
_KIND, _REDUCED = 254, 1
_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _SIGN = 258, 259, 262, 277, 339
# of GDAL, for satellite and elevation data
_NO_DATA = 42113
# kinds of compression
_JPEG, _WEBP = (6, 7, 34892), 50001
_TIFF = "TIFF with JPEG's compression"
# of JPEG 2000: its beginning, the marker of how the image is coded, and where behind it 0 stands for a transform that
# rounds
_START, _CODING, _TRANSFORM = b"\xff\x4f\xff\x51", b"\xff\x52", 13


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


def why_unknown(file: BinaryIO, head: bytes) -> str:
    """What a TIFF file holds that the library does not read, in words; "" for another file, and a broken one.

    Args:
        file: one in which the library found no image.
        head: its first bytes.
    """
    if head[:4] not in (b"II*\0", b"MM\0*"):
        return ""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    try:
        tags = ImageFileDirectory_v2(head[:8])
        file.seek(tags.next)
        tags.load(file)
        samples, bits = int(tags.get(_SAMPLES, 1)), max(tags[_BITS])
    # whatever the library makes of hostile bytes
    except Exception:
        return ""
    channels = f"{samples:,} channels" if samples > 1 else "1 channel"
    return f"a TIFF of {channels} of {bits} bits, which is not read; save 1 channel, or 3, of 8 or 16 bits"


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


def lossy(image: Image, head: bytes) -> tuple[str, bool]:
    """How an image was stored that does not keep its values, in words, and whether it may have kept them.

    The words are empty for one that kept them. JPEG 2000 with the transform that does not round, but cut to a size,
    can't be told from one that is whole.

    Args:
        image: opened, not decoded.
        head: the first kilobytes of its file.
    """
    if image.format in ("JPEG", "MPO"):
        return "JPEG", False
    if image.format in ("AVIF", "HEIF"):
        # nothing but a decoder of video knows
        return {"AVIF": "AVIF", "HEIF": "HEIC"}[image.format], True
    if image.format == "TIFF":
        kind = _tags(image).get(_COMPRESSION)
        return ("TIFF with WebP's compression", True) if kind == _WEBP else (_TIFF if kind in _JPEG else "", False)
    if image.format == "WEBP":
        return "WebP with loss" if _is_lossy_webp(head) else "", False
    coding = head.find(_CODING, max(head.find(_START), 0)) if image.format == "JPEG2000" else -1
    rounds = coding >= 0 and head[coding + _TRANSFORM : coding + _TRANSFORM + 1] == b"\0"
    return "JPEG 2000 with loss" if rounds else "", False


def _is_lossy_webp(head: bytes) -> bool:
    """Whether the first chunk of pixels is one of video's."""
    place = 12
    while place + 8 <= len(head):
        kind, size = head[place : place + 4], int.from_bytes(head[place + 4 : place + 8], "little")
        if kind in (b"VP8 ", b"VP8L"):
            return kind == b"VP8 "
        # of an animation the first frame is inside
        place += 8 + (16 if kind == b"ANMF" else size + size % 2)
    return False


def _tags(image: Image) -> Any:
    return image.tag_v2  # type: ignore[attr-defined]

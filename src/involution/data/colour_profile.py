"""Whether the colours in a file are meant as other ones than sRGB's, by the ICC profile that it carries."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

# X, Y and Z of sRGB's red, green and blue, and how far those of its many versions are from them
_SRGB = {b"rXYZ": (0.436, 0.222, 0.014), b"gXYZ": (0.385, 0.717, 0.097), b"bXYZ": (0.143, 0.061, 0.714)}
_SLACK = 0.02
# of a profile: the header with the kind of its colours, and the tags behind it
_KIND, _COUNT, _TAGS = slice(16, 20), 128, 132
_MOST_TAGS = 100
# of PNG's chunks: x and y of white, red, green and blue, and the exponent with which values are stored
_CHROMATICITIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_GAMMA, _GAMMA_SLACK = 1 / 2.2, 0.05


def is_other_than_srgb(profile: Any) -> bool:
    """Whether a profile says that red, green and blue are others than sRGB's, as Display P3's and Adobe RGB's are.

    Args:
        profile: its bytes; anything else, a broken one, and one that does not tell them, is none.
    """
    if not isinstance(profile, bytes) or profile[_KIND] != b"RGB ":
        return False
    try:
        (count,) = struct.unpack_from(">I", profile, _COUNT)
        for number in range(min(count, _MOST_TAGS)):
            name, place, _ = struct.unpack_from(">4sII", profile, _TAGS + 12 * number)
            if name in _SRGB:
                colour = [value / 65536 for value in struct.unpack_from(">3i", profile, place + 8)]
                if any(abs(value - wanted) > _SLACK for value, wanted in zip(colour, _SRGB[name], strict=True)):
                    return True
    except struct.error:
        return False
    return False


def is_other_png(image: Image) -> bool:
    """Whether a PNG says by its chunks that it has another gamma, or other colours, than sRGB.

    A profile, and the chunk for sRGB itself, go before these.
    """
    if image.format != "PNG" or not {"icc_profile", "srgb"}.isdisjoint(image.info):
        return False
    gamma, colours = image.info.get("gamma", _GAMMA), image.info.get("chromaticity", _CHROMATICITIES)
    return abs(gamma - _GAMMA) > _GAMMA_SLACK or any(
        abs(value - wanted) > _SLACK for value, wanted in zip(colours, _CHROMATICITIES, strict=False)
    )

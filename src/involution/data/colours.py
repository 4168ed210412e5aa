"""Colours of classes that colour-blind eyes tell apart: Okabe and Ito's, and as many more as are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

RGB = tuple[int, int, int]

OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""Bright colours from "Color Universal Design" (2008), which has black besides."""

BACKGROUND: RGB = (0, 0, 0)
"""Of the class that is everything else, in label maps; pictures show it as it is."""

_BACKGROUND_NAMES = frozenset(("background", "bg", "unlabeled", "unlabelled", "void"))
# linear RGB as it is seen without the cones for long, middle and short waves (Machado et al. 2009, severity 1)
_VISIONS = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
)
_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
# of each channel, from which further colours are chosen
_LEVELS = (24, 57, 90, 123, 156, 189, 222, 255)


def is_background(name: str) -> bool:
    """Whether a class is everything else, by its name.

    Example:
        >>> is_background("__background__"), is_background("road")
        (True, False)
    """
    return name.strip("_ ").casefold() in _BACKGROUND_NAMES


def palette(classes: Sequence[str]) -> list[RGB]:
    """A colour for each class, black for a background.

    The first seven are Okabe and Ito's; each further one is as far as can be from those before it, as the worst of
    four eyes sees it: those with all cones, and those without the ones for long, middle or short waves.

    Args:
        classes: Names, up to 256.

    Example:
        >>> palette(["background", "cat", "dog"])
        [(0, 0, 0), (230, 159, 0), (86, 180, 233)]
    """
    bright = iter(_bright(len(classes)))
    return [BACKGROUND if is_background(name) else next(bright) for name in classes]


def hexadecimal(colour: RGB) -> str:
    """A colour as style sheets have it.

    Example:
        >>> hexadecimal((230, 159, 0))
        '#e69f00'
    """
    return "#{:02x}{:02x}{:02x}".format(*colour)


def seen(colours: Sequence[RGB]) -> Any:
    """What four eyes see of colours: CIELAB `[eye, colour, 3]`, in which distances are differences."""
    values = np.asarray(colours, dtype=np.float64) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    white = _TO_XYZ.sum(1)
    xyz = np.einsum("ij,ejk,ck->eci", _TO_XYZ, _VISIONS, linear).clip(0) / white
    roots = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = np.moveaxis(roots, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


@cache
def _bright(count: int) -> tuple[RGB, ...]:
    chosen: list[RGB] = [(int(code[1:3], 16), int(code[3:5], 16), int(code[5:], 16)) for code in OKABE_ITO]
    if count <= len(chosen):
        return tuple(chosen[:count])
    grid = np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS, indexing="ij"), axis=-1).reshape(-1, 3)
    places = seen([(int(red), int(green), int(blue)) for red, green, blue in grid])
    # a page and a background are no classes
    taken = seen([*chosen, (0, 0, 0), (255, 255, 255)])
    nearest = np.linalg.norm(places[:, :, None] - taken[:, None], axis=-1).min(axis=(0, 2))
    while len(chosen) < count:
        best = int(nearest.argmax())
        red, green, blue = grid[best]
        chosen.append((int(red), int(green), int(blue)))
        nearest = np.minimum(nearest, np.linalg.norm(places - places[:, best, None], axis=-1).min(axis=0))
    return tuple(chosen)

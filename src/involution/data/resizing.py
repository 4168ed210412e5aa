"""What happens to an image between the file and a network that runs without PyTorch: by Pillow and NumPy.

`shorter_side` resizes by torchvision's method with other roundings: a few pixels in a hundred differ, by one or
two of 255. `linear` differs from PyTorch by roundings of float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from involution.data.images import ImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

# pixels that an image may have after a resize
MAX_RESIZED = 50_000_000


def check_not_too_narrow(size: tuple[int, int], short: int) -> None:
    """Refuse an image so narrow that a resize of its shorter side would make it huge.

    Args:
        size: width and height.
        short: length that the shorter side will get.

    Raises:
        ImageError: for such an image.
    """
    width, height = size
    if short**2 * max(size) > MAX_RESIZED * min(size):
        raise ImageError(
            f"{width} x {height} pixels are too narrow: with its shorter side at {short} pixels, as this "
            "network sees it, the image would be too large"
        )


def check_not_too_long(size: tuple[int, int], longest: int) -> None:
    """Refuse an image so long that nothing is left of its shorter side when the longer one fits.

    Args:
        size: width and height.
        longest: length that the longer side will have at most.

    Raises:
        ImageError: for such an image.
    """
    width, height = size
    if max(size) > longest * min(size):
        raise ImageError(
            f"{width} x {height} pixels are too narrow: with its longer side at {longest} pixels, as this "
            "network sees it, nothing is left of the shorter one"
        )


def shorter_side(image: Image, short: int, interpolation: str = "bilinear") -> Image:
    """An 8-bit image resized with antialias, its shorter side to this many pixels.

    Raises:
        ImageError: where that would make it huge.
    """
    import PIL.Image

    check_not_too_narrow(image.size, short)
    least = min(image.size)
    width, height = (int(short * side / least) for side in image.size)
    return image.resize((width, height), PIL.Image.Resampling[interpolation.upper()])


def channels_first(image: Image) -> NDArray[Any]:
    """The 8-bit pixels of an image in grey or RGB, `[C, H, W]`."""
    import numpy as np

    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def normalised(pixels: NDArray[Any], mean: Sequence[float], std: Sequence[float]) -> NDArray[Any]:
    """8-bit pixels `[C, H, W]` as a network's input in float32.

    Args:
        pixels: the pixels.
        mean: per channel, in units of 0 to 1.
        std: per channel, in units of 0 to 1.
    """
    import numpy as np

    centre, spread = (np.array(list(values), np.float32)[:, None, None] for values in (mean, std))
    found: NDArray[Any] = (pixels.astype(np.float32) * np.float32(1 / 255) - centre) / spread
    return found


def linear(values: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Maps `[..., h, w]` resized between the two nearest values of each axis, without antialias.

    Args:
        values: the maps, in float32.
        size: height and width of the result.
    """
    for axis, count in ((-1, size[1]), (-2, size[0])):
        values = _linear(values, count, axis)
    return values


def _linear(values: NDArray[Any], count: int, axis: int) -> NDArray[Any]:
    import numpy as np

    own = values.shape[axis]
    if own == count:
        return values
    # as PyTorch has it, in float32: pixels have their values in their middles
    places = np.float32(own / count) * (np.arange(count, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    places = places.clip(0)
    first = places.astype(np.int64).clip(max=own - 1)
    share = (places - first.astype(np.float32)).clip(0, 1)
    share = share[:, None] if axis == -2 else share
    below, above = (values.take(index, axis) for index in (first, (first + 1).clip(max=own - 1)))
    found: NDArray[Any] = below * (1 - share) + above * share
    return found

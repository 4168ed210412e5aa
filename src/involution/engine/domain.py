"""Whether an image is of the kind that a network was trained on, as far as its card tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from involution.data.noticed import is_colourful

if TYPE_CHECKING:
    from PIL.Image import Image

    from involution.engine.card import ModelCard

# what built-in data sets hold; their images have this many pixels in each direction at most
_BUILT_IN = {"digits": ("digits", 16), "moved-digits": ("digits", 32), "digit-scenes": ("scenes of digits", 128)}
# how many times larger or smaller an image may be than the input of a network for small images, or for any
_LARGER, _SMALLER, _SMALL = 16, 4, 64


def mismatch(card: ModelCard, image: Image) -> str:
    """Say of an image of another kind than those of the training that it is one, or nothing.

    Args:
        card: Of the network.
        image: What it is shown, 8-bit.
    """
    channels, side, _ = card.input_size
    kind, built_in = _BUILT_IN.get(str(card.recipe.get("data", {}).get("spec", "")), ("images", 0))
    longer, shorter = max(image.size), min(image.size)
    colourful = is_colourful(image)
    wrong = channels == 1 and colourful
    if built_in:
        wrong = wrong or longer > 3 * built_in
    elif card.task == "classify":
        wrong = wrong or (side <= _SMALL and longer > _LARGER * side) or _SMALLER * longer < side
    if not wrong:
        return ""
    if card.task == "classify":
        known = f"{side}×{side} {'grey' if channels == 1 else 'colour'} {kind}"
    else:
        known = f"{built_in}×{built_in} {kind}" if built_in else f"{'grey' if channels == 1 else 'colour'} {kind}"
    shown = "a photograph" if colourful and shorter >= 100 else "a colour image" if colourful else "a grey image"
    return f"This network knows {known}; {shown} of {image.width}×{image.height} was shown."

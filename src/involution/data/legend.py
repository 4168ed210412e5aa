"""Names and colours written below pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from involution.data.colours import RGB
from involution.data.errors import printable

if TYPE_CHECKING:
    from PIL.Image import Image

LINE = 20
"""Pixels of a line of text."""
# names that a legend has room for, and pixels of its columns and rim
_MOST, _COLUMN, _RIM = 40, 210, 4


def font_file() -> str:
    """The one font that is installed anyway."""
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf")


def legend(entries: Sequence[tuple[str, RGB | None]], width: int, column: int = _COLUMN) -> Image:
    """A picture of names and their colours, black on white.

    Args:
        entries: Names, and their colours; None for what is shown as the image has it.
        width: Of the picture, in pixels.
        column: Of a name, in pixels; as many as fit are side by side.
    """
    import PIL.Image
    import PIL.ImageDraw

    across = max(1, width // column)
    # a single narrow one takes what there is
    column = width // across
    left_out = len(entries) - _MOST
    lines = -(-(min(len(entries), _MOST) + (left_out > 0)) // across)
    picture = PIL.Image.new("RGB", (width, lines * LINE + _RIM), "white")
    draw = PIL.ImageDraw.Draw(picture)
    for place, (name, colour) in enumerate(entries[:_MOST]):
        x, y = place % across * column + _RIM, place // across * LINE
        draw.rectangle((x, y + 2, x + 14, y + 16), fill=colour or "white", outline="black")
        write_line(draw, name if colour else f"{name} (not coloured)", x + 20, y, column - 30)
    if left_out > 0:
        place = _MOST
        x, y = place % across * column + _RIM, place // across * LINE
        write_line(draw, f"and {left_out} more", x, y, column - 10)
    return picture


def write_line(draw: Any, text: str, x: int, y: int, room: int) -> None:
    """Write a line, its middle left out where it is too long."""
    import PIL.ImageFont

    font = PIL.ImageFont.truetype(font_file(), 12)
    text = printable(text)
    kept = len(text)
    shown = text
    while kept > 4 and draw.textlength(shown, font) > room:
        kept -= 1
        shown = f"{text[: kept // 2]}…{text[-(kept // 2) :]}"
    draw.text((x, y + 2), shown, "black", font)

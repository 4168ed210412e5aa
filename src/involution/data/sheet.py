"""A sheet of pictures of a data set: images with their labels, boxes or maps, as they are and as training sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from involution.data.box_dataset import BoxDataset
from involution.data.colours import OKABE_ITO, hexadecimal, is_background, palette
from involution.data.images import ImageError
from involution.data.label_code import IGNORED
from involution.data.label_maps import LabelMaps
from involution.data.legend import LINE, font_file, legend, write_line
from involution.data.parts import files_of
from involution.data.records import DataSet, item_name
from involution.data.transforms import to_channels

if TYPE_CHECKING:
    from PIL.Image import Image

_SIDE = 256
_RIM = 4


def draw_sheet(
    data: DataSet[Any], augment: Callable[..., Any], complaints: list[str], count: int = 8, seed: int = 0
) -> Image:
    """Draw some training images, each as it is and, to its right, twice as training sees it.

    Args:
        data: the data set.
        augment: what happens to a training item: from (image, target) to the same with a float image [C, H, W],
            0 to 1.
        complaints: told of images that can't be shown; others take their places.
        count: images.
        seed: draws them, and what happens to them.

    Raises:
        ImageError: where none can be shown.
    """
    part = next(iter(data.parts.values()))
    rng = np.random.default_rng(seed)
    rows: dict[int, np.ndarray[Any, Any]] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for place in rng.permutation(len(part)).tolist():
            if len(rows) == count:
                break
            try:
                rows[place] = _row(part, place, augment, data.classes)
            except ImageError as error:
                name = item_name(part, place)
                complaints.append(str(error) if name in str(error) else f"{name}: {error}")
    if not rows:
        raise ImageError(f"{data.spec}: no image can be shown: {complaints[0]}")
    return _in_two_columns([row for _, row in sorted(rows.items())], part, data.classes)


def _row(part: Any, place: int, augment: Callable[..., Any], classes: Sequence[str]) -> np.ndarray[Any, Any]:
    """An image as it is and, twice, as training sees it."""
    image, target = part[place]
    plain = to_channels(image, 3).float() / 255
    files = files_of(part)
    tiles = [_tile(_drawn(plain, target, part, classes), files[place].name if files else f"image {place}")]
    for _ in range(2):
        seen, seen_target = augment(*part[place])
        tiles.append(_tile(_drawn(seen, seen_target, part, classes), "as training sees it"))
    return np.concatenate(tiles, axis=1)


def _in_two_columns(rows: list[np.ndarray[Any, Any]], part: Any, classes: Sequence[str]) -> Image:
    import PIL.Image

    columns = [np.concatenate(rows[start::2], axis=0) for start in range(min(2, len(rows)))]
    height = max(column.shape[0] for column in columns)
    filled = [
        np.pad(column, ((0, height - column.shape[0]), (0, 0), (0, 0)), constant_values=255) for column in columns
    ]
    sheet = np.concatenate(filled, axis=1)
    if isinstance(part, LabelMaps):
        entries = [
            (name, None if is_background(name) else colour)
            for name, colour in zip(classes, palette(classes), strict=True)
        ]
        sheet = np.concatenate([sheet, np.asarray(legend(entries, sheet.shape[1], _SIDE))], axis=0)
    return PIL.Image.fromarray(sheet)


def _drawn(image: Tensor, target: Any, part: Any, classes: Sequence[str]) -> Tensor:
    """An image [3, H, W] uint8, at the size of its tile, with what is known of it."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F
    from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

    colours = palette(classes)
    image = image.expand(3, -1, -1) if image.shape[0] == 1 else image
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).as_subclass(Tensor)
    factor = _SIDE / max(pixels.shape[1:])
    size = [max(1, round(side * factor)) for side in pixels.shape[1:]]
    # small images show their pixels
    nearest = InterpolationMode.NEAREST
    pixels = F.resize(pixels, size, nearest if factor > 1 else InterpolationMode.BILINEAR)
    if isinstance(part, LabelMaps):
        labels = F.resize(target.as_subclass(Tensor)[None], size, nearest)[0]
        present = [
            label for label in labels.unique().tolist() if label != IGNORED and not is_background(classes[label])
        ]
        if not present:
            return pixels
        shown: Any = [hexadecimal(colours[label]) for label in present]
        return draw_segmentation_masks(pixels, torch.stack([labels == label for label in present]), 0.5, shown)
    if isinstance(part, BoxDataset):
        if not len(target["labels"]):
            return pixels
        chosen: Any = [hexadecimal(colours[label]) for label in target["labels"].tolist()]
        if "masks" in target:
            masks = F.resize(target["masks"].as_subclass(Tensor), size, nearest).bool()
            pixels = draw_segmentation_masks(pixels, masks, 0.5, chosen)
        names = [classes[label] for label in target["labels"].tolist()]
        boxes = target["boxes"].as_subclass(Tensor) * factor
        # a line that is wider than its box would hide it
        return draw_bounding_boxes(pixels, boxes, names, chosen, width=2, **_font())
    height, width = pixels.shape[1:]
    everything = torch.tensor([[0, 0, width - 1, height - 1]])
    return draw_bounding_boxes(pixels, everything, [classes[target]], OKABE_ITO[0], **_font())


def _font() -> dict[str, Any]:
    return {"font": font_file(), "font_size": 10, "label_colors": "black", "fill_labels": True}


def _tile(pixels: Tensor, caption: str) -> np.ndarray[Any, Any]:
    """A picture [H, W, 3] of a square that holds an image, with a white rim and a line below."""
    import PIL.Image
    import PIL.ImageDraw

    picture = PIL.Image.fromarray(pixels.permute(1, 2, 0).numpy())
    side = _SIDE + 2 * _RIM
    tile = PIL.Image.new("RGB", (side, side + LINE), "white")
    tile.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    write_line(PIL.ImageDraw.Draw(tile), caption, _RIM, side, side - 2 * _RIM)
    return np.asarray(tile)

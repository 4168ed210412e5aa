"""A sheet of pictures of a data set: images with their labels, boxes or maps, as they are and as training sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from involution.data.box_dataset import BoxDataset
from involution.data.label_code import IGNORED
from involution.data.label_maps import LabelMaps
from involution.data.records import DataSet
from involution.data.transforms import to_channels

if TYPE_CHECKING:
    from PIL.Image import Image

_SIDE = 256
# bright colours that differ for colour-blind eyes (Okabe and Ito)
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


def draw_sheet(data: DataSet[Any], augment: Callable[..., Any], count: int = 8, seed: int = 0) -> Image:
    """Draw some training images, each as it is and, to its right, twice as training sees it.

    Args:
        data: the data set.
        augment: what happens to a training item: from (image, target) to the same with a float image [C, H, W],
            0 to 1.
        count: images.
        seed: draws them, and what happens to them.
    """
    import PIL.Image

    part = next(iter(data.parts.values()))
    rng = np.random.default_rng(seed)
    places = sorted(rng.permutation(len(part))[:count].tolist())
    rows = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for place in places:
            image, target = part[place]
            plain = to_channels(image, 3).float() / 255
            shown = [_drawn(plain, target, part, data.classes)]
            for _ in range(2):
                seen, seen_target = augment(*part[place])
                shown.append(_drawn(seen, seen_target, part, data.classes))
            rows.append(np.concatenate([_squared(tile) for tile in shown], axis=1))
    columns = [np.concatenate(rows[start::2], axis=0) for start in range(min(2, len(rows)))]
    height = max(column.shape[0] for column in columns)
    filled = [
        np.pad(column, ((0, height - column.shape[0]), (0, 0), (0, 0)), constant_values=255) for column in columns
    ]
    return PIL.Image.fromarray(np.concatenate(filled, axis=1))


def _drawn(image: Tensor, target: Any, part: Any, classes: Sequence[str]) -> Tensor:
    """An image [3, H, W] uint8 with what is known of it."""
    from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

    image = image.expand(3, -1, -1) if image.shape[0] == 1 else image
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).as_subclass(Tensor)
    factor = max(1, round(_SIDE / max(pixels.shape[1:])))
    pixels = pixels.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    if isinstance(part, LabelMaps):
        labels = target.as_subclass(Tensor).repeat_interleave(factor, 0).repeat_interleave(factor, 1)
        present = [label for label in labels.unique().tolist() if label != IGNORED]
        if not present:
            return pixels
        colours: Any = [_COLOURS[label % len(_COLOURS)] for label in present]
        return draw_segmentation_masks(pixels, torch.stack([labels == label for label in present]), 0.5, colours)
    if isinstance(part, BoxDataset):
        if not len(target["labels"]):
            return pixels
        colours = [_COLOURS[label % len(_COLOURS)] for label in target["labels"].tolist()]
        if "masks" in target:
            masks = target["masks"].bool().repeat_interleave(factor, 1).repeat_interleave(factor, 2)
            pixels = draw_segmentation_masks(pixels, masks, 0.5, colours)
        names = [classes[label] for label in target["labels"].tolist()]
        width = max(1, min(pixels.shape[1:]) // 150)
        return draw_bounding_boxes(pixels, target["boxes"] * factor, names, colours, width=width, **_font())
    height, width = pixels.shape[1:]
    everything = torch.tensor([[0, 0, width - 1, height - 1]])
    return draw_bounding_boxes(pixels, everything, [classes[target]], "#E69F00", **_font())


def _font() -> dict[str, Any]:
    import matplotlib

    # the one font that is installed anyway
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    return {"font": str(path), "font_size": 14, "label_colors": "black", "fill_labels": True}


def _squared(pixels: Tensor) -> np.ndarray[Any, Any]:
    """A picture [H, W, 3] of a square that holds an image, with a white rim."""
    import PIL.Image

    picture = PIL.Image.fromarray(pixels.permute(1, 2, 0).numpy())
    picture.thumbnail((_SIDE, _SIDE))
    square = PIL.Image.new("RGB", (_SIDE + 8, _SIDE + 8), "white")
    square.paste(picture, ((_SIDE + 8 - picture.width) // 2, (_SIDE + 8 - picture.height) // 2))
    return np.asarray(square)

"""What happens to an image between the file and the network, on uint8 tensors [C, H, W] by torchvision."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from involution.data.resizing import check_not_too_long, check_not_too_narrow

Transform = Callable[[Any], Tensor]


def _interpolation(name: str) -> Any:
    from torchvision.transforms.v2 import InterpolationMode

    modes = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
    if name not in modes:
        raise ValueError(f"interpolation must be one of {', '.join(modes)}, got {name!r}")
    return modes[name]


def to_channels(image: Any, channels: int) -> Tensor:
    """A PIL image or uint8 tensor as a uint8 tensor of 1 or 3 channels."""
    import torchvision.transforms.v2.functional as F

    if not isinstance(image, Tensor):
        return F.pil_to_tensor(image.convert("L" if channels == 1 else "RGB"))
    if image.shape[0] == channels:
        return image
    return F.rgb_to_grayscale(image) if channels == 1 else image.expand(channels, -1, -1)


def _to_float(mean: Sequence[float], std: Sequence[float]) -> list[Any]:
    from torchvision.transforms import v2

    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]


def eval_transform(
    image_size: int,
    channels: int = 3,
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    std: Sequence[float] = (0.229, 0.224, 0.225),
    interpolation: str = "bilinear",
    crop_pct: float = 0.875,
) -> Transform:
    """Resize the shorter side to `image_size / crop_pct`, crop the centre, normalise.

    Args:
        image_size: side of the square that the network sees.
        channels: 1 or 3.
        mean: per channel, in units of 0 to 1.
        std: per channel, in units of 0 to 1.
        interpolation: bilinear or bicubic, antialiased.
        crop_pct: share of the resized shorter side that the crop keeps.

    Returns:
        A function from a PIL image or uint8 tensor [C, H, W] to a float tensor
        [channels, image_size, image_size].
    """
    from torchvision.transforms import v2

    short = round(image_size / crop_pct)
    resize = v2.Resize(short, _interpolation(interpolation), antialias=True)
    as_tensor = functools.partial(to_channels, channels=channels)
    return v2.Compose([as_tensor, NotTooNarrow(short), resize, v2.CenterCrop(image_size), *_to_float(mean, std)])


def whole_picture(short: int | None, channels: int = 3) -> Transform:
    """What is left to do for a network that resizes and normalises by itself.

    Args:
        short: length that it gives the shorter side, to refuse what it can't resize; None for its own.
        channels: 1 or 3.

    Returns:
        A function from a PIL image or uint8 tensor to a uint8 tensor [channels, H, W].
    """
    from torchvision.transforms import v2

    as_tensor = functools.partial(to_channels, channels=channels)
    return v2.Compose([as_tensor, *([] if short is None else [NotTooNarrow(short)])])


class NotTooNarrow(nn.Module):
    """Refuse an image so narrow that a resize of its shorter side would make it huge.

    Args:
        short: length that the shorter side will get.
    """

    def __init__(self, short: int) -> None:
        super().__init__()
        self.short = short

    def forward(self, *inputs: Any) -> Any:
        """Look at the first input, [..., H, W], and hand all of them on."""
        height, width = inputs[0].shape[-2:]
        check_not_too_narrow((width, height), self.short)
        return inputs if len(inputs) > 1 else inputs[0]


def train_transforms(
    image_size: int,
    channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str,
    *,
    crop_scale: tuple[float, float] | None = None,
    flip: float = 0.0,
    rotate: float = 0.0,
    translate: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    shear: float = 0.0,
    randaugment: int = 0,
    randaugment_magnitude: int = 9,
    erase: float = 0.0,
) -> tuple[Transform, Transform]:
    """The fixed and the random part of what happens to a training image.

    Args:
        image_size: side of the square that the network sees.
        channels: 1 or 3.
        mean: per channel, in units of 0 to 1.
        std: per channel, in units of 0 to 1.
        interpolation: bilinear or bicubic, for every resize.
        crop_scale: smallest and largest share of the area that a random crop keeps, None for the whole image.
        flip: probability of a horizontal flip.
        rotate: largest rotation in degrees.
        translate: largest shift as a share of the side.
        scale: smallest and largest zoom factor.
        shear: largest shear in degrees.
        randaugment: number of RandAugment operations.
        randaugment_magnitude: their strength, 0 to 30.
        erase: probability that a random rectangle is erased.

    Returns:
        A function from a PIL image or uint8 tensor to a uint8 tensor, the same every time, and one from
        there to the network's float input, drawn anew every time.
    """
    from torchvision.transforms import v2

    mode = _interpolation(interpolation)
    # torchvision rotates and shears tensors bilinearly at best
    bilinear = v2.InterpolationMode.BILINEAR
    size = (image_size, image_size)
    fixed = v2.Identity() if crop_scale else v2.Resize(size, mode, antialias=True)
    steps: list[Any] = []
    if crop_scale:
        steps.append(v2.RandomResizedCrop(size, scale=crop_scale, interpolation=mode, antialias=True))
    if flip:
        steps.append(v2.RandomHorizontalFlip(flip))
    if rotate or translate or shear or tuple(scale) != (1.0, 1.0):
        shift = (translate, translate)
        steps.append(v2.RandomAffine(rotate, shift, scale, shear or None, interpolation=bilinear))
    if randaugment:
        steps.append(v2.RandAugment(randaugment, randaugment_magnitude, interpolation=bilinear))
    steps += _to_float(mean, std)
    if erase:
        steps.append(v2.RandomErasing(erase))
    return v2.Compose([functools.partial(to_channels, channels=channels), fixed]), v2.Compose(steps)


class NotTooLong(nn.Module):
    """Refuse an image so long that nothing is left of its shorter side when the longer one fits.

    Args:
        longest: length that the longer side will have at most.
    """

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.longest = longest

    def forward(self, *inputs: Any) -> Any:
        """Look at the first input, [..., H, W], and hand all of them on."""
        height, width = inputs[0].shape[-2:]
        check_not_too_long((width, height), self.longest)
        return inputs if len(inputs) > 1 else inputs[0]


def detection_transform(
    flip: float = 0.0, photometric: bool = False, max_size: int | None = None
) -> Callable[..., Any]:
    """What happens to an image with boxes and masks; resize and normalisation are the detector's own.

    Args:
        flip: probability of a horizontal flip.
        photometric: distort brightness, contrast, saturation and hue.
        max_size: of the longer side in the detector, to refuse what it can't resize.

    Returns:
        A function from (``tv_tensors.Image`` uint8 [3, H, W], target) to a float image from 0 to 1 and the target in
        plain tensors, boxes without area left out.
    """
    from torchvision.transforms import v2

    steps: list[Any] = [] if max_size is None else [NotTooLong(max_size)]
    if flip:
        steps.append(v2.RandomHorizontalFlip(flip))
    if photometric:
        steps.append(v2.RandomPhotometricDistort())
    steps += [v2.SanitizeBoundingBoxes(), v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()]
    transform: Callable[..., Any] = v2.Compose(steps)
    return transform


class CropWithLimit(nn.Module):
    """Crop images and label maps at random, so that no class takes more than a share of the crop.

    The published Cityscapes recipe's crop: it is drawn anew, at most ten times, while one class covers more than
    ``limit`` of the labelled pixels. Smaller images are padded first, labels by 255.

    Args:
        height: of the crop.
        width: of the crop.
        limit: largest share of one class, 1 for any.
        fill: colour of the padding, per channel from 0 to 255.
    """

    tries = 10

    def __init__(self, height: int, width: int, limit: float, fill: Sequence[float]) -> None:
        super().__init__()
        self.height, self.width, self.limit = height, width, limit
        self.fill = list(fill)

    def forward(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Crop an image [3, H, W] and its labels [H, W]."""
        import torchvision.transforms.v2.functional as F

        below, beside = max(0, self.height - labels.shape[-2]), max(0, self.width - labels.shape[-1])
        if below or beside:
            image = F.pad(image, [0, 0, beside, below], fill=self.fill)
            labels = F.pad(labels, [0, 0, beside, below], fill=255)
        rows, columns = labels.shape[-2] - self.height, labels.shape[-1] - self.width
        for _ in range(self.tries):
            top, left = (int(torch.randint(room + 1, ())) for room in (rows, columns))
            part = labels[..., top : top + self.height, left : left + self.width]
            counts = torch.bincount(part[part != 255].flatten().long())
            if self.limit >= 1 or (len(counts) and counts.max() <= self.limit * counts.sum()):
                break
        place = (top, left, self.height, self.width)
        return F.crop(image, *place), F.crop(labels, *place)


def segmentation_transform(
    mean: Sequence[float],
    std: Sequence[float],
    *,
    min_size: int | None = None,
    scale: tuple[float, float] = (1.0, 1.0),
    crop: tuple[int, int] | None = None,
    class_limit: float = 1.0,
    flip: float = 0.0,
    rotate: float = 0.0,
    shear: float = 0.0,
    zoom: tuple[float, float] = (1.0, 1.0),
    photometric: bool = False,
) -> Callable[..., Any]:
    """What happens to a training image with its label map.

    Args:
        mean: per channel, in units of 0 to 1.
        std: per channel, in units of 0 to 1.
        min_size: length in pixels that the shorter side is resized to, None for its own.
        scale: the resize is by a factor drawn from this range besides; needs ``min_size``.
        crop: height and width of a random crop.
        class_limit: largest share of one class in a crop.
        flip: probability of a horizontal flip.
        rotate: largest rotation in degrees; what comes in from outside is not labelled.
        shear: largest shear in degrees.
        zoom: smallest and largest zoom factor about the middle.
        photometric: distort brightness, contrast, saturation and hue.

    Returns:
        A function from (``tv_tensors.Image`` uint8 [3, H, W], ``tv_tensors.Mask`` [H, W]) to the network's float input
        and plain labels.
    """
    from torchvision.transforms import v2

    steps: list[Any] = []
    if rotate or shear or tuple(zoom) != (1.0, 1.0):
        from torchvision import tv_tensors

        outside: Any = {tv_tensors.Image: [255 * value for value in mean], tv_tensors.Mask: 255}
        bilinear = v2.InterpolationMode.BILINEAR
        steps.append(v2.RandomAffine(rotate, None, zoom, shear or None, interpolation=bilinear, fill=outside))
    if min_size is not None and tuple(scale) != (1.0, 1.0):
        largest = round(min_size * scale[1])
        steps += [NotTooNarrow(largest), v2.RandomResize(round(min_size * scale[0]), largest + 1, antialias=True)]
    elif min_size is not None:
        steps += [NotTooNarrow(min_size), v2.Resize(min_size, antialias=True)]
    if crop is not None:
        steps.append(CropWithLimit(*crop, class_limit, [255 * value for value in mean]))
    if flip:
        steps.append(v2.RandomHorizontalFlip(flip))
    if photometric:
        steps.append(v2.RandomPhotometricDistort())
    transform: Callable[..., Any] = v2.Compose([*steps, *_to_float(mean, std), v2.ToPureTensor()])
    return transform


def segmentation_eval_transform(
    mean: Sequence[float], std: Sequence[float], min_size: int | None = None
) -> Callable[..., Any]:
    """As `segmentation_transform` without chance; only the image is resized, the labels are compared at their size."""
    from torchvision.transforms import v2

    steps = [] if min_size is None else [NotTooNarrow(min_size), v2.Resize(min_size, antialias=True)]
    prepare = v2.Compose([*steps, *_to_float(mean, std), v2.ToPureTensor()])

    def transform(image: Any, labels: Any = None) -> tuple[Tensor, Any]:
        return prepare(image), None if labels is None else labels.as_subclass(Tensor)

    return transform

"""The settings of a segmentation run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from involution.engine.config import MEAN, STD, DataConfig, Kind, ModelConfig, RunConfig
from involution.engine.settings import LARGEST_SIDE, MOST, ConfigError, increasing, ranged

# the published layouts, and segmentation-models-pytorch's own
SEGMENTERS = ("semantic_fpn", "upernet", "smp_fpn", "smp_upernet", "smp_deeplabv3plus")


@dataclass
class SegmentModelConfig(ModelConfig):
    """The segmenter.

    Args:
        name: semantic_fpn or upernet in their published layout, or segmentation-models-pytorch's smp_fpn, smp_upernet
            or smp_deeplabv3plus.
        backbone: its name in timm's registry, RedNet's included: rednet50_stem7, rednet50_conv, resnet50, ...
        backbone_args: further arguments of the backbone's constructor; not for smp_*.
        levels: features of the backbone to use, four by default; not for smp_*.
        weights: start from the backbone's weights in this file, a classifier's best.ckpt or a file written by
            `involution convert`, or from published weights by name, such as rednet50.
        freeze: parts of the backbone that do not learn and whose batch norms stay in eval mode, separated by commas:
            stem, layer1, ..., backbone for all of it, norms for the statistics of all batch norms.
        freeze_epochs: train them, too, after this many epochs; null for never.
        norm: norm of backbone and heads, batch or group; not for smp_*.
        neck: kind of the output layers of semantic_fpn's feature pyramid, convolution or involution.
        class_weights: weight of each class in the loss, for classes that cover few pixels; null for 1 each.
        dice_weight: weight of the Dice loss, which treats all classes alike, relative to the cross-entropy's 1.
        args: further arguments of the segmenter: head_channels, out_channels, auxiliary_channels, dropout, ...
    """

    name: str = "semantic_fpn"
    backbone: str = "rednet50_stem7"
    backbone_args: dict[str, Any] = field(default_factory=dict)
    levels: list[int] | None = ranged(None, 0, 100)  # noqa: RUF009
    norm: Literal["batch", "group"] = "batch"
    neck: Kind = "convolution"
    class_weights: list[float] | None = ranged(None, 0, above=True)  # noqa: RUF009
    dice_weight: float = ranged(0.0, 0)
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class SegmentDataConfig(DataConfig):
    """The images and their label maps.

    Args:
        spec: the data set.
        min_size: the shorter side is resized to this many pixels, null for its own; needed with augment.scale.
        ignore_index: value of label maps whose pixels neither train nor count; null for none.
        values: class of each value of label maps, such as {0: background, 255: lesion}; without, the values are
            the places of the classes.
    """

    spec: str = "digit-scenes"
    mean: tuple[float, float, float] = ranged(MEAN)
    std: tuple[float, float, float] = ranged(STD, 0, above=True)
    batch_size: int = ranged(8, 1, MOST)
    min_size: int | None = ranged(None, 1, LARGEST_SIDE)
    ignore_index: int | None = ranged(255, 0, 255)
    values: dict[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # YAML has numbers as keys, and a checkpoint words alone
        self.values = {str(value): name for value, name in self.values.items()}


@dataclass
class SegmentAugmentConfig:
    """Augmentation of training images.

    Args:
        scale: range of a random factor on data.min_size when resizing.
        crop: height and width of a random crop, null for the whole image; images of different sizes need one.
        class_limit: draw a crop again if one class covers more than this fraction of it.
        flip: probability of a horizontal flip.
        rotate: largest rotation in degrees, either way.
        shear: largest shear in degrees, either way.
        zoom: smallest and largest zoom about the centre; 1 is none. The image keeps its size.
        photometric: distort brightness, contrast, saturation and hue.
    """

    scale: tuple[float, float] = ranged((1.0, 1.0), 0, 100, above=True)
    crop: tuple[int, int] | None = ranged(None, 1, LARGEST_SIDE)
    class_limit: float = ranged(1.0, 0, 1, above=True)
    flip: float = ranged(0.5, 0, 1)
    rotate: float = ranged(0.0, 0, 180)
    shear: float = ranged(0.0, 0, 89)
    zoom: tuple[float, float] = ranged((1.0, 1.0), 0, 100, above=True)
    photometric: bool = False


@dataclass
class SegmentConfig(RunConfig):
    """A whole segmentation run.

    Args:
        optimizer: the optimiser; its head_lr_factor applies to everything but the backbone.
        model: the segmenter.
        data: the images and their label maps.
        augment: augmentation of training images.
    """

    task: ClassVar[str] = "segment"

    name: str = "segment"
    model: SegmentModelConfig = field(default_factory=SegmentModelConfig)
    data: SegmentDataConfig = field(default_factory=SegmentDataConfig)
    augment: SegmentAugmentConfig = field(default_factory=SegmentAugmentConfig)


def check(config: SegmentConfig) -> None:
    """Raise `ConfigError` for settings that do not go together."""
    from involution.engine.checkpoint import check_name

    data, model, augment = config.data, config.model, config.augment
    if model.name not in SEGMENTERS:
        raise ConfigError(f"no segmenter named {model.name!r} (there are {', '.join(SEGMENTERS)})")
    check_name(model.backbone)
    if model.neck != "convolution" and model.name != "semantic_fpn":
        raise ConfigError(f"model.neck is for semantic_fpn: {model.name} has no pyramid outputs to replace")
    if model.name.startswith("smp_") and (model.backbone_args or model.levels or model.norm != "batch"):
        raise ConfigError(f"model.backbone_args, model.levels and model.norm are not for {model.name}")
    for name in ("scale", "zoom"):
        pair = getattr(augment, name)
        if not increasing(pair):
            raise ConfigError(f"augment.{name} must be two factors, the smaller one first, got {list(pair)}")
    if tuple(augment.scale) != (1.0, 1.0) and (data.min_size is None or augment.crop is None):
        raise ConfigError("augment.scale needs data.min_size, which it is relative to, and augment.crop")

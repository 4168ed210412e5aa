"""The settings of a classification run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from involution.engine.config import MEAN, STD, DataConfig, ModelConfig, RunConfig
from involution.engine.settings import LARGEST_SIDE, MOST, ConfigError, increasing, ranged


@dataclass
class ClassifyModelConfig(ModelConfig):
    """The network.

    Args:
        name: its name in timm's registry, RedNet's included: rednet50, rednet_nano, resnet50, ...
        weights: start from this checkpoint or converted .safetensors file, or from published weights by name, such as
            rednet50; a head with another number of classes is initialised anew.
        freeze: parts of the network that do not learn and whose batch norms stay in eval mode, separated by commas:
            stem, layer1, ..., backbone for all but the head, norms for the statistics of all batch norms.
        freeze_epochs: train them, too, after this many epochs; null for never.
        args: further arguments of its constructor, such as {"drop_path_rate": 0.1}.
    """

    name: str = "rednet50"
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class ClassifyDataConfig(DataConfig):
    """The images.

    Args:
        spec: the data set.
        image_size: side in pixels of the square input.
        channels: 3 for colour, 1 for grey.
        crop_pct: evaluation resizes the shorter side to image_size / crop_pct and crops the centre.
        interpolation: bilinear or bicubic, for every resize.
        classes: file with the class names, one a line or a JSON list; needed where the data has none.
        balance: what to do about rare classes in training: none; sampling, to draw images of all classes equally often;
            or loss, to weigh each image by how rare its class is.
    """

    spec: str = "digits"
    mean: tuple[float, ...] = ranged(MEAN)
    std: tuple[float, ...] = ranged(STD, 0, above=True)
    batch_size: int = ranged(256, 1, MOST)
    image_size: int = ranged(224, 1, LARGEST_SIDE)
    channels: int = ranged(3, 1, 1024)
    crop_pct: float = ranged(0.875, 0.01, 1)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    classes: str | None = None
    balance: Literal["none", "sampling", "loss"] = "none"


@dataclass
class ClassifyAugmentConfig:
    """Augmentation of training images; evaluation is not affected.

    Args:
        crop_scale: smallest and largest fraction of the image's area that RandomResizedCrop keeps; null resizes
            the whole image instead.
        flip: probability of a horizontal flip.
        rotate: largest rotation in degrees, either way.
        translate: largest shift as a fraction of the image's side.
        scale: smallest and largest zoom factor; 1 is none.
        shear: largest shear in degrees, either way.
        randaugment: number of RandAugment operations per image, 0 for none.
        randaugment_magnitude: strength of these operations, 0 to 30.
        erase: probability that a random rectangle is erased.
        mixup: alpha of mixup, 0 for none.
        cutmix: alpha of CutMix, 0 for none; with both, each batch draws one of the two.
    """

    crop_scale: tuple[float, float] | None = ranged((0.08, 1.0), 0, 1, above=True)
    flip: float = ranged(0.5, 0, 1)
    rotate: float = ranged(0.0, 0, 180)
    translate: float = ranged(0.0, 0, 1)
    scale: tuple[float, float] = ranged((1.0, 1.0), 0, 100, above=True)
    shear: float = ranged(0.0, 0, 89)
    randaugment: int = ranged(0, 0, 100)
    randaugment_magnitude: int = ranged(9, 0, 30)
    erase: float = ranged(0.0, 0, 1)
    mixup: float = ranged(0.0, 0, 100)
    cutmix: float = ranged(0.0, 0, 100)


@dataclass
class ClassifyConfig(RunConfig):
    """A whole classification run.

    Args:
        augment: augmentation of training images.
    """

    task: ClassVar[str] = "classify"

    name: str = "classify"
    model: ClassifyModelConfig = field(default_factory=ClassifyModelConfig)
    data: ClassifyDataConfig = field(default_factory=ClassifyDataConfig)
    augment: ClassifyAugmentConfig = field(default_factory=ClassifyAugmentConfig)


def check(config: ClassifyConfig) -> None:
    """Raise `ConfigError` for settings that do not go together."""
    from involution.engine.checkpoint import check_name

    data, augment = config.data, config.augment
    check_name(config.model.name)
    if data.channels not in (1, 3) or len(data.mean) != data.channels or len(data.std) != data.channels:
        raise ConfigError(
            f"data.channels must be 1 or 3 with as many data.mean and data.std, got {data.channels}, "
            f"{len(data.mean)} and {len(data.std)}"
        )
    if augment.crop_scale is not None and not increasing(augment.crop_scale):
        raise ConfigError(
            f"augment.crop_scale must be two fractions, the smaller one first, got {list(augment.crop_scale)}"
        )
    if not increasing(augment.scale):
        raise ConfigError(f"augment.scale must be two factors, the smaller one first, got {list(augment.scale)}")

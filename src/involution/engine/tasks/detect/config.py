"""The settings of a detection run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from involution.engine.config import MEAN, STD, DataConfig, Kind, ModelConfig, RunConfig
from involution.engine.settings import LARGEST_SIDE, MOST, ConfigError, ranged

DETECTORS = ("retinanet", "faster_rcnn", "mask_rcnn", "detr", "conditional_detr")
# without pyramid and proposals
DETRS = ("detr", "conditional_detr")


@dataclass
class DetectModelConfig(ModelConfig):
    """The detector.

    Args:
        name: retinanet, faster_rcnn, mask_rcnn, detr or conditional_detr.
        backbone: its name in timm's registry, RedNet's included: rednet50_stem7, rednet50_conv, resnet50, ...
        backbone_args: further arguments of the backbone's constructor.
        levels: stages of the backbone in the feature pyramid; null for 2, 3, 4 (retinanet) or 1, 2, 3, 4;
            for a detr the stage it attends to, null for 4.
        weights: start from the backbone's weights in this file, a classifier's best.ckpt or a file written by
            `involution convert`, or from published weights by name, such as rednet50;
            stem and first stage are then frozen and all batch norms keep their statistics.
        freeze: freeze them or not, regardless of weights; null to freeze only if there are weights. Or parts of the
            backbone that do not learn and whose batch norms stay in eval mode, separated by commas: stem, layer1, ...,
            backbone for all of it, norms for the statistics of all batch norms.
        freeze_epochs: train these parts, too, after this many epochs; null for never.
        norm: norm of the backbone: batch, or group for training from scratch with small batches.
        neck: kind of the feature pyramid's output layers, convolution or involution; not for a detr.
        head: kind of the layers of proposal network and mask head, convolution or involution; not for a detr.
        args: further arguments of the detector: out_channels, box_channels, anchor_sizes, score thresholds, ...;
            for a detr d_model, num_queries, encoder_layers, ...
    """

    name: str = "faster_rcnn"
    backbone: str = "rednet50_stem7"
    backbone_args: dict[str, Any] = field(default_factory=dict)
    levels: list[int] | None = ranged(None, 0, 100)  # noqa: RUF009
    freeze: bool | str | None = None  # type: ignore[assignment]
    norm: Literal["batch", "group"] = "batch"
    neck: Kind = "convolution"
    head: Kind = "convolution"
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class DetectDataConfig(DataConfig):
    """The images and their boxes.

    Args:
        spec: the data set.
        min_size: the shorter side is resized to this many pixels; from several sizes, training draws one for each
            image and evaluation uses the last.
        max_size: maximum of the longer side in pixels.
        background: train on images without objects, too.
    """

    spec: str = "digit-scenes"
    mean: tuple[float, float, float] = ranged(MEAN)
    std: tuple[float, float, float] = ranged(STD, 0, above=True)
    batch_size: int = ranged(16, 1, MOST)
    min_size: list[int] = ranged([800], 1, LARGEST_SIDE)  # noqa: RUF009
    max_size: int = ranged(1333, 1, LARGEST_SIDE)
    background: bool = True


@dataclass
class DetectAugmentConfig:
    """Augmentation of training images, besides resizing.

    Args:
        flip: probability of a horizontal flip.
        photometric: distort brightness, contrast, saturation and hue.
    """

    flip: float = ranged(0.5, 0, 1)
    photometric: bool = False


@dataclass
class DetectConfig(RunConfig):
    """A whole detection run.

    Args:
        compile: compile the backbone and its feature pyramid with torch.compile.
        optimizer: the optimiser; its head_lr_factor applies to everything but the backbone.
        model: the detector.
        data: the images and their boxes.
        augment: augmentation of training images.
    """

    task: ClassVar[str] = "detect"

    name: str = "detect"
    model: DetectModelConfig = field(default_factory=DetectModelConfig)
    data: DetectDataConfig = field(default_factory=DetectDataConfig)
    augment: DetectAugmentConfig = field(default_factory=DetectAugmentConfig)


def check(config: DetectConfig) -> None:
    """Raise `ConfigError` for settings that do not go together."""
    from involution.engine.checkpoint import check_name

    data, model = config.data, config.model
    if model.name not in DETECTORS:
        raise ConfigError(f"no detector named {model.name!r} (there are {', '.join(DETECTORS)})")
    check_name(model.backbone)
    if model.name == "retinanet" and model.head == "involution":
        raise ConfigError("model.head is for faster_rcnn and mask_rcnn: retinanet's head has no involutions")
    if model.name in DETRS and (model.neck, model.head) != ("convolution", "convolution"):
        raise ConfigError(f"model.neck and model.head are for the other detectors: {model.name} has no pyramid")
    if model.name in DETRS and model.levels is not None and len(model.levels) != 1:
        raise ConfigError(f"model.levels must be one stage for {model.name}, got {model.levels}")
    if not data.min_size or data.max_size < max(data.min_size):
        raise ConfigError(
            f"data.min_size must be sizes from 1 to data.max_size, got {list(data.min_size)} and {data.max_size}"
        )
    if config.trainer.label_smoothing:
        raise ConfigError("trainer.label_smoothing is for classification: a detector's loss has none")

"""The settings of a detection run, and the detector that they describe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import nn

from involution.data.errors import nearest
from involution.engine.config import MEAN, STD, DataConfig, ModelConfig, RunConfig
from involution.engine.process import tell
from involution.engine.settings import LARGEST_SIDE, MOST, ConfigError, ranged
from involution.engine.weights import tell_loaded
from involution.models.pyramid import Kind

DETECTORS = ("retinanet", "faster_rcnn", "mask_rcnn", "detr", "conditional_detr")
# without pyramid and proposals
_DETRS = ("detr", "conditional_detr")
# bytes of the pyramid's maps from which on a fine level is told of, and how many maps of a level a training keeps:
# before and after the output layer, and in the heads
_MUCH, _MAPS = 2e9, 4


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
    data, model = config.data, config.model
    if model.name not in DETECTORS:
        raise ConfigError(f"no detector named {model.name!r} (there are {', '.join(DETECTORS)})")
    if model.name == "retinanet" and model.head == "involution":
        raise ConfigError("model.head is for faster_rcnn and mask_rcnn: retinanet's head has no involutions")
    if model.name in _DETRS and (model.neck, model.head) != ("convolution", "convolution"):
        raise ConfigError(f"model.neck and model.head are for the other detectors: {model.name} has no pyramid")
    if model.name in _DETRS and model.levels is not None and len(model.levels) != 1:
        raise ConfigError(f"model.levels must be one stage for {model.name}, got {model.levels}")
    if not data.min_size or data.max_size < max(data.min_size):
        raise ConfigError(
            f"data.min_size must be sizes from 1 to data.max_size, got {list(data.min_size)} and {data.max_size}"
        )
    if config.trainer.label_smoothing:
        raise ConfigError("trainer.label_smoothing is for classification: a detector's loss has none")


def _size_complaint(config: DetectConfig, strides: Sequence[int]) -> str:
    """That a level of the pyramid is surely too fine for the size of the images; empty for nothing to say."""
    data, stride = config.data, min(strides)
    images = max(1, data.batch_size // (config.devices * config.trainer.accumulate))
    sides = (max(data.min_size), data.max_size)
    positions = sides[0] * sides[1] // stride**2
    need = float(images * positions * config.model.args.get("out_channels", 256) * 4 * _MAPS)
    if stride > 2 or need < _MUCH:
        return ""
    return (
        f"the finest of the levels has a position for every {stride} x {stride} pixels: up to {positions:,} of an "
        f"image of {sides[0]} x {sides[1]}, each with anchors, and about {need / 1e9:.0f} GB for {images} image"
        f"{'s' if images > 1 else ''} at once; coarser --model.levels, smaller --data.min_size and --data.max_size, or "
        "a smaller --batch-size need less"
    )


def create_detector(config: DetectConfig, num_classes: int, weights: bool) -> nn.Module:
    """Make the detector that the settings describe.

    Args:
        config: the settings.
        num_classes: categories, without the background.
        weights: read the backbone's weights; if False, a checkpoint provides them later.

    Raises:
        ConfigError: for settings that are wrong or do not go together.
        CheckpointError: for weights that can't be used.
    """
    import timm

    from involution import detection
    from involution.models.pyramid import Backbone

    model, data = config.model, config.data
    if not timm.is_model(model.backbone):
        raise ConfigError(f"no model named {model.backbone!r}{nearest(model.backbone, timm.list_models())}")
    build = getattr(detection, model.name)
    levels = model.levels or {"retinanet": (2, 3, 4), **dict.fromkeys(_DETRS, (4,))}.get(model.name, (1, 2, 3, 4))
    layers = {} if model.name in _DETRS else {"neck": model.neck}
    if model.name in ("faster_rcnn", "mask_rcnn"):
        layers["head"] = model.head
    try:
        backbone = Backbone(
            model.backbone,
            levels,
            weights=model.weights,
            # the engine freezes parts that are named
            freeze=False if isinstance(model.freeze, str) else model.freeze,
            norm=model.norm,
            model_args=model.backbone_args,
            load=weights,
        )
        if backbone.loaded is not None:
            tell_loaded(str(model.weights), backbone.loaded)
        detector: nn.Module = build(
            num_classes,
            backbone,
            **layers,
            min_size=tuple(data.min_size),
            max_size=data.max_size,
            image_mean=list(data.mean),
            image_std=list(data.std),
            **model.args,
        )
    except (TypeError, ValueError) as error:
        if type(error).__module__.startswith("involution."):
            raise
        raise ConfigError(f"{model.name} on {model.backbone} can't be built: {error}") from error
    if weights and (size := _size_complaint(config, backbone.strides)):
        tell(f"warning: {size}")
    return detector

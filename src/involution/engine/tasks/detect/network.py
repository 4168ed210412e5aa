"""The detector that the settings of a run describe."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from involution.engine.checkpoint import check_name
from involution.engine.process import tell
from involution.engine.settings import ConfigError
from involution.engine.tasks.detect.config import DETRS, DetectConfig
from involution.engine.weights import tell_loaded
from involution.models.pyramid import Backbone

# bytes of the pyramid's maps from which on a fine level is told of, and how many maps of a level a training keeps:
# before and after the output layer, and in the heads
_MUCH, _MAPS = 2e9, 4


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
    from involution import detection

    model, data = config.model, config.data
    check_name(model.backbone)
    build = getattr(detection, model.name)
    levels = model.levels or {"retinanet": (2, 3, 4), **dict.fromkeys(DETRS, (4,))}.get(model.name, (1, 2, 3, 4))
    layers = {} if model.name in DETRS else {"neck": model.neck}
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

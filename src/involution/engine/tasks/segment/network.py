"""The segmenter that the settings of a run describe."""

from __future__ import annotations

from torch import nn

from involution.engine.checkpoint import check_name
from involution.engine.settings import ConfigError
from involution.engine.tasks.segment.config import SegmentConfig
from involution.engine.weights import tell_loaded
from involution.models.pyramid import Backbone


def create_segmenter(config: SegmentConfig, num_classes: int, weights: bool) -> nn.Module:
    """Make the segmenter that the settings describe.

    Args:
        config: the settings.
        num_classes: classes.
        weights: read the backbone's weights; if False, a checkpoint provides them later.

    Raises:
        ConfigError: for settings that are wrong or do not go together.
        CheckpointError: for weights that can't be used.
    """
    from involution import segmentation

    model = config.model
    check_name(model.backbone)
    try:
        if model.name.startswith("smp_"):
            file = model.weights if weights else None
            network = segmentation.smp(model.name, num_classes, model.backbone, weights=file, **model.args)
            if network.loaded is not None:
                tell_loaded(str(file), network.loaded)
            return network
        backbone = Backbone(
            model.backbone,
            model.levels or (1, 2, 3, 4),
            weights=model.weights,
            freeze=False,
            norm=model.norm,
            model_args=model.backbone_args,
            load=weights,
        )
        if backbone.loaded is not None:
            tell_loaded(str(model.weights), backbone.loaded)
        neck = {"neck": model.neck} if model.name == "semantic_fpn" else {}
        build = getattr(segmentation, model.name)
        segmenter: nn.Module = build(num_classes, backbone, norm=model.norm, **neck, **model.args)
    except (TypeError, ValueError) as error:
        if type(error).__module__.startswith("involution."):
            raise
        raise ConfigError(f"{model.name} on {model.backbone} can't be built: {error}") from error
    return segmenter

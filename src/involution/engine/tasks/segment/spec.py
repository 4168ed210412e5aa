"""The record of semantic segmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from involution.data.records import DataSet
from involution.engine.task import TaskSpec, as_lists
from involution.engine.tasks.segment.config import SegmentConfig, check
from involution.engine.tasks.segment.figures import SegmentationFigures
from involution.engine.tasks.segment.predictor import SegmentationPredictor
from involution.extras import require

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import Dataset

    from involution.data.label_maps import LabelMaps
    from involution.engine.checkpoint import ModelCard


def build(config: SegmentConfig, num_classes: int, weights: bool) -> nn.Module:
    """The segmenter."""
    from involution.engine.tasks.segment.network import create_segmenter

    return create_segmenter(config, num_classes, weights)


def describe(config: SegmentConfig) -> dict[str, Any]:
    """The fields of a segmenter's card."""
    # 0: images keep their size
    side = config.data.min_size or 0
    return {"model_args": {"backbone": config.model.backbone}, "input_size": (3, side, side)}


def make_module(network: nn.Module, config: SegmentConfig, card: ModelCard, steps: int, data: Any) -> Any:
    """The Lightning module."""
    from involution.engine.tasks.segment.module import SegmentationTask

    module = SegmentationTask(network, config, card, steps)
    module.void = data.code.void
    return module


def train_set(config: SegmentConfig, data: DataSet[LabelMaps]) -> Dataset[Any]:
    """Training images with their label maps, augmented."""
    from involution.data.transforms import segmentation_transform
    from involution.engine.loader import TrainItems

    if config.model.dice_weight:
        # before the work, not at the first step
        require("segmentation_models_pytorch")
    settings, augment = config.data, config.augment
    transform = segmentation_transform(
        settings.mean,
        settings.std,
        min_size=settings.min_size,
        scale=augment.scale,
        crop=augment.crop,
        class_limit=augment.class_limit,
        flip=augment.flip,
        rotate=augment.rotate,
        shear=augment.shear,
        zoom=augment.zoom,
        photometric=augment.photometric,
    )
    return TrainItems(data.train, transform, config.seed, cache=settings.cache)


def eval_set(config: SegmentConfig, images: LabelMaps) -> Dataset[Any]:
    """Images as evaluation sees them."""
    from involution.data.transforms import segmentation_eval_transform
    from involution.engine.loader import EvalItems

    data = config.data
    return EvalItems(images, segmentation_eval_transform(data.mean, data.std, data.min_size))


SPEC = TaskSpec(
    name="segment",
    noun="semantic segmenter",
    measure="mean IoU",
    config=SegmentConfig,
    check=check,
    build=build,
    describe=describe,
    module=make_module,
    train_set=train_set,
    eval_set=eval_set,
    collate=as_lists,
    figures=SegmentationFigures,
    predictor=SegmentationPredictor,
    eval_batch_size=4,
)

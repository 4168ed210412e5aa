"""The record of object detection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from involution.data.records import DataSet
from involution.engine.task import TaskSpec, as_lists
from involution.engine.tasks.detect.config import DetectConfig, check
from involution.engine.tasks.detect.figures import DetectionFigures
from involution.engine.tasks.detect.predictor import DetectionPredictor

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import Dataset

    from involution.data.box_dataset import BoxDataset
    from involution.engine.checkpoint import ModelCard


def data_options(config: DetectConfig) -> dict[str, Any]:
    """Read masks if the detector learns them."""
    return {"masks": config.model.name == "mask_rcnn"}


def build(config: DetectConfig, num_classes: int, weights: bool) -> nn.Module:
    """The detector."""
    from involution.engine.tasks.detect.network import create_detector

    return create_detector(config, num_classes, weights)


def describe(config: DetectConfig) -> dict[str, Any]:
    """The fields of a detector's card."""
    return {
        "model_args": {"backbone": config.model.backbone},
        "input_size": (3, config.data.min_size[-1], config.data.max_size),
    }


def make_module(network: nn.Module, config: DetectConfig, card: ModelCard, steps: int, data: BoxDataset) -> Any:
    """The Lightning module."""
    from involution.engine.tasks.detect.module import DetectionTask

    return DetectionTask(network, config, card, steps, data)


def train_set(config: DetectConfig, data: DataSet[BoxDataset]) -> Dataset[Any]:
    """Training images with their objects, augmented; those without are background, if the data has them."""
    from involution.data.transforms import detection_transform
    from involution.engine.loader import TrainItems

    transform = detection_transform(config.augment.flip, config.augment.photometric, config.data.max_size)
    return TrainItems(data.train, transform, config.seed, cache=config.data.cache)


def eval_set(config: DetectConfig, data: BoxDataset) -> Dataset[Any]:
    """Images as evaluation sees them; masks are compared as they are in the record."""
    from involution.data.box_dataset import BoxDataset
    from involution.data.transforms import detection_transform
    from involution.engine.loader import EvalItems

    return EvalItems(BoxDataset(data.record, reading=data.reading), detection_transform(max_size=config.data.max_size))


def backbone(network: nn.Module) -> nn.Module:
    """The part of a detector worth compiling: backbone and feature pyramid."""
    return network.get_submodule("backbone")


SPEC = TaskSpec(
    name="detect",
    noun="object detector",
    measure="AP",
    config=DetectConfig,
    check=check,
    data_options=data_options,
    build=build,
    describe=describe,
    module=make_module,
    train_set=train_set,
    eval_set=eval_set,
    collate=as_lists,
    figures=DetectionFigures,
    predictor=DetectionPredictor,
    compiled=backbone,
    eval_batch_size=8,
    # a level of the pyramid without a box in a batch has no gradient
    unused_parameters=True,
)

"""Object detection, as the engine sees it."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.data import Dataset

from involution.data.box_dataset import BoxDataset
from involution.data.records import DataSet
from involution.data.transforms import detection_transform
from involution.engine.checkpoint import ModelCard
from involution.engine.loader import EvalItems, TrainItems, as_lists
from involution.engine.task import TaskSpec
from involution.engine.tasks.detect.config import DetectConfig, check, create_detector
from involution.engine.tasks.detect.figures import DetectionFigures
from involution.engine.tasks.detect.predictor import DetectionPredictor


def data_options(config: DetectConfig) -> dict[str, Any]:
    """Masks are read where the detector learns them."""
    return {"masks": config.model.name == "mask_rcnn"}


def describe(config: DetectConfig) -> dict[str, Any]:
    """What the card of a detector says."""
    return {
        "model_args": {"backbone": config.model.backbone},
        "input_size": (3, config.data.min_size[-1], config.data.max_size),
    }


def make_module(network: nn.Module, config: DetectConfig, card: ModelCard, steps: int, data: BoxDataset) -> Any:
    """What is trained."""
    from involution.engine.tasks.detect.module import DetectionTask

    return DetectionTask(network, config, card, steps, data)


def train_set(config: DetectConfig, data: DataSet[BoxDataset]) -> Dataset[Any]:
    """Training images with their objects, augmented; those without are background, if the data has them."""
    transform = detection_transform(config.augment.flip, config.augment.photometric)
    return TrainItems(data.train, transform, config.seed, cache=config.data.cache)


def eval_set(config: DetectConfig, data: BoxDataset) -> Dataset[Any]:
    """Images as evaluation shows them; masks are compared as the record has them."""
    return EvalItems(BoxDataset(data.record, reading=data.reading), detection_transform())


def backbone(network: nn.Module) -> nn.Module:
    """The part of a detector that is worth compiling: backbone and feature pyramid."""
    return network.get_submodule("backbone")


SPEC = TaskSpec(
    name="detect",
    noun="object detector",
    measure="AP",
    config=DetectConfig,
    check=check,
    data_options=data_options,
    build=create_detector,
    describe=describe,
    module=make_module,
    train_set=train_set,
    eval_set=eval_set,
    collate=as_lists,
    figures=DetectionFigures,
    predictor=DetectionPredictor,
    compiled=backbone,
    eval_batch_size=8,
    # a level of the pyramid may have no box in a batch, and then no gradient
    unused_parameters=True,
)

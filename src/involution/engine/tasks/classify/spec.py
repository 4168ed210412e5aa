"""The record of image classification."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.data import Dataset

from involution.data.labelled import balanced_weights, labels_of
from involution.data.records import DataSet
from involution.data.transforms import eval_transform, train_transforms
from involution.engine.checkpoint import ModelCard
from involution.engine.loader import EvalItems, ImageOnly, TrainItems
from involution.engine.task import TaskSpec
from involution.engine.tasks.classify.config import ClassifyConfig, check, create_classifier
from involution.engine.tasks.classify.figures import ClassificationFigures
from involution.engine.tasks.classify.predictor import ClassificationPredictor


def describe(config: ClassifyConfig) -> dict[str, Any]:
    """The fields of a classifier's card."""
    side = config.data.image_size
    return {
        "model_args": dict(config.model.args),
        "input_size": (config.data.channels, side, side),
        "interpolation": config.data.interpolation,
        "crop_pct": config.data.crop_pct,
    }


def make_module(network: nn.Module, config: ClassifyConfig, card: ModelCard, steps: int, data: Any) -> Any:
    """The Lightning module."""
    from involution.engine.tasks.classify.module import ClassificationTask

    return ClassificationTask(network, config, card, steps)


def train_set(config: ClassifyConfig, data: DataSet[Any]) -> Dataset[Any]:
    """Training images, augmented."""
    settings, augment = config.data, config.augment
    fixed, random = train_transforms(
        settings.image_size,
        settings.channels,
        settings.mean,
        settings.std,
        settings.interpolation,
        crop_scale=augment.crop_scale,
        flip=augment.flip,
        rotate=augment.rotate,
        translate=augment.translate,
        scale=augment.scale,
        shear=augment.shear,
        randaugment=augment.randaugment,
        randaugment_magnitude=augment.randaugment_magnitude,
        erase=augment.erase,
    )
    weights = None
    if settings.balance == "sampling":
        labels = labels_of(data.train)
        weights = balanced_weights(labels, len(data.classes))[labels]
    return TrainItems(data.train, ImageOnly(random), config.seed, ImageOnly(fixed), settings.cache, weights)


def eval_set(config: ClassifyConfig, images: Dataset[Any]) -> Dataset[Any]:
    """Images as evaluation sees them."""
    data = config.data
    transform = eval_transform(data.image_size, data.channels, data.mean, data.std, data.interpolation, data.crop_pct)
    return EvalItems(images, ImageOnly(transform), data.cache)


SPEC = TaskSpec(
    name="classify",
    noun="image classifier",
    measure="accuracy",
    config=ClassifyConfig,
    check=check,
    build=create_classifier,
    describe=describe,
    module=make_module,
    train_set=train_set,
    eval_set=eval_set,
    figures=ClassificationFigures,
    predictor=ClassificationPredictor,
    splits=("train", "val", "test"),
    eval_split="test",
    eval_batch_size=64,
    least_val_batch=64,
)

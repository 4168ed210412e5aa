"""The record of image classification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from involution.data.records import DataSet
from involution.engine.task import TaskSpec
from involution.engine.tasks.classify.config import ClassifyConfig, check
from involution.engine.tasks.classify.figures import ClassificationFigures
from involution.engine.tasks.classify.predictor import ClassificationPredictor, share_seen

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import Dataset

    from involution.engine.checkpoint import ModelCard


def build(config: ClassifyConfig, num_classes: int, weights: bool) -> nn.Module:
    """The classifier."""
    from involution.engine.tasks.classify.network import create_classifier

    return create_classifier(config, num_classes, weights)


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
    from involution.data.labelled import balanced_weights, labels_of
    from involution.data.transforms import train_transforms
    from involution.engine.loader import ImageOnly, TrainItems

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
    from involution.data.transforms import eval_transform
    from involution.engine.loader import EvalItems, ImageOnly

    data = config.data
    transform = eval_transform(data.image_size, data.channels, data.mean, data.std, data.interpolation, data.crop_pct)
    return EvalItems(images, ImageOnly(transform), data.cache)


SPEC = TaskSpec(
    name="classify",
    noun="image classifier",
    measure="accuracy",
    config=ClassifyConfig,
    check=check,
    build=build,
    describe=describe,
    module=make_module,
    train_set=train_set,
    eval_set=eval_set,
    figures=ClassificationFigures,
    predictor=ClassificationPredictor,
    share_seen=lambda config, size: share_seen(size, config.data.image_size, config.data.crop_pct),
    splits=("train", "val", "test"),
    eval_split="test",
    eval_batch_size=64,
    least_val_batch=64,
)

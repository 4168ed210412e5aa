"""Training and evaluating detectors."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import SumMetric
from typing_extensions import override

from involution.data.coco import CocoData, CocoDataset, open_coco, report
from involution.data.transforms import detection_transform
from involution.detection import first_label
from involution.engine.checkpoint import (
    CheckpointError,
    ModelCard,
    network_weights,
    read_card,
    read_checkpoint,
    versions,
)
from involution.engine.coco_metrics import average_precision
from involution.engine.config import ConfigError, load_config
from involution.engine.detect_config import DetectConfig, check_detect, create_detector
from involution.engine.fit import TrainResult, fit, in_epochs, tell
from involution.engine.loader import EvalBatches, EvalScenes, TrainBatches, TrainScenes, as_lists, make_loader
from involution.engine.setup import make_eval_trainer, on_gpu, quiet
from involution.engine.task import Task

Batch = tuple[list[Tensor], list[dict[str, Any]]]


@dataclass(frozen=True)
class DetectionFigures:
    """Figures of a checkpoint on one split.

    Attributes:
        bbox: COCO's twelve figures of the boxes, 0 to 1: ap, ap50, ap75, …
        segm: the same of the masks; None for a detector without.
        results: every detection, in COCO's results format.
        num_images: images counted, each once.
        images_per_second: images per second, loading and evaluation included.
        classes: category names.
        split: the split's name.
    """

    bbox: dict[str, float]
    segm: dict[str, float] | None
    results: list[dict[str, Any]]
    num_images: int
    images_per_second: float
    classes: list[str]
    split: str


class Detector(Task):
    """A detector with its losses, COCO's figures, optimiser and schedule.

    Args:
        model: one of torchvision's detectors.
        config: the settings.
        card: kept in every checkpoint.
        steps_per_epoch: optimiser steps per epoch.
        val: annotations of the images that it is evaluated on.
    """

    monitor = "ap"

    def __init__(
        self, model: nn.Module, config: DetectConfig, card: ModelCard, steps_per_epoch: int, val: CocoData
    ) -> None:
        super().__init__(model, config, card, steps_per_epoch)
        self.val_data = val
        self.first_label = first_label(model)
        self.with_masks = config.model.name == "mask_rcnn"
        self.loss_sum = SumMetric(nan_strategy="disable")
        self.loss_count = SumMetric(nan_strategy="disable")
        self.detections: list[dict[str, Any]] = []

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, targets = batch
        targets = [{**target, "labels": target["labels"] + self.first_label} for target in targets]
        loss: Tensor = sum(self.model(images, targets).values())
        self.loss_sum.update(loss.detach() * len(images))
        self.loss_count.update(len(images))
        return loss

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, targets = batch
        for found, target in zip(self.model(images), targets, strict=True):
            self.detections += coco_results(found, target["image_id"], self.card.category_ids, self.first_label)

    @override
    def on_validation_epoch_end(self) -> None:
        everything = self.detections
        if self.trainer.world_size > 1:
            parts: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(parts, everything)
            everything = [result for part in parts for result in part]
        self.results = {"bbox": average_precision(self.val_data, everything), "results": everything}
        if self.with_masks:
            self.results["segm"] = average_precision(self.val_data, everything, "segm")
        self.detections = []

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    @override
    def train_figures(self) -> dict[str, float]:
        found = {"loss": float(self.loss_sum.compute() / self.loss_count.compute())}
        self.loss_sum.reset()
        self.loss_count.reset()
        return found

    @override
    def val_figures(self) -> dict[str, float]:
        figures = {name: self.results["bbox"][name] for name in ("ap", "ap50", "ap75")}
        if self.with_masks:
            figures |= {f"mask_{name}": self.results["segm"][name] for name in ("ap", "ap50", "ap75")}
        return figures


def coco_results(found: dict[str, Tensor], image_id: int, category_ids: list[int], first: int) -> list[dict[str, Any]]:
    """Detections of one image in COCO's results format.

    Args:
        found: boxes [n, 4] (x1 y1 x2 y2), labels, scores and perhaps masks [n, 1, H, W], as torchvision gives them.
        image_id: the image's id.
        category_ids: the data set's category ids in the order of the classes.
        first: label of the first category.
    """
    boxes = found["boxes"].float().cpu()
    boxes[:, 2:] -= boxes[:, :2]
    results = [
        {"image_id": image_id, "category_id": category_ids[label - first], "bbox": box, "score": score}
        for box, label, score in zip(
            boxes.tolist(), found["labels"].tolist(), found["scores"].float().tolist(), strict=True
        )
    ]
    if "masks" in found:
        from pycocotools import mask as run_lengths

        for result, mask in zip(results, (found["masks"][:, 0] > 0.5).cpu().numpy(), strict=True):
            encoded = run_lengths.encode(mask.astype("uint8", order="F"))
            result["segmentation"] = {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}
    return results


def train(config: DetectConfig, *, progress: bool = True, resume: str | os.PathLike[str] | None = None) -> TrainResult:
    """Train a detector; the checkpoint with the best AP of the validation images is kept.

    Args:
        config: the settings.
        progress: show a progress bar, or a line per epoch where the output is no terminal.
        resume: go on from this checkpoint, in its folder.

    Returns:
        Checkpoints, figures and the history.

    Raises:
        ConfigError: for settings that are wrong or do not go together.
        DataError: for a data set that can't be used.
        CheckpointError: for a checkpoint or weights that can't be used.
        ImageError: for an image that turns out broken during the training.
        TrainingInterrupted: after Ctrl-C; it tells where the training can go on.
        TrainingDiverged: when the loss is no number any more.
    """
    check_detect(config)
    masks = config.model.name == "mask_rcnn"
    data = open_coco(config.data.spec, on_problem=config.data.on_problem, masks=masks)
    for part in data.values():
        _tell_problems(part)
    source = CocoDataset(data["train"], masks, annotated_only=True)
    config = in_epochs(config, len(source))

    def module(steps_per_epoch: int, fresh: bool) -> Task:
        torch.manual_seed(config.seed)
        model = create_detector(config, len(data["train"].classes), weights=fresh)
        if config.trainer.channels_last:
            model.to(memory_format=torch.channels_last)
        if config.compile:
            model.backbone.compile()  # type: ignore[union-attr]
        card = make_card(config, data["train"].classes, data["train"].category_ids)
        return Detector(model, config, card, steps_per_epoch, data["val"])

    def loaders(trainer: Any, position: tuple[int, int]) -> tuple[Any, Any]:
        rank, world, settings = trainer.global_rank, trainer.world_size, config.data
        transform = detection_transform(config.augment.flip, config.augment.photometric)
        images = TrainScenes(source, transform, config.seed, settings.cache)
        accumulate = config.trainer.accumulate
        batches = TrainBatches(len(images), settings.batch_size, accumulate, config.seed, rank, world, position)
        return (
            make_loader(images, batches, settings.workers, on_gpu(trainer), as_lists),
            _eval_loader(config, data["val"], max(1, settings.batch_size // world), settings.workers, trainer),
        )

    return fit(config, data["train"].classes, len(source), module, loaders, progress=progress, resume=resume)


def evaluate(
    checkpoint: str | os.PathLike[str],
    data_spec: str | None = None,
    split: str = "val",
    *,
    batch_size: int = 8,
    workers: int = 0,
    devices: int = 1,
    accelerator: str = "auto",
    on_problem: str = "refuse",
    progress: bool = False,
) -> DetectionFigures:
    """Measure a detector on a split by COCO's figures, each image counted once.

    Args:
        checkpoint: best.ckpt or last.ckpt of a run.
        data_spec: the data set, as `open_coco` takes it; by default the one it was trained on.
        split: train or val.
        batch_size: images per batch on one device.
        workers: loader processes per device.
        devices: number of devices that share the images.
        accelerator: auto, cpu, gpu, mps.
        on_problem: refuse malformed annotations, or skip them.
        progress: show a progress bar.

    Returns:
        The figures and every detection.

    Raises:
        CheckpointError: for a checkpoint that can't be used.
        ConfigError: for a data set of other categories.
        DataError: for a data set that can't be used.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0), ("devices", devices, 1)):
        if value < least:
            raise ConfigError(f"{name} must be {least} or more, got {value}")
    if split not in ("train", "val"):
        raise ConfigError(f"split must be train or val, got {split!r}")
    model, card = load_detector(checkpoint)
    config = load_config(base=card.recipe, cls=DetectConfig)
    spec = data_spec or config.data.spec
    data = open_coco(spec, on_problem=on_problem, masks=config.model.name == "mask_rcnn")[split]
    _tell_problems(data)
    if data.category_ids != card.category_ids:
        raise ConfigError(
            f"{checkpoint} knows other categories ({len(card.category_ids)}) than {spec} ({len(data.category_ids)})"
        )
    config = replace(config, devices=devices, trainer=replace(config.trainer, accelerator=accelerator))
    with quiet():
        trainer = make_eval_trainer(config, progress)
        loader = _eval_loader(config, data, batch_size, workers, trainer)
        module = Detector(model, config, card, 1, data)
        start = time.perf_counter()
        try:
            trainer.test(module, loader, verbose=False)
        except SystemExit as error:
            # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from error
        seconds = time.perf_counter() - start
    count = len(data.images)
    return DetectionFigures(
        bbox=module.results["bbox"],
        segm=module.results.get("segm"),
        results=module.results["results"],
        num_images=count,
        images_per_second=count / seconds,
        classes=card.classes,
        split=split,
    )


def load_detector(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> tuple[nn.Module, ModelCard]:
    """A trained detector, in eval mode; its moving-average weights where the training kept them.

    Args:
        path: best.ckpt or last.ckpt of a run.
        device: where the network goes.

    Returns:
        The detector and its card.

    Raises:
        CheckpointError: if the file is missing, is no checkpoint of a detector, or would run code.
    """
    checkpoint = read_checkpoint(path)
    card = read_card(checkpoint, path, "detect")
    model = create_detector(load_config(base=card.recipe, cls=DetectConfig), len(card.classes), weights=False)
    try:
        model.load_state_dict(network_weights(checkpoint))
    except RuntimeError as error:
        raise CheckpointError(f"{path}: its weights don't fit: {' '.join(str(error).split())[:300]}") from error
    return model.to(device).eval(), card


def _tell_problems(data: CocoData) -> None:
    if data.problems:
        tell(f"left out, {report(data.file, data.problems)}")


def make_card(config: DetectConfig, classes: list[str], category_ids: list[int]) -> ModelCard:
    """Return the card of a detector of these categories."""
    return ModelCard(
        task="detect",
        model=config.model.name,
        model_args={"backbone": config.model.backbone},
        classes=list(classes),
        input_size=(3, config.data.min_size[-1], config.data.max_size),
        mean=tuple(config.data.mean),
        std=tuple(config.data.std),
        interpolation="bilinear",
        crop_pct=1.0,
        recipe=config.to_dict(),
        versions=versions(),
        category_ids=list(category_ids),
    )


def _eval_loader(config: DetectConfig, data: CocoData, batch_size: int, workers: int, trainer: Any) -> Any:
    images = EvalScenes(CocoDataset(data), detection_transform())
    batches = EvalBatches(len(images), batch_size, trainer.global_rank, trainer.world_size)
    return make_loader(images, batches, workers, on_gpu(trainer), as_lists)

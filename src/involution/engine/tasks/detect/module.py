"""One training and evaluation step of a detector, as a Lightning module."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from involution.data.box_dataset import BoxDataset
from involution.data.images import Reading
from involution.data.noticed import Noticed
from involution.detection import first_label
from involution.detection.detectors import least_score, most_objects
from involution.engine.checkpoint import ModelCard
from involution.engine.module import TaskModule
from involution.engine.tasks.detect.coco_format import coco_results
from involution.engine.tasks.detect.coco_metrics import judge
from involution.engine.tasks.detect.config import DETRS, DetectConfig

# objects in an image that COCO's figures count; the score of one that is sure; and below which torchvision's detectors
# leave out what they find
_COUNTED, _SURE, _USUAL = 100, 0.5, 0.05
Batch = tuple[list[Tensor], list[dict[str, Any]]]


class DetectionTask(TaskModule):
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
        self, model: nn.Module, config: DetectConfig, card: ModelCard, steps_per_epoch: int, val: BoxDataset
    ) -> None:
        super().__init__(model, config, card, steps_per_epoch)
        self.val_record = val.record
        self.first_label = first_label(model)
        self.most = most_objects(model)
        self.with_masks = config.model.name == "mask_rcnn"
        self.detections: list[dict[str, Any]] = []
        # images that could be read: the objects of others are not missed
        self.seen: list[int] = []
        # images in which objects may be missing that the figures count
        self.full: list[int] = []

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, targets = batch
        targets = [{**target, "labels": target["labels"] + self.first_label} for target in targets]
        loss: Tensor = sum(self.model(images, targets).values())
        self.count_loss(loss, len(images))
        return loss

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, targets = batch
        for found, target in zip(self.model(images), targets, strict=True):
            self.full += [target["image_id"]] * self._is_full(found["scores"])
            if self.within is not None:
                known = torch.isin(found["labels"] - self.first_label, found["labels"].new_tensor(self.within))
                found = {key: value[known] for key, value in found.items()}
            labels = (found["labels"] - self.first_label).tolist()
            masks = found["masks"][:, 0] > 0.5 if "masks" in found else None
            ids = [self.card.category_ids[label] for label in labels]
            boxes, scores = (found[key].float().cpu().tolist() for key in ("boxes", "scores"))
            self.detections += coco_results(target["image_id"], ids, boxes, scores, masks)
            self.seen.append(target["image_id"])

    @override
    def on_validation_epoch_end(self) -> None:
        parts = self.from_all_devices([(self.detections, self.seen, self.full)])
        everything = [result for ((found, _, _),) in parts for result in found]
        seen = {image for ((_, images, _),) in parts for image in images}
        full = {image for ((_, _, images),) in parts for image in images}
        record = replace(self.val_record, scenes=[scene for scene in self.val_record.scenes if scene.id in seen])
        boxes = judge(record, everything)
        self.results = {
            "bbox": boxes.figures,
            "class_ap": boxes.class_ap,
            "precision": boxes.precision,
            "difficulty": boxes.mistakes,
            "results": everything,
            "full": [scene.file.name for scene in record.scenes if scene.id in full],
        }
        if self.with_masks:
            self.results["segm"] = judge(record, everything, "segm").figures
        self.detections, self.seen, self.full = [], [], []

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    @override
    def val_figures(self) -> dict[str, float]:
        figures = {name: self.results["bbox"][name] for name in ("ap", "ap50", "ap75")}
        if self.with_masks:
            figures |= {f"mask_{name}": self.results["segm"][name] for name in ("ap", "ap50", "ap75")}
        return figures

    @override
    def remarks(self) -> list[str]:
        noticed = Noticed()
        for name in self.results["full"]:
            noticed.count("full", name)
        least = least_score(self.model)
        if least is None or least <= _USUAL:
            return noticed.lines(Reading())
        below = (
            f"the figures count objects of a score of {least:g} and more: the detector itself leaves out those below, "
            "by score_thresh or box_score_thresh of model.args in its training"
        )
        return [*noticed.lines(Reading()), below]

    def _is_full(self, scores: Tensor) -> bool:
        """Whether the detector's limit left out objects of an image that count.

        Where the last of them is hardly sure, none that matters is missing, unless others than those of the classes
        that it is measured among took the places, or there are fewer places than COCO's figures count.
        """
        if self.most is None or len(scores) < self.most:
            return False
        # a detr answers as often as it asks, and leaves out nothing
        cuts = self.config.model.name not in DETRS and (self.within is not None or self.most < _COUNTED)
        return cuts or float(scores.min()) >= _SURE

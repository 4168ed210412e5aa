"""Convert the authors' detectors and segmenters to checkpoints that evaluate and predict like trained ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from involution.data.formats.cityscapes import cityscapes_classes
from involution.engine.checkpoint import CARD_KEY, ModelCard
from involution.engine.config import recipe_names
from involution.engine.files import atomic_path
from involution.engine.loading import make_card
from involution.engine.tasks.detect.config import DETECTORS, DetectConfig
from involution.engine.tasks.detect.network import create_detector
from involution.engine.tasks.segment.config import SegmentConfig
from involution.engine.tasks.segment.network import create_segmenter
from involution.models.checkpoint import check_entries, check_target, notes_of
from involution.models.errors import CheckpointError
from involution.models.mmlab import MappedNetwork, map_network
from involution.models.readers import read_weights


@dataclass(frozen=True)
class NetworkReport:
    """What was converted from a detector or segmenter of the authors.

    Attributes:
        task: detect or segment.
        network: kind, backbone, neck, head, entries, what was left out and filled in.
        card: the card of the checkpoint.
        names_from: where the class names come from.
        notes: what a reader should know besides: a moving average was taken.
    """

    task: str
    network: MappedNetwork
    card: ModelCard
    names_from: str
    notes: Sequence[str] = ()


def convert_network(src: str | Path, dst: str | Path, *, overwrite: bool = False) -> NetworkReport:
    """Convert a detector or segmenter of mmdetection 2 or mmsegmentation 0, as the authors published them.

    The output is a checkpoint for `involution detect|segment eval|predict`. Its settings are those of the published
    recipe; a detector keeps mmdetection's anchors and RoIAlign.

    Args:
        src: the authors' file.
        dst: file to write, ending in ``.ckpt``.
        overwrite: replace ``dst`` where it exists.

    Returns:
        What was found, converted and left out.

    Raises:
        FileNotFoundError: no folder to write to.
        FileExistsError: ``dst`` exists and ``overwrite`` is not set.
        CheckpointError: the file is missing, can't be read safely, or lacks a part of the network.
    """
    target = check_target(src, dst, ".ckpt", overwrite)
    weights = read_weights(src)
    classes = weights.classes
    try:
        network = map_network(weights.tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{src}: {error}") from error
    if network.num_classes < 1 or (classes is not None and len(classes) != network.num_classes):
        raise CheckpointError(f"{src}: {network.num_classes} outputs for {len(classes or ())} classes")
    make = _detector if network.kind in DETECTORS else _segmenter
    report, model = make(network, classes)
    check_entries(network.tensors, model.state_dict(), f"{src} is not a whole {network.kind}")
    content = {
        "state_dict": {f"model.{name}": value.contiguous() for name, value in network.tensors.items()},
        CARD_KEY: report.card.to_dict(),
    }
    with atomic_path(target, replace=True) as temporary:
        torch.save(content, temporary)
    return replace(report, notes=notes_of(weights))


def _detector(network: MappedNetwork, classes: Sequence[str] | None) -> tuple[NetworkReport, torch.nn.Module]:
    args: dict[str, Any] = {**network.widths, "conventions": "mmdetection"}
    changes = {"model.backbone": network.backbone, "model.neck": network.neck, "model.head": network.head}
    if network.kind == "retinanet":
        args["detections_per_img"] = 100
    config = DetectConfig.load(
        _recipe("detect", f"coco-{network.kind.replace('_', '-')}", network), {**changes, "model.args": args}
    )
    names, ids = _coco()
    if network.num_classes == len(names) and (classes is None or list(classes) == names):
        origin = "COCO's, as the file has 80 of them" if classes is None else "the file; COCO's, with its category ids"
    elif classes is not None:
        names, ids = list(classes), list(range(1, len(classes) + 1))
        origin = "the file; category ids count from 1 in its order"
    else:
        ids = list(range(1, network.num_classes + 1))
        names, origin = [str(key) for key in ids], "nowhere: the file has none, they are numbered from 1"
    with torch.device("meta"):
        model = create_detector(config, network.num_classes, False)
    return NetworkReport("detect", network, make_card(config, names, ids), origin), model


def _segmenter(network: MappedNetwork, classes: Sequence[str] | None) -> tuple[NetworkReport, torch.nn.Module]:
    changes = {"model.backbone": network.backbone, "model.args": network.widths}
    if network.kind == "semantic_fpn":
        changes["model.neck"] = network.neck
    recipe = _recipe("segment", f"cityscapes-{network.kind.replace('_', '-')}", network)
    config = SegmentConfig.load(recipe, changes)
    if classes is not None:
        names, origin = list(classes), "the file"
    elif network.num_classes == len(cityscapes_classes()):
        names, origin = cityscapes_classes(), "Cityscapes', as the file has 19 of them"
    else:
        names = [str(label) for label in range(network.num_classes)]
        origin = "nowhere: the file has none, they are numbered from 0"
    with torch.device("meta"):
        model = create_segmenter(config, network.num_classes, False)
    return NetworkReport("segment", network, make_card(config, names), origin), model


def _recipe(task: str, base: str, network: MappedNetwork) -> str:
    """Name of the published recipe with these parts, or the kind's first if they were not published together."""
    name = base
    if network.neck == "involution":
        name += "-involution-neck" + ("-head" if network.head == "involution" else "")
    return name if name in recipe_names(task) else base


def _coco() -> tuple[list[str], list[int]]:
    """COCO's 80 category names in the order of their ids, which have gaps."""
    from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

    named = enumerate(RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
    found = {key: name for key, name in named if name not in ("__background__", "N/A")}
    return list(found.values()), list(found)

"""Exporting segmenters: images [N, 3, H, W] to logits or probabilities [N, classes, H, W]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from involution.engine.card import ModelCard
from involution.engine.predictor import Predictor
from involution.export.graph import Graph, Input, Run
from involution.export.metadata import Metadata
from involution.export.pixels import Dense, DenseFile, Normalise, example
from involution.export.registry import Settings, TaskExport, register_task

# of the images of the trace, where the size is left open
_SIDES = (128, 192)


def _graph(network: nn.Module, card: ModelCard, settings: Settings) -> Graph:
    inside = settings.with_preprocessing
    height, width = settings.size or _SIDES
    open_sizes = {} if settings.size else {2: "height", 3: "width"}
    images = Input("images", example((2, card.input_size[0], height, width), inside), {0: "batch", **open_sizes})
    module = Dense(network, Normalise(card.mean, card.std) if inside else None)
    return Graph(module, (images,), ("probabilities" if inside else "logits",))


def _network(run: Run, metadata: Metadata) -> nn.Module:
    found = metadata.preprocessing
    return DenseFile(run, Normalise(found["mean"], found["std"]) if metadata.in_graph else None)


@torch.inference_mode()
def _outputs(predictor: Predictor[Any], image: Any) -> tuple[Tensor, ...]:
    logits = predictor.model(predictor.look(image).input.to(predictor.device))
    return (logits.float().cpu().log_softmax(1),)


def _agreement(wanted: Sequence[tuple[Tensor, ...]], found: Sequence[tuple[Tensor, ...]]) -> tuple[float, float, str]:
    difference, same, pixels = 0.0, 0, 0
    for (ours,), (theirs,) in zip(wanted, found, strict=True):
        difference = max(difference, float((ours.exp() - theirs.exp()).abs().max()))
        equal = ours.argmax(1) == theirs.argmax(1)
        same, pixels = same + int(equal.sum()), pixels + equal.numel()
    return difference, 1e-3, f"same class for {same:,} of {pixels:,} pixels"


register_task(TaskExport("segment", _graph, _network, _outputs, _agreement))

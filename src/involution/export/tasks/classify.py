"""Exporting classifiers: images [N, C, side, side] to logits or probabilities [N, classes]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from involution.engine.card import ModelCard
from involution.engine.predictor import Predictor
from involution.export.errors import ExportError
from involution.export.graph import Graph, Input, Run
from involution.export.metadata import Metadata
from involution.export.pixels import Dense, DenseFile, Normalise, example
from involution.export.registry import Settings, TaskExport, register_task


def _graph(network: nn.Module, card: ModelCard, settings: Settings) -> Graph:
    channels, height, width = card.input_size
    if settings.size not in (None, (height, width)):
        raise ExportError(f"this classifier sees images of {height} x {width} pixels; leave out --size")
    inside = settings.with_preprocessing
    images = Input("images", example((2, channels, height, width), inside), {0: "batch"})
    module = Dense(network, Normalise(card.mean, card.std) if inside else None)
    return Graph(module, (images,), ("probabilities" if inside else "logits",))


def _network(run: Run, metadata: Metadata) -> nn.Module:
    found = metadata.preprocessing
    return DenseFile(run, Normalise(found["mean"], found["std"]) if metadata.in_graph else None)


@torch.inference_mode()
def _outputs(predictor: Predictor[Any], image: Any) -> tuple[Tensor, ...]:
    logits = predictor.model(predictor.look(image).input.to(predictor.device))
    # what a softmax leaves of the logits
    return (logits.float().cpu().log_softmax(1),)


def _agreement(wanted: Sequence[tuple[Tensor, ...]], found: Sequence[tuple[Tensor, ...]]) -> tuple[float, float, str]:
    ours, theirs = (torch.cat([one for (one,) in part]) for part in (wanted, found))
    same = int((ours.argmax(1) == theirs.argmax(1)).sum())
    difference = float((ours.exp() - theirs.exp()).abs().max())
    return difference, 1e-3, f"same class for {same} of {len(ours)} images"


register_task(TaskExport("classify", _graph, _network, _outputs, _agreement))

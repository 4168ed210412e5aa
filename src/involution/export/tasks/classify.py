"""Exporting classifiers: images [N, C, side, side], or 8-bit pictures of any size, to logits or probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from involution.engine.card import ModelCard
from involution.export.errors import ExportError
from involution.export.graph import Graph
from involution.export.pixels import dense_file, dense_graph, log_probabilities, most_apart, prepare
from involution.export.registry import Settings, TaskExport, register_task

# of the pictures of the trace
_SIDES = (300, 400)


def _check(network: nn.Module, card: ModelCard, settings: Settings) -> None:
    _, height, width = card.input_size
    if settings.size not in (None, (height, width)):
        raise ExportError(f"this classifier sees images of {height} x {width} pixels; leave out --size")


def _graph(network: nn.Module, card: ModelCard, settings: Settings) -> Graph:
    channels, height, width = card.input_size
    if settings.with_preprocessing:
        return dense_graph(network, card, (2, channels, *_SIDES), {0: "batch", 2: "height", 3: "width"}, True)
    return dense_graph(network, card, (2, channels, height, width), {0: "batch"}, False)


def _agreement(
    wanted: Sequence[tuple[Tensor, ...]], found: Sequence[tuple[Tensor, ...]], resized: bool = False
) -> tuple[float, float, str]:
    ours, theirs = (torch.cat([one for (one,) in part]) for part in (wanted, found))
    same = int((ours.argmax(1) == theirs.argmax(1)).sum())
    difference = float((ours.exp() - theirs.exp()).abs().max())
    return difference, most_apart(resized), f"same class for {same} of {len(ours)} images"


register_task(
    TaskExport(
        "classify",
        _graph,
        dense_file,
        prepare,
        log_probabilities,
        _agreement,
        inside=lambda card: ("resize", "crop", "normalise", "softmax"),
        opens=("batch",),
        fixes=(),
        check=_check,
    )
)

"""Exporting segmenters: images [N, 3, H, W] to logits or probabilities [N, classes, H, W]."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from involution.engine.card import ModelCard
from involution.export.graph import Graph
from involution.export.pixels import dense_file, dense_graph, log_probabilities, most_apart, prepare
from involution.export.registry import Settings, TaskExport, register_task
from involution.export.resample import open_pools

# of the images of the trace, where the size is left open
_SIDES = (128, 192)
# of a network that fills them up to multiples of 32: so that there is something to cut off in the trace, too
_CUT_SIDES = (130, 200)


def _graph(network: nn.Module, card: ModelCard, settings: Settings) -> Graph:
    from involution.segmentation.smp import SmpSegmenter

    height, width = settings.size or (_CUT_SIDES if isinstance(network, SmpSegmenter) else _SIDES)
    open_sizes = {0: "batch"} | ({} if settings.size else {2: "height", 3: "width"})
    shape = (2, card.input_size[0], height, width)
    open_pools(network)
    return dense_graph(network, card, shape, open_sizes, settings.with_preprocessing)


def _agreement(
    wanted: Sequence[tuple[Tensor, ...]], found: Sequence[tuple[Tensor, ...]], resized: bool = False
) -> tuple[float, float, str]:
    difference, same, pixels = 0.0, 0, 0
    for (ours,), (theirs,) in zip(wanted, found, strict=True):
        difference = max(difference, float((ours.exp() - theirs.exp()).abs().max()))
        equal = ours.argmax(1) == theirs.argmax(1)
        same, pixels = same + int(equal.sum()), pixels + equal.numel()
    return difference, most_apart(resized), f"same class for {same:,} of {pixels:,} pixels"


def _inside(card: ModelCard) -> tuple[str, ...]:
    return (*(("resize",) if card.input_size[-1] else ()), "normalise", "softmax", "picture_size")


register_task(TaskExport("segment", _graph, dense_file, prepare, log_probabilities, _agreement, inside=_inside))

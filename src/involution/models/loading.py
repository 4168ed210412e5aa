"""Loading weights into any network of timm: a file, or weights that were published under a name."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from involution.models.checkpoint import CheckpointReport, check_entries, fits, identify, notes_of
from involution.models.errors import CheckpointError, shorten
from involution.models.keys import to_timm_layout
from involution.models.layouts import VARIANTS
from involution.models.matching import Matched, first_convolutions, head_names, match
from involution.models.readers import Weights, read_weights
from involution.models.rednet import RedNet
from involution.models.weights import locate

__all__ = ["load_checkpoint"]


def load_checkpoint(model: nn.Module, path: str | Path, *, ignore_head: bool | None = False) -> CheckpointReport:
    """Load weights into ``model``, whole or not at all.

    A moving average in the file is taken before the plain weights beside it, and the first convolution is adapted where
    the file's is for three channels, or for grey, and the model's is not: as timm does, and told in the report's notes.

    Args:
        model: A network of timm, RedNet or another. Without a classifier (``num_classes=0``, ``features_only=True``),
            the file's is left out.
        path: A checkpoint of a training by this package, timm or torchvision, a converted file, one of the authors' or
            PaddlePaddle's, or the name of published weights, such as ``rednet50``.
        ignore_head: Leave the file's classifier out and the model's as it is, to train on other classes; None does so
            only where they differ in shape.

    Returns:
        What the file holds, what of it was left out and what of the model was left as it was.

    Raises:
        CheckpointError: The file can't be read safely, or entries are missing, unexpected or of the wrong
            shape: all of them in one report. The model is unchanged.

    Example:
        >>> from involution.models import rednet_nano
        >>> torch.save(rednet_nano().state_dict(), "nano.pth")
        >>> load_checkpoint(rednet_nano(num_classes=4), "nano.pth", ignore_head=True).left_out
        ['fc.weight', 'fc.bias']
    """
    weights = read_weights(locate(path))
    try:
        found = match(model, weights.tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    wanted: dict[str, torch.Tensor] = model.state_dict()
    heads = tuple(f"{name}." for name in head_names(model))
    head = {name: value for name, value in wanted.items() if name.startswith(heads)}
    if not head or ignore_head:
        taken: dict[str, torch.Tensor] = {}
    elif ignore_head is None:
        taken = {name: found.head[name] for name in head if fits(found.head.get(name), head[name])}
    else:
        taken = found.head
    left_out = [*found.left_out, *(name for name in found.head if name not in taken)]
    untouched = [name for name in head if name not in taken] if ignore_head is not False else []
    notes = notes_of(weights)
    if found.beside:
        notes.append(
            f"the {_architecture(model)} in it is read alone, without what is beside it, such as a detector's pyramid "
            f"and heads: {shorten(found.beside, 3)}"
        )
    channels = _adapt(model, found.tensors, wanted, notes)
    tensors = {**found.tensors, **taken}
    needed = {name: value for name, value in wanted.items() if name not in untouched}
    try:
        check_entries(tensors, needed, "", strange=found.strange)
    except CheckpointError as error:
        message = f"{path} {_misfit(model, weights)}"
        raise CheckpointError(
            message, missing=error.missing, unexpected=error.unexpected, mismatched=error.mismatched
        ) from error
    model.load_state_dict({**wanted, **tensors})
    report = _report(model, found, channels, len(tensors), left_out, untouched, notes)
    classes = weights.classes or (weights.card or {}).get("classes")
    named = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    return replace(report, classes=classes if named else None)


def _adapt(
    model: nn.Module, tensors: dict[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], notes: list[str]
) -> int:
    """Fit a first convolution for RGB or grey to the model's channels, as timm does; return the file's channels."""
    from timm.models._manipulate import adapt_input_conv

    channels = 3
    for name in first_convolutions(model):
        given, ours = tensors.get(name), wanted[name]
        if given is None or given.dim() != 4 or ours.dim() != 4:
            continue
        channels = given.shape[1]
        others = given.shape[:1] + given.shape[2:] == ours.shape[:1] + ours.shape[2:]
        count, grey = ours.shape[1], channels == 1
        if others and channels != count and channels in (1, 3) and given.is_floating_point():
            # as many equal parts see grey as before
            tensors[name] = given.repeat(1, count, 1, 1) / count if grey else adapt_input_conv(count, given)
            was = "1 channel" if grey else "3 channels"
            notes.append(f"the first convolution ({name}) was adapted from {was} to {count}")
    return channels


def _misfit(model: nn.Module, weights: Weights) -> str:
    """Say that weights do not fit, and the network that they are of where the file tells."""
    name = _architecture(model)
    holds = weights.model if weights.model and timm.is_model(weights.model) else _recognised(weights)
    if holds in (None, name):
        return f"does not fit the model {name}"
    return f"holds {holds}, which does not fit {name} (choose the model {holds}, or other weights)"


def _recognised(weights: Weights) -> str | None:
    # convolution twins could be anybody's ResNet
    if not any(".generator." in name or ".conv2.conv1." in name for name in weights.tensors):
        return None
    try:
        return identify(to_timm_layout(weights.tensors).tensors)
    except CheckpointError:
        return None


def _architecture(model: nn.Module) -> str:
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    return config.get("architecture") or type(model).__name__


def _report(
    model: nn.Module,
    found: Matched,
    channels: int,
    entries: int,
    left_out: list[str],
    untouched: list[str],
    notes: list[str],
) -> CheckpointReport:
    name = _architecture(model)
    model_cls, args = VARIANTS.get(name, (None, {}))
    classes = [len(value) for value in found.head.values() if value.dim()]
    return CheckpointReport(
        model=name,
        stem_kernel=args.get("stem_kernel", 3) if model_cls is RedNet else None,
        in_chans=channels,
        num_classes=classes[0] if classes else 0,
        source=found.source,
        entries=entries,
        left_out=left_out,
        untouched=untouched,
        notes=notes,
    )

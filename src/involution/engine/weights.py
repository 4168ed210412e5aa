"""Weights that a training starts from."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from involution.models.checkpoint import load_checkpoint


def load_weights(model: nn.Module, path: str | Path) -> list[str]:
    """Fill a network from any file that `load_checkpoint` takes, except a head of another size.

    Args:
        model: one of timm's networks.
        path: the file.

    Returns:
        What a user should know, a line each: a head that starts afresh, a moving average that was taken, a first
        convolution that was adapted.

    Raises:
        CheckpointError: if the file can't be read, or its weights don't belong to this network; the network
            is then unchanged.
    """
    report = load_checkpoint(model, path, ignore_head=None)
    notes = [f"{path}: {note}" for note in report.notes]
    if report.untouched:
        notes.append(f"{path}: the head starts afresh ({', '.join(report.untouched)}), the file's is of other classes")
    return notes

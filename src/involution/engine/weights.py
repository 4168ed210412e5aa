"""The weights that training starts from."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from involution.engine.process import tell
from involution.models.checkpoint import CheckpointReport
from involution.models.loading import load_checkpoint


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load any file that `load_checkpoint` accepts into a network, except a head of another size.

    Args:
        model: one of timm's networks.
        path: the file.

    Raises:
        CheckpointError: if the file can't be read, or its weights don't belong to this network; the network
            is then unchanged.
    """
    tell_loaded(path, load_checkpoint(model, path, ignore_head=None))


def tell_loaded(path: str | Path, report: CheckpointReport) -> None:
    """Print what a user should know of weights that were read.

    These are the use of a moving average, an adapted first convolution, and a newly initialised head.
    """
    notes = list(report.notes)
    if report.untouched:
        notes.append(f"the head starts from scratch ({', '.join(report.untouched)}), the file's is for other classes")
    for note in notes:
        tell(f"{path}: {note}")

"""best.ckpt: weights and card of the best epoch, and its agreement with the checkpoints to resume from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from involution.engine.checkpoint import CARD_KEY, CheckpointError, read_checkpoint
from involution.engine.files import atomic_path
from involution.engine.process import tell
from involution.engine.run_folder import BEST, kept, place
from involution.engine.split_record import CONTENTS, LABELS
from involution.engine.split_record import KEY as SPLIT

# the number of finished epochs and the score of the best one
Best = tuple[int, float]


def write_best(checkpoint: Mapping[str, Any], folder: Path, score: float) -> None:
    """Write best.ckpt: the weights and the card of a checkpoint, and its score."""
    with atomic_path(folder / BEST, replace=True) as temporary:
        card = {**checkpoint[CARD_KEY], "score": score}
        records = {key: checkpoint.get(key, {}) for key in (SPLIT, CONTENTS, LABELS)}
        torch.save({"state_dict": checkpoint["state_dict"], CARD_KEY: card, **records}, temporary)


def read_best(folder: Path) -> Best | None:
    """Which epoch a folder's best.ckpt is of, and its score; None where there is none that can be read."""
    try:
        found = read_checkpoint(folder / BEST)
    except CheckpointError:
        return None
    score = found[CARD_KEY].get("score")
    if score is None:
        # a copy of last.ckpt, as version 0.1.0 wrote it
        score = found.get("callbacks", {}).get("RunRecorder", {}).get("best_score")
    epoch, _ = place(found)
    return (epoch, float(score)) if epoch and isinstance(score, int | float) and math.isfinite(score) else None


def recorded_best(recorder: Mapping[str, Any], monitor: str) -> Best | None:
    """The best epoch by the state of a `RunRecorder`; version 0.1.0 kept its score alone."""
    if recorder.get("best_epoch"):
        return int(recorder["best_epoch"]), float(recorder["best_score"])
    for row in reversed(recorder["history"]):
        if row.get(f"val_{monitor}") == recorder["best_score"]:
            return int(row["epoch"]), float(recorder["best_score"])
    return None


def mend_best(folder: Path, found: Mapping[str, Any], best: Best | None) -> tuple[Best | None, bool]:
    """Make best.ckpt what the checkpoint says it is; a kill or a full disk may have come between the two.

    Args:
        folder: of the run.
        found: the checkpoint that the training goes on from.
        best: the best epoch, as it says.

    Returns:
        The best epoch whose weights there are, and whether anything was written.
    """
    there = read_best(folder)
    if there is not None and (best is None or there[0] > place(found)[0]):
        # written after the checkpoint
        return (there, False) if there[0] > place(found)[0] else (best, False)
    if best is None or (there is not None and there[0] == best[0]):
        return best, False
    for source in _sources(folder, found):
        if place(source) == (best[0], 0):
            write_best(source, folder, best[1])
            tell(f"{folder / BEST} was not that of epoch {best[0]}, the best one: written anew")
            return best, True
    holds = f"holds epoch {there[0]}" if there else "is missing or damaged"
    tell(f"warning: {folder / BEST} {holds}, and the weights of epoch {best[0]}, the best one, are gone")
    return there, False


def _sources(folder: Path, found: Mapping[str, Any]) -> Any:
    # of a sharded checkpoint its shapes alone may have been read
    if not any(value.is_meta for value in found["state_dict"].values()):
        yield found
    for file in kept(folder):
        try:
            yield read_checkpoint(file)
        except CheckpointError:
            continue

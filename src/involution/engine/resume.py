"""Where a training starts: anew, or where a checkpoint ends."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from involution.data.addresses import is_remote, path_of
from involution.engine.checkpoint import CARD_KEY, CheckpointError, ModelCard, read_card, read_recipe
from involution.engine.config import RunConfig
from involution.engine.process import is_main_process, tell
from involution.engine.run_folder import BEST, LAST, METRICS, copy_link, find_checkpoint, kept, place
from involution.engine.settings import ConfigError, setting_names
from involution.models.readers import read_file

# in place of a checkpoint: the run's own, if it has one
AUTO = "auto"
# the checkpoint restores these or counts in their units
_KEPT = (
    "name",
    "output",
    "model.",
    "optimizer.",
    "data.batch_size",
    "data.channels",
    "trainer.accumulate",
    "trainer.ema",
)
# where the images are and how they get here; that they are others is told by their names and contents
_SAME_IMAGES = ("data.spec", "data.workers", "data.cache", "data.batch_size", "data.split_", "data.on_problem")


@dataclass(frozen=True)
class Start:
    """Where a training starts.

    Attributes:
        checkpoint: the file that it goes on from, None for a new run.
        found: its contents, empty for a new run.
        card: its card.
        position: the (epoch, batch) to start at.
    """

    checkpoint: Path | None = None
    found: dict[str, Any] | None = None
    card: ModelCard | None = None
    position: tuple[int, int] = (0, 0)


def folder_of(config: RunConfig, resume: str | os.PathLike[str] | None) -> Path:
    """The folder that a training works in."""
    return config.run_dir if resume is None or resume == AUTO else path_of(resume).parent


def find_start(config: RunConfig, resume: str | os.PathLike[str] | None) -> Start:
    """Where a training starts; the folder is locked.

    Args:
        config: its settings.
        resume: a checkpoint, "auto" for that of the run's own folder if there is one, None for a new run.

    Raises:
        CheckpointError: for a checkpoint that can't be gone on from.
        ConfigError: for settings that a resumed run keeps.
    """
    if resume is None or (resume == AUTO and not kept(config.run_dir)):
        return Start()
    last = config.run_dir / LAST if resume == AUTO else path_of(resume)
    # of a sharded checkpoint each process then reads its own part
    file, found, why = find_checkpoint(last, whole=config.trainer.strategy != "fsdp")
    card = read_card(found, file, config.task)
    if "position" not in found[CARD_KEY]:
        raise CheckpointError(f"{file} was converted and can't be resumed: start a run with --model.weights {file}")
    if "loops" not in found:
        raise CheckpointError(f"{file} has the weights alone and can't be resumed: resume from {LAST} beside it")
    before = read_recipe(card, file, type(config))
    changed = []
    for key in setting_names(type(config)):
        old, new = (attrgetter(key)(settings) for settings in (before, config))
        # a folder may have been moved
        if key.startswith(_KEPT) and old != new and not (resume == AUTO and key in ("name", "output")):
            raise ConfigError(f"a resumed run keeps its {key}: {file} has {old!r}, got {new!r}")
        if key.startswith("data.") and not key.startswith(_SAME_IMAGES) and _plain(old) != _plain(new):
            changed.append(f"{key} {_plain(new)} instead of {_plain(old)}")
    if changed:
        tell(f"warning: from here on with {', '.join(changed)}; figures before and after may not compare")
    _check_others(last.parent, card)
    if why:
        tell(f"warning: {why}")
        if is_main_process():
            # what is written next must not push out the only good one
            copy_link(file, last)
            file = last
    return Start(file, found, card, place(found))


def _plain(value: Any) -> str:
    """A setting as JSON, for a file keeps tuples and numbered names in another way."""
    return json.dumps(value, ensure_ascii=False)


def _check_others(folder: Path, card: ModelCard) -> None:
    """Refuse a folder where a best.ckpt or metrics.csv would be replaced that is not of this training.

    Raises:
        ConfigError: naming it.
    """
    if is_remote(folder):
        return
    best, metrics = folder / BEST, folder / METRICS
    names = []
    # a damaged one is made anew
    with suppress(CheckpointError):
        found = read_file(best, whole=False)[0]
        other = found.get(CARD_KEY) if isinstance(found, dict) else None
        if not isinstance(other, dict) or (other.get("model"), other.get("classes")) != (card.model, card.classes):
            names.append(BEST)
    with suppress(OSError), metrics.open(encoding="utf-8", errors="replace") as file:
        if not (file.readline() or "epoch,").startswith("epoch,"):
            names.append(METRICS)
    if names:
        raise ConfigError(
            f"{folder}: {' and '.join(names)} would be replaced, but {'are' if names[1:] else 'is'} not of this "
            f"training; put {LAST} into a folder of its own"
        )

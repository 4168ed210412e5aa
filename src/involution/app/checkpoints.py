"""Which checkpoints the page offers, and which of them are twins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from involution.app.errors import AppError
from involution.data.images import Reading
from involution.data.walk import files_below

_RUNS = Path("runs")
_TWIN = "_conv"


@dataclass(frozen=True)
class Checkpoint:
    """A trained network that can be chosen.

    Args:
        path: best.ckpt of a run, or a converted file.
        task: classify, detect or segment.
        network: Name in timm's registry; of a detector or segmenter that of its backbone.
        head: Name of the detector or segmenter; empty for a classifier.
        classes: Names of its classes.
        published: Name of the published weights that it has, if it has such.
        reading: How it wants its images read.
        stamp: Size and time of the file when it was read.
    """

    path: Path
    task: str
    network: str
    head: str
    classes: tuple[str, ...]
    published: str = ""
    reading: Reading = field(default_factory=Reading)
    stamp: tuple[int, int] = field(default=(0, 0), compare=False)

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Take the description out of a checkpoint.

        Args:
            path: A file, or the name of published weights.

        Raises:
            CheckpointError: If there is none in it.
        """
        from involution.engine.checkpoint import CARD_KEY, CheckpointError, read_card, read_checkpoint
        from involution.engine.task import task_names
        from involution.models.weights import locate, named

        path = locate(path)
        stamp = _stamp(path)
        found = read_checkpoint(path)
        task = str(found[CARD_KEY].get("task"))
        if task not in task_names():
            raise CheckpointError(f"{path}: made for the task {task!r}, wanted {', '.join(task_names())}")
        card = read_card(found, path, task)
        backbone = card.model_args.get("backbone")
        head = card.model if backbone else ""
        entry = named(path)
        return cls(
            path,
            task,
            str(backbone or card.model),
            head,
            tuple(card.classes),
            entry.name if entry else "",
            Reading.of(card.recipe.get("data", {})),
            stamp,
        )

    def stamp_now(self) -> tuple[int, int]:
        """What `stamp` would be now: a training replaces its best.ckpt. That of before where the file is gone."""
        now = _stamp(self.path)
        return now if any(now) else self.stamp

    @property
    def title(self) -> str:
        """What to call its network."""
        return f"{self.head} on {self.network}" if self.head else self.network

    @property
    def label(self) -> str:
        """Its line in a list."""
        if self.published:
            return f"{self.title} · {self.published}"
        # the folder of a run says more than best.ckpt, the name that all have
        place = self.path.parent if self.path.name == "best.ckpt" else self.path
        if place.is_relative_to(_RUNS):
            return f"{self.title} · {place.relative_to(_RUNS)}"
        # its location on this machine is not disclosed
        return f"{self.title} · {Path(*place.parts[-2:])}"


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return found.st_size, found.st_mtime_ns


def find_checkpoints(
    given: Sequence[str], folder: Path = _RUNS, tell: Callable[[str], None] = print
) -> list[Checkpoint]:
    """The checkpoints to offer: those given, or else every best.ckpt in and below a folder.

    Args:
        given: Files, each of which has to be readable, and names of published weights.
        folder: Where to look if none are given; unreadable files there are reported and skipped.
        tell: Is called with a line for each file that is left out.

    Raises:
        CheckpointError: If a given file is no checkpoint.
        AppError: If there is nothing to offer.
    """
    from involution.engine.checkpoint import CheckpointError

    if given:
        return [Checkpoint.read(path) for path in dict.fromkeys(map(Path, given))]
    found = []
    files = files_below(folder, "best.ckpt") if folder.is_dir() else []
    for path in (file for file in files if file.name == "best.ckpt"):
        try:
            found.append(Checkpoint.read(path))
        except CheckpointError as error:
            tell(f"left out: {error}")
    if not found:
        raise AppError(
            f"no best.ckpt in {folder}/: train first, `involution demo` (or `make demo`) in a few minutes, "
            "or give --checkpoint FILE"
        )
    return found


def twin_of(first: Checkpoint, offered: Sequence[Checkpoint]) -> Checkpoint | None:
    """The first checkpoint that differs from one in having convolutions for involutions, or the other way round."""
    return next((other for other in offered if _are_twins(first, other)), None)


def _are_twins(first: Checkpoint, second: Checkpoint) -> bool:
    names = {first.network, second.network}
    same_rest = (first.task, first.head, first.classes) == (second.task, second.head, second.classes)
    return same_rest and len(names) == 2 and len({name.removesuffix(_TWIN) for name in names}) == 1

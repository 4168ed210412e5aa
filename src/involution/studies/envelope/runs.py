"""The trainings of the study and the times of its networks: a stopped study goes on, and times can be taken again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from involution.studies import records
from involution.studies.envelope.networks import CLASSES, CONVOLUTION, FAMILIES, WIDTHS, build
from involution.studies.envelope.tasks import TASKS
from involution.studies.envelope.train import BATCH, Run, record
from involution.studies.errors import StudyError
from involution.studies.harness import interleaved, percentiles
from involution.studies.moved_digits import SIDE
from involution.studies.origin import provenance
from involution.studies.trainings import Trainings, in_name
from involution.studies.workers import alone

# rounds in which each network is timed once
_ROUNDS = 15
TIMES = "times.json"
MEASURES = ("inference", "training")


@dataclass(frozen=True)
class Plan:
    """What a study compares.

    Attributes:
        seeds: Trainings of each network on each task, with the seeds 0, 1, ...
        tasks: Some of `TASKS`.
        families: Some of `FAMILIES`, the 3×3 convolutions among them.
        widths: Of each family's networks.
        epochs: Of all trainings; None for those of the task.
    """

    seeds: int = 3
    tasks: tuple[str, ...] = tuple(TASKS)
    families: tuple[str, ...] = tuple(FAMILIES)
    widths: tuple[int, ...] = WIDTHS
    epochs: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.seeds <= 1000:
            raise StudyError(f"seeds must be from 1 to 1000, got {self.seeds}")

    def cases(self) -> list[tuple[str, str, int]]:
        """Return task, family and width of everything that is trained."""
        return [(task, family, width) for task in self.tasks for family in self.families for width in self.widths]

    def run(self, task: str, family: str, width: int, seed: int) -> Run:
        """Return one training."""
        return Run(task, family, width, seed, self.epochs or TASKS[task].epochs)

    def runs(self) -> list[Run]:
        """Return the trainings, seed by seed, so that a study that is stopped early has something of each network."""
        return [self.run(*case, seed) for seed in range(self.seeds) for case in self.cases()]


def name_of(run: Run) -> str:
    """Return the name of a training's record."""
    return f"{in_name(f'{run.task} {run.family}')}-width{run.width}-seed{run.seed}"


def read_times(plan: Plan, folder: Path) -> list[dict[str, Any]] | None:
    """Return the times that `take_times` left, None where there are none of these networks.

    Raises:
        StudyError: If the file can't be read.
    """
    path = folder / TIMES
    found = records.read(path) if path.is_file() else {}
    return list(found["rows"]) if found.get("settings") == _timed(plan) else None


def take_times(plan: Plan, folder: Path, tell: Callable[[str], Any] = lambda name: None) -> list[dict[str, Any]]:
    """Time all networks in turn on one thread, by the processor's time, and write what was found.

    Args:
        plan: Which networks.
        folder: Of the study, claimed.
        tell: Called with the name of each measurement before it begins.

    Returns:
        A row for each network and measure: ``family``, ``width``, ``measure`` (``inference`` of a
        batch, or a ``training`` step), milliseconds of an image as ``p20_ms``, ``p50_ms``, ``p80_ms``, and as
        ``p20_ratio`` and so on the time over that of the 3×3 convolutions of the same width in the same round.
    """
    rows = []
    with alone(0):
        for measure in MEASURES:
            tell(f"times of {measure}")
            rows += list(_times(plan, measure))
    records.write(folder / TIMES, {"settings": _timed(plan), "rows": rows, **provenance()})
    return rows


def _times(plan: Plan, measure: str) -> Iterator[dict[str, Any]]:
    images = torch.randn(BATCH, 1, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    digits = torch.randint(CLASSES, (BATCH,))
    make = _inference if measure == "inference" else _step
    cases = {f"{family} {width}": (family, width) for family in plan.families for width in plan.widths}
    work = {
        name: make(build(*case).to(memory_format=torch.channels_last), images, digits) for name, case in cases.items()
    }
    samples = interleaved(work, seconds=0, rounds=_ROUNDS, warm=True, clock=time.process_time)
    for name, (family, width) in cases.items():
        row = {"family": family, "width": width, "measure": measure}
        row |= percentiles([value / BATCH for value in samples[name]], "ms", 5)
        base = samples[f"{CONVOLUTION} {width}"]
        row |= percentiles([one / other for one, other in zip(samples[name], base, strict=True)], "ratio", 4)
        yield row


def _inference(network: nn.Module, images: torch.Tensor, digits: torch.Tensor) -> Callable[[], Any]:
    network.eval()

    def work() -> None:
        with torch.inference_mode():
            network(images)

    return work


def _step(network: nn.Module, images: torch.Tensor, digits: torch.Tensor) -> Callable[[], Any]:
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, fused=True)

    def work() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(images), digits).backward()
        optimizer.step()

    return work


def _timed(plan: Plan) -> dict[str, Any]:
    """Which networks are timed, and how, as JSON keeps it."""
    return {"families": list(plan.families), "widths": list(plan.widths), "batch": BATCH}


def _settings(run: Run) -> Mapping[str, Any]:
    more = {"train_images": TASKS[run.task].images, "batch": BATCH}
    return {**asdict(run), **more, "learning_rate": FAMILIES[run.family].learning_rate}


def _train(run: Run, folder: Path) -> dict[str, Any]:
    return record(run)


TRAININGS = Trainings({"study": "envelope"}, name_of, _settings, _train)

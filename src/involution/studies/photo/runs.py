"""The trainings of the study: what is compared, and a record of each that ended, so that a stopped study goes on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from involution.engine.files import atomic_path
from involution.studies.errors import StudyError
from involution.studies.photo.networks import NETWORKS, PER_PIXEL
from involution.studies.photo.train import NOISE, PHOTOS, Run, record
from involution.studies.trainings import Trainings, in_name

TIME, SHORT, LONG, STEPS, PIXELS = (
    "equal time",
    "a quarter of the time",
    "4 times the time",
    "equal steps",
    "few pixels",
)
COMPARISONS = (TIME, SHORT, LONG, STEPS, PIXELS)
SIDE = 96
"""Pixels of a side of the square that is learned from where pixels are few."""

# who is compared there: all, or those that time is left for
_LARGEST = ("residual CNN, larger", "residual CNN, large", PER_PIXEL)
_SOME = {LONG: _LARGEST, PIXELS: ("residual CNN, equal parameters", *_LARGEST[::2])}


@dataclass(frozen=True)
class Plan:
    """What a study compares.

    Attributes:
        seconds: Of the processor for each training where time is equal.
        steps: Of each training where steps are equal.
        seeds: Trainings of each network, with the seeds 0, 1, ...
        comparisons: Some of `COMPARISONS`.
        trains: Photographs that are learned from; the other one tests each time.
        networks: Some of `NETWORKS`.
    """

    seconds: float = 6.0
    steps: int = 300
    seeds: int = 3
    comparisons: tuple[str, ...] = COMPARISONS
    trains: tuple[str, ...] = PHOTOS
    networks: tuple[str, ...] = tuple(NETWORKS)

    def __post_init__(self) -> None:
        for name in ("seconds", "steps", "seeds"):
            if getattr(self, name) <= 0:
                raise StudyError(f"{name} must be more than 0, got {getattr(self, name)}")

    def run(self, comparison: str, network: str, train: str, seed: int) -> Run:
        """Return one training."""
        if comparison == STEPS:
            return Run(network, train, seed, steps=self.steps)
        factor = {SHORT: 0.25, LONG: 4.0}.get(comparison, 1.0)
        return Run(network, train, seed, seconds=factor * self.seconds, side=SIDE if comparison == PIXELS else 0)

    def cases(self) -> list[tuple[str, str, str]]:
        """Return comparison, network and photograph learned from of everything that is compared."""
        return [
            (comparison, network, train)
            for comparison in self.comparisons
            for train in self.trains
            for network in self.networks
            if network in _SOME.get(comparison, self.networks)
        ]

    def runs(self) -> list[Run]:
        """Return the trainings, seed by seed, so that a study that is stopped early has something of each network."""
        return [self.run(*case, seed) for seed in range(self.seeds) for case in self.cases()]


def name_of(run: Run) -> str:
    """Return the name of a training's record."""
    budget = f"{run.steps}steps" if run.steps is not None else f"{run.seconds:g}s"
    part = f"-{run.side}px" if run.side else ""
    return f"{in_name(run.network)}-{run.train}-{budget}{part}-seed{run.seed}"


def trained(run: Run, folder: Path) -> nn.Module:
    """Return the network that a training left.

    Raises:
        StudyError: If its weights are not there.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    network, path = NETWORKS[run.network].build(), _weights(run, folder)
    try:
        network.load_state_dict(load_file(str(path)))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise StudyError(
            f"{path}: no weights of {run.network}; remove {TRAININGS.path(run, folder)} to repeat its run"
        ) from error
    return network.eval()


def _settings(run: Run) -> dict[str, Any]:
    entry = NETWORKS[run.network]
    return {**asdict(run), "layers": entry.layers, "learning_rate": entry.learning_rate}


def _weights(run: Run, folder: Path) -> Path:
    return folder / "weights" / f"{name_of(run)}.safetensors"


def _train(run: Run, folder: Path) -> dict[str, Any]:
    """Train and measure, and write the weights."""
    from safetensors.torch import save_file

    network, found = record(run)
    path = _weights(run, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path, replace=True) as temporary:
        save_file(network.state_dict(), str(temporary))
    return found


TRAININGS = Trainings({"study": "photo", "noise": NOISE}, name_of, _settings, _train)

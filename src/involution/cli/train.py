"""Train: every setting of a recipe can be changed on the command line."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from involution.engine.config import (
    ClassifyConfig,
    ConfigError,
    RunConfig,
    add_config_arguments,
    load_config,
    recipe_names,
    recipe_path,
)

_OWN = ("--recipe", "--resume")


def _classify() -> tuple[type[RunConfig], Callable[..., Any]]:
    from involution.engine.classify import train

    return ClassifyConfig, train


def _detect() -> tuple[type[RunConfig], Callable[..., Any]]:
    from involution.engine.detect import train
    from involution.engine.detect_config import DetectConfig

    return DetectConfig, train


def _segment() -> tuple[type[RunConfig], Callable[..., Any]]:
    from involution.engine.segment import train
    from involution.engine.segment_config import SegmentConfig

    return SegmentConfig, train


# task -> what it is, the measure that chooses the best checkpoint, its settings and its training
_TASKS = {
    "classify": ("Train an image classifier", "accuracy", _classify),
    "detect": ("Train an object detector", "AP", _detect),
    "segment": ("Train a semantic segmenter", "mean IoU", _segment),
}


@dataclass(frozen=True)
class TrainCommand:
    """The `train` command of a task.

    Args:
        task: classify, detect or segment.
    """

    task: str

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return f"{_TASKS[self.task][0]}; every setting of a recipe can be changed on the command line."

    def add_arguments(self, parser: Any) -> None:
        """Options: a recipe, a checkpoint to go on from, and every setting."""
        names = ", ".join(recipe_names(self.task))
        parser.add_argument("--recipe", metavar="NAME", help=f"named settings to start from: {names}")
        parser.add_argument("--resume", metavar="CHECKPOINT", help="go on with an interrupted run, by its last.ckpt")
        add_config_arguments(parser, _TASKS[self.task][2]()[0])

    def prepare(self, argv: list[str]) -> list[str]:
        """Put the settings of `--recipe` or `--resume` before all others, whatever the order they are given in."""
        found = {option: _value(argv, option) for option in _OWN}
        if all(found.values()):
            raise ConfigError("--recipe and --resume exclude each other: a resumed run keeps its own settings")
        if found["--recipe"]:
            return ["--config", str(recipe_path(found["--recipe"], self.task)), *argv]
        if found["--resume"]:
            from involution.engine.checkpoint import read_card, read_checkpoint

            card = read_card(read_checkpoint(found["--resume"]), found["--resume"], self.task)
            return ["--config", json.dumps(card.recipe), *argv]
        return argv

    def run(self, args: Any) -> int:
        """Train, and say where the checkpoints are."""
        from rich.console import Console

        from involution.engine.callbacks import TrainingDiverged, TrainingInterrupted
        from involution.engine.setup import is_main_process

        _, measure, parts = _TASKS[self.task]
        settings, train = parts()
        names = {item.name for item in dataclasses.fields(settings)}
        given = {name: value for name, value in args.as_dict().items() if name in names}
        config: Any = load_config(base=given, cls=settings)
        if args.recipe and args.recipe.startswith("finetune") and config.model.weights is None:
            raise ConfigError(
                f"the recipe {args.recipe} starts from trained weights: add --model.weights FILE, a run's best.ckpt or "
                "what `involution convert` wrote"
            )
        try:
            result = train(config, resume=args.resume)
        except TrainingInterrupted as stop:
            if not is_main_process():
                return 130
            if stop.checkpoint is None:
                print("interrupted before the first checkpoint", file=sys.stderr)
            else:
                command = f"involution {self.task} train --resume {shlex.quote(str(stop.checkpoint))}"
                print(f"interrupted; go on with: {command}", file=sys.stderr)
            return 130
        except TrainingDiverged as error:
            print(f"involution: {error}", file=sys.stderr)
            return 1
        if not is_main_process():
            return 0
        Console().print(
            f"best validation {measure} {result.score:.2%} after {len(result.history)} epochs, "
            f"{result.seconds:,.0f} s of training ({result.images_per_second:,.0f} images/s)\n"
            f"checkpoint: {result.best}\n"
            f"measure it: involution {self.task} eval --checkpoint {shlex.quote(str(result.best))}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        return 0


for_task = TrainCommand


def _value(argv: list[str], option: str) -> str | None:
    for place, word in enumerate(argv):
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
        if word == option and place + 1 < len(argv):
            return argv[place + 1]
    return None

"""Train a network of any task: every setting of a recipe can be changed on the command line."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from involution.cli.conditions import Condition
from involution.cli.help import basics
from involution.data.addresses import in_text
from involution.data.errors import printable
from involution.data.registry import formats
from involution.engine.config import add_config_arguments, from_parsed, recipe_names, recipe_path
from involution.engine.parser import read_settings
from involution.engine.settings import ConfigError
from involution.engine.task import get_task, task_noun, with_article
from involution.extras import require

# what the help lists first: name -> setting
_BASIC = {
    "--data": "data.spec",
    "--recipe": "recipe",
    "--model": "model.name",
    "--backbone": "model.backbone",
    "--weights": "model.weights",
    "--epochs": "trainer.epochs",
    "--batch-size": "data.batch_size",
    "--lr": "optimizer.lr",
    "--device": "trainer.accelerator",
    "--devices": "devices",
    "--workers": "data.workers",
    "--output": "output",
    "--name": "name",
    "--resume": "resume",
    "--config": "config",
    "--print-config": "print_config",
}
_EXAMPLES = {
    "classify": (
        "involution classify train --recipe finetune --data imagefolder:photos",
        "involution classify train --recipe digits --epochs 5 --name short",
    ),
    "detect": ("involution detect train --recipe finetune --data coco:objects",),
    "segment": ("involution segment train --recipe finetune --data masks:fields",),
}


def _decays(*kinds: str) -> Any:
    return lambda args: args.schedule.decay in kinds


_CONDITIONS = (
    Condition("schedule.milestones schedule.gamma", _decays("step"), "without --schedule.decay step"),
    Condition("schedule.power", _decays("poly"), "without --schedule.decay poly"),
    Condition(
        "schedule.final schedule.update",
        lambda args: args.schedule.decay != "constant",
        "with --schedule.decay constant",
    ),
    Condition(
        "schedule.warmup_start",
        lambda args: args.schedule.warmup_epochs + args.schedule.warmup_steps > 0,
        "without --schedule.warmup_epochs or --schedule.warmup_steps",
    ),
    Condition(
        "trainer.epochs",
        lambda args: args.trainer.steps is None,
        "where trainer.steps is set, here or in the run that is resumed",
    ),
    Condition(
        "trainer.sync_batchnorm",
        lambda args: args.devices > 1 or "WORLD_SIZE" in os.environ,
        "on a single device; see --devices",
    ),
)
_OF_TASKS = {
    "classify": (
        Condition(
            "augment.randaugment_magnitude", lambda args: args.augment.randaugment > 0, "without --augment.randaugment"
        ),
    ),
    "segment": (
        Condition("augment.class_limit", lambda args: args.augment.crop is not None, "without --augment.crop"),
    ),
}


@dataclass(frozen=True)
class TrainCommand:
    """The `train` command of a task.

    Args:
        task: classify, detect, segment.
    """

    task: str
    takes_addresses = True

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return (
            f"Train {with_article(task_noun(self.task))}.\n\n"
            "Every setting of a recipe can be changed by its name with dots; some have short names, listed first. "
            "Values are YAML; null is for none."
        )

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """When options are used."""
        return *_CONDITIONS, *_OF_TASKS.get(self.task, ())

    @property
    def examples(self) -> tuple[str, ...]:
        """Command lines for the help."""
        return _EXAMPLES.get(self.task, ())

    def add_arguments(self, parser: Any) -> None:
        """Add the options: a recipe, a checkpoint to resume from, and every setting."""
        names = ", ".join(recipe_names(self.task))
        parser.add_argument("--recipe", metavar="NAME", help=f"named settings to start from: {names}")
        parser.add_argument(
            "--resume",
            metavar="CHECKPOINT",
            help="resume an interrupted run from its last.ckpt; auto starts the run of this command or resumes it",
        )
        add_config_arguments(parser, get_task(self.task).config)
        kinds = ", ".join(dict.fromkeys(found.syntax for found in formats(self.task)))
        spec = f"the data set: {kinds}; or a folder in one of these formats" if kinds else ""
        basics(parser, _BASIC, {"--data": spec})

    def prepare(self, argv: list[str]) -> list[str]:
        """Put the settings of a recipe or a resumed run before all others, in whatever order they are given."""
        # with the older name, jsonargparse would want a value
        words = ["--print-config" if word == "--print_config" else word for word in argv]
        # before a file of settings, it would print the file alone, unchecked
        argv = sorted(words, key=lambda word: word.startswith("--print-config"))
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        for name in ("--recipe", "--resume", "--data", "--model"):
            first.add_argument(name)
        first.add_argument("--config", action="append", default=[])
        try:
            given, _ = first.parse_known_args(argv)
        except argparse.ArgumentError:
            # the full parser gives a better message
            return argv
        for name, value in (("data", given.data or ""), ("model", given.model or "")):
            if value.startswith("{"):
                raise ConfigError(f"--{name} takes a name; give settings as --config '{{{name}: {value}}}'")
        recipe, resume = (_chosen(name, getattr(given, name), given.config) for name in ("recipe", "resume"))
        resumed = None if resume == "auto" else resume
        if given.recipe and resumed:
            raise ConfigError("--recipe can't be combined with --resume: a resumed run keeps its own settings")
        if recipe is not None:
            path = recipe_path(recipe, self.task)
            if not resumed:
                return ["--config", str(path), *argv]
            print(f"recipe: {recipe} has no effect: a resumed run keeps its own settings", file=sys.stderr)
        if resumed:
            from involution.engine.checkpoint import read_card
            from involution.engine.run_folder import find_checkpoint

            file, found, _ = find_checkpoint(resumed, whole=False)
            card = read_card(found, file, self.task)
            return ["--config", json.dumps(card.recipe, ensure_ascii=False), *argv]
        return argv

    def run(self, args: Any) -> int:
        """Train, and print where the checkpoints are."""
        from rich.console import Console

        from involution.engine.callbacks import TrainingInterrupted
        from involution.engine.process import is_main_process
        from involution.engine.run import train
        from involution.report.run import REPORT_NEEDS, write_run_report

        spec = get_task(self.task)
        config = from_parsed(spec.config, args)
        require(*REPORT_NEEDS)
        try:
            result = train(config, resume=args.resume)
        except TrainingInterrupted as stop:
            if not is_main_process():
                return 130
            if stop.checkpoint is None:
                print("interrupted before the first checkpoint", file=sys.stderr)
            else:
                command = f"involution {self.task} train --resume {shlex.quote(str(stop.checkpoint))}"
                command += _named_again("--data", config)
                print(f"interrupted; resume with: {command}", file=sys.stderr)
            return 130
        if not is_main_process():
            return 0
        best = f"best validation {spec.measure} {result.score:.2%}"
        if not math.isfinite(result.score):
            best = f"no epoch had a validation {spec.measure} that is a number: kept is the last one,"
        epochs = f"{len(result.history)} epoch{'s' * (len(result.history) != 1)}"
        measured = "" if result.has_test or spec.eval_split != "test" else " --split val"
        Console().print(
            f"{best} after {epochs}{', stopped early' if result.stopped_early else ''}, "
            f"{result.seconds:,.0f} s of training ({result.images_per_second:,.0f} images/s)\n"
            f"checkpoint: {result.best}\n"
            f"measure it: involution {self.task} eval --checkpoint {shlex.quote(str(result.best))}{measured}"
            f"{_named_again('--data', config)}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        words = [f"--{name} {value}" for name, value in (("recipe", args.recipe), ("resume", args.resume)) if value]
        report = write_run_report(result, config, " ".join([f"involution {self.task} train", *words]))
        print(f"report: {printable(report)}")
        return 0


def _chosen(name: str, option: str | None, configs: Sequence[str]) -> str | None:
    """What was given as an option or in settings, where the parser would come to it too late."""
    found = {} if option is None else {option: f"--{name} {option}"}
    for config in configs:
        value = None
        # the full parser tells what is wrong
        with suppress(TypeError, ValueError, OSError):
            value = read_settings(config).get(name)
        where = "--config" if config.lstrip().startswith("{") else config
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{where}: {name} must be a name, got {value!r:.60}")
        if value is not None:
            found.setdefault(value, f"{name}: {value} of {where}")
    if len(found) > 1:
        raise ConfigError(f"{' and '.join(found.values())} can't be combined; give one of them")
    return next(iter(found), None)


def _named_again(option: str, config: Any) -> str:
    """The option for data at an address, which is not taken from a checkpoint."""
    return f" {option} {shlex.quote(config.data.spec)}" if in_text(config.data.spec) else ""


for_task = TrainCommand

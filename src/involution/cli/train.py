"""Train an image classifier; every setting of a recipe can be changed on the command line."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from typing import Any

from involution.engine.config import (
    ClassifyConfig,
    ConfigError,
    add_config_arguments,
    load_config,
    recipe_names,
    recipe_path,
)

_OWN = ("--recipe", "--resume")


def add_arguments(parser: Any) -> None:
    """Options: a recipe, a checkpoint to go on from, and every setting."""
    parser.add_argument("--recipe", metavar="NAME", help=f"named settings to start from: {', '.join(recipe_names())}")
    parser.add_argument("--resume", metavar="CHECKPOINT", help="go on with an interrupted run, by its last.ckpt")
    add_config_arguments(parser)


def prepare(argv: list[str]) -> list[str]:
    """Put the settings of `--recipe` or `--resume` before all others, whatever the order they are given in."""
    found = {option: _value(argv, option) for option in _OWN}
    if all(found.values()):
        raise ConfigError("--recipe and --resume exclude each other: a resumed run keeps its own settings")
    if found["--recipe"]:
        return ["--config", str(recipe_path(found["--recipe"])), *argv]
    if found["--resume"]:
        from involution.engine.checkpoint import read_card, read_checkpoint

        card = read_card(read_checkpoint(found["--resume"]), found["--resume"])
        return ["--config", json.dumps(card.recipe), *argv]
    return argv


def run(args: Any) -> int:
    """Train, and say where the checkpoints are."""
    from rich.console import Console

    from involution.engine.callbacks import TrainingDiverged, TrainingInterrupted
    from involution.engine.classify import train
    from involution.engine.setup import is_main_process

    names = {item.name for item in dataclasses.fields(ClassifyConfig)}
    config = load_config(base={name: value for name, value in args.as_dict().items() if name in names})
    if args.recipe == "finetune" and config.model.weights is None:
        raise ConfigError(
            "the recipe finetune starts from trained weights: add --model.weights FILE, a run's best.ckpt or what "
            "`involution convert` wrote"
        )
    try:
        result = train(config, resume=args.resume)
    except TrainingInterrupted as stop:
        if not is_main_process():
            return 130
        if stop.checkpoint is None:
            print("interrupted before the first checkpoint", file=sys.stderr)
        else:
            command = f"involution classify train --resume {shlex.quote(str(stop.checkpoint))}"
            print(f"interrupted; go on with: {command}", file=sys.stderr)
        return 130
    except TrainingDiverged as error:
        print(f"involution: {error}", file=sys.stderr)
        return 1
    if not is_main_process():
        return 0
    Console().print(
        f"best validation accuracy {result.score:.2%} after {len(result.history)} epochs, "
        f"{result.seconds:,.0f} s of training ({result.images_per_second:,.0f} images/s)\n"
        f"checkpoint: {result.best}\n"
        f"measure it: involution classify eval --checkpoint {shlex.quote(str(result.best))}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return 0


def _value(argv: list[str], option: str) -> str | None:
    for place, word in enumerate(argv):
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
        if word == option and place + 1 < len(argv):
            return argv[place + 1]
    return None

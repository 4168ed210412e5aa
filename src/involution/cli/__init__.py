"""The `involution` command: `involution <task> <mode>` and a few other commands.

A sub-command is a module of this package with `add_arguments(parser)`, which fills a jsonargparse parser, and
`run(args) -> int`, which returns the exit code. It is imported only when it is called. Optionally
`prepare(argv) -> list[str]` rewrites the arguments before they are parsed, and `for_task(task)` returns an object with
these functions if several tasks share them. `takes_addresses = True` says that its options may be addresses such as
s3://bucket/runs, `conditions` when options are used, and `examples` are command lines for its help. Options in a group
are listed by `--help-all` alone.
"""

from __future__ import annotations

import importlib
import os
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from typing import Any

from involution.after import after_import
from involution.cli.conditions import given_again, given_options, without_effect
from involution.cli.failures import DONE, INTERRUPTED, USAGE, WrongUsage, complain, exit_code, no_output, usage
from involution.cli.limits import check_room
from involution.cli.process import Interrupts, as_process, end_output
from involution.extras import require

# mode of a task -> (module, what it does, with the task's noun in it)
_MODES = {
    "train": ("involution.cli.train", "train {a_noun}"),
    "eval": ("involution.cli.eval", "measure a trained {noun}"),
    "predict": ("involution.cli.predict", "use a trained {noun} on image files"),
}
# word of the command -> (module, what it does)
_OTHERS = {
    "cost": ("involution.cli.cost", "what networks cost: counted, measured here, published"),
    "bench": ("involution.cli.bench", "time the operator and the models on this machine"),
    "ablate": ("involution.cli.ablate", "train and compare settings: the paper's ablations, or your own study"),
    "photo": ("involution.cli.photo", "take noise from photographs: kernels for each pixel against convolutions"),
    "weights": ("involution.cli.weights", "published weights by name: list, get, where, card, save"),
    "convert": ("involution.cli.convert", "convert files of published weights"),
    "export": ("involution.cli.export", "a trained network as a file for another runtime: aoti, onnx, ..."),
    "serve": ("involution.cli.serve", "trained networks over HTTP: an image in, JSON out"),
    "explain": ("involution.cli.explain", "draw what an involution network sees in an image"),
    "app": ("involution.cli.app", "a web page: predictions, and the kernels at the pixel you click"),
    "info": ("involution.cli.info", "what this installation can do"),
}


def commands() -> dict[tuple[str, ...], tuple[str, str]]:
    """Words of each command -> (module, what it does)."""
    from involution.engine.task import task_names, task_noun, with_article

    found: dict[tuple[str, ...], tuple[str, str]] = {
        ("demo",): ("involution.cli.demo", "train and compare on handwritten digits, and write a report")
    }
    for task in task_names():
        for mode, (module, what) in _MODES.items():
            noun = task_noun(task)
            found[task, mode] = (module, what.format(noun=noun, a_noun=with_article(noun)))
    found["data", "check"] = ("involution.cli.data_check", "see what a data set holds, before training on it")
    return found | {(word,): value for word, value in _OTHERS.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments; by default those of the process.

    Returns:
        0 success, 1 failure, 2 wrong usage, 130 interrupted.
    """
    if argv is not None:
        return _guarded(list(argv), Interrupts())
    with as_process() as interrupts:
        return _guarded(sys.argv[1:], interrupts)


def _guarded(words: list[str], interrupts: Interrupts) -> int:
    try:
        code = _main(words)
        if interrupts.heard and code not in (DONE, INTERRUPTED):
            # a picture, say, that failed for it
            raise KeyboardInterrupt
        return code if (failure := end_output()) is None else no_output(failure)
    except BaseException as error:
        # a library may have made something else of Ctrl-C
        return exit_code(KeyboardInterrupt() if interrupts.heard else error)


def _main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "--help-all"):
        print(_help())
        return DONE if words else USAGE
    if words[0] in ("-V", "--version"):
        from involution import __version__

        print(f"involution {__version__}")
        return DONE
    for size in (2, 1):
        if tuple(words[:size]) in commands():
            return _call(tuple(words[:size]), words[size:])
    return _unknown(words)


def command_module(command: tuple[str, ...]) -> Any:
    """The module of a command; one for a mode of several tasks is bound to the task."""
    module: Any = importlib.import_module(commands()[command][0])
    return module.for_task(command[0]) if hasattr(module, "for_task") else module


def command_parser(command: tuple[str, ...], module: Any) -> Any:
    """The parser of a command with all its options."""
    from involution.cli.help import add_help
    from involution.engine.parser import make_parser

    prog, what = f"involution {' '.join(command)}", commands()[command][1]
    parser = make_parser(prog=prog, description=module.__doc__ or what, add_help=False)
    module.add_arguments(parser)
    add_help(parser, getattr(module, "examples", ()))
    return parser


def _call(command: tuple[str, ...], argv: list[str]) -> int:
    parser: Any = None
    try:
        # in a folder that was deleted, libraries end the process in words of their own
        os.getcwd()
        require("jsonargparse", "rich")
        from involution.data.addresses import allow_arguments

        after_import("torch", check_room)
        module = command_module(command)
        parser = command_parser(command, module)
        allow_arguments(argv, f"involution {' '.join(command)}", getattr(module, "takes_addresses", False))
        if hasattr(module, "prepare"):
            argv = module.prepare(argv)
        args = parser.instantiate(parser.parse_args(argv))
        unread = without_effect(getattr(module, "conditions", ()), args, given_options(parser, argv))
        for line in [*given_again(parser, argv), *unread]:
            print(line, file=sys.stderr)
        return int(module.run(args))
    except ArgumentError as error:
        raise WrongUsage(usage(str(error), parser)) from error


def _unknown(words: list[str]) -> int:
    from involution.data.errors import nearest

    known = [" ".join(command) for command in commands()]
    modes = [command[1] for command in commands() if len(command) == 2 and command[0] == words[0]]
    if modes and len(words) == 1:
        return complain(f"{words[0]} what? {', '.join(modes)}")
    if modes and words[1] in ("-h", "--help", "--help-all"):
        print(_group_help(words[0]))
        return DONE
    said = " ".join(words[: 2 if modes else 1])
    if not modes:
        # the first word decides what was meant, but show all of it
        known += [command[0] for command in commands() if len(command) == 2]
    return complain(f"no command {said!r}{nearest(said, known)} (see involution --help)")


def _help() -> str:
    lines = [
        "usage: involution COMMAND [options]",
        "",
        "Involution and RedNet (CVPR 2021): train classifiers, detectors and segmenters, measure and use them.",
        "",
        "commands:",
        *(f"  {' '.join(command):18}{what}" for command, (_, what) in commands().items()),
        "",
        "  involution COMMAND --help       the basic options of a command",
        "  involution COMMAND --help-all   every option and setting",
        "  involution --version            the version",
        "",
        "Start with `involution demo`, classify a photograph, or train on your own images, one folder per class:",
        "  involution classify predict --checkpoint rednet50 photo.jpg",
        "  involution classify train --recipe finetune --data imagefolder:PATH",
    ]
    return "\n".join(lines)


def _group_help(word: str) -> str:
    found = {command: what for command, (_, what) in commands().items() if command[0] == word and len(command) == 2}
    lines = [f"usage: involution {word} {{{','.join(mode for _, mode in found)}}} [options]", "", "commands:"]
    lines += [f"  {' '.join(command):18}{what}" for command, what in found.items()]
    return "\n".join([*lines, "", f"  involution {word} {next(iter(found))[1]} --help   the options of a command"])

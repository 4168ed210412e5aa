"""The `involution` command: `involution <task> <mode>` and a few commands beside them.

A sub-command is a module of this package with `add_arguments(parser)`, which fills a jsonargparse parser, and
`run(args) -> int`, which returns the exit code. It is imported only when it is called. Optionally
`prepare(argv) -> list[str]` rewrites the arguments before they are parsed, and `for_task(task)` gives an object with
these functions where several tasks share them.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from involution.extras import MissingExtra, is_installed, require

# mode of a task -> (module, what it does, with the task's noun in it)
_MODES = {
    "train": ("involution.cli.train", "train {a_noun}"),
    "eval": ("involution.cli.eval", "measure a trained {noun}"),
    "predict": ("involution.cli.predict", "use a trained {noun} on image files"),
}
_LONGEST = 600
# word of the command -> (module, what it does)
_OTHERS = {
    "cost": ("involution.cli.cost", "what networks cost: counted, measured here, published"),
    "bench": ("involution.cli.bench", "time the operator and the models on this machine"),
    "ablate": ("involution.cli.ablate", "train and compare settings: the paper's ablations, or your own study"),
    "convert": ("involution.cli.convert", "convert published weights"),
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


DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
_WRONG_PATH = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments; those of the process by default.

    Returns:
        0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _main(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # `involution ... | head`; what is left in the buffer must not fail again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
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


def _call(command: tuple[str, ...], argv: list[str]) -> int:
    try:
        require("jsonargparse", "rich")
        from jsonargparse import ArgumentError

        from involution.engine.parser import make_parser
    except ImportError as error:
        return _cannot_import(error)
    try:
        module: Any = importlib.import_module(commands()[command][0])
        # one module for a mode of several tasks
        module = module.for_task(command[0]) if hasattr(module, "for_task") else module
        parser = make_parser(
            prog=f"involution {' '.join(command)}", description=module.__doc__ or commands()[command][1]
        )
        module.add_arguments(parser)
        if hasattr(module, "prepare"):
            argv = module.prepare(argv)
        return int(module.run(parser.instantiate(parser.parse_args(argv))))
    except ArgumentError as error:
        return _complain(_usage(str(error), parser))
    except SystemExit as error:
        # --help and --print_config end so
        return error.code if isinstance(error.code, int) else DONE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except ImportError as error:
        return _cannot_import(error)
    except ValueError as error:
        # errors of our own classes speak to the user; anything else is a fault of the program
        if not type(error).__module__.startswith("involution."):
            raise
        return _complain(str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        # ours name the file in their message and have no number
        wrong = error.errno in _WRONG_PATH or (error.errno is None and isinstance(error, FileNotFoundError))
        return _complain(f"{where}{error.strerror or error}", USAGE if wrong else FAILED)


def _complain(message: str, code: int = USAGE) -> int:
    print(f"involution: {' '.join(message.split())}", file=sys.stderr)
    return code


def _usage(message: str, parser: object) -> str:
    """An argument error in one line, with the nearest option where one was misspelt."""
    import re

    from involution.data.errors import nearest
    from involution.engine.config import plain_words

    actions = getattr(parser, "_actions", [])
    known = [option for action in actions for option in action.option_strings if option.startswith("--")]
    text = plain_words(message).replace('Parser key "', 'option "--')
    # without the names of Python's and jsonargparse's own things
    text = text.replace("Problems parsing config: ", "not valid YAML: ").replace('in "<unicode string>", ', "")
    text = re.sub(
        r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)\] Errors: .* Given value: (.*)",
        r"wanted \1, got \2",
        " ".join(text.split()),
    )
    text = re.sub(r"Expected an? (.*?)\. Got value: (.*)", r"wanted \1, got \2", text)
    text = re.sub(r"<class '(\w+)'>", r"\1", text).replace("NoneType", "null")
    # a value can be as long as a file
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 4 :]}"
    for action in actions:
        # an option is called by what the user types
        if action.option_strings:
            text = text.replace(f'"--{action.dest}"', f'"{action.option_strings[-1]}"')
            text = text.replace(f"are required: {action.dest}", f"are required: {action.option_strings[-1]}")
    unknown = re.search(r"unrecognized arguments: (--[^\s=]+)", message)
    group = re.search(r"Group '(.+)' does not accept option '(.+)'", message)
    setting = re.search(r"Option '(.+)' is not accepted", message)
    if unknown:
        return f"unknown option {unknown[1]}{nearest(unknown[1], known)}"
    if group:
        wrong = f"--{group[1]}.{group[2]}"
        return f"unknown setting {wrong.removeprefix('--')}{nearest(wrong, known).replace('--', '')}"
    if setting:
        return f"unknown setting {setting[1]}{nearest('--' + setting[1], known).replace('--', '')}"
    return text


def _cannot_import(error: ImportError) -> int:
    """Say what to install, or that what is installed doesn't fit."""
    package = (error.name or "").partition(".")[0]
    if not package or package == "involution":
        raise error
    if isinstance(error, MissingExtra):
        return _complain(str(error))
    if not is_installed(package):
        return _complain(str(MissingExtra(package)))
    return _complain(f"{package} is installed but can't be used ({error}); pip install --upgrade {package}", FAILED)


def _unknown(words: list[str]) -> int:
    from involution.data.errors import nearest

    known = [" ".join(command) for command in commands()]
    modes = [command[1] for command in commands() if len(command) == 2 and command[0] == words[0]]
    if modes and len(words) == 1:
        return _complain(f"{words[0]} what? {', '.join(modes)}")
    if modes and words[1] in ("-h", "--help"):
        print(_help())
        return DONE
    said = " ".join(words[: 2 if modes else 1])
    if not modes:
        # the first word decides what was meant, but show the whole of it
        known += [command[0] for command in commands() if len(command) == 2]
    return _complain(f"no command {said!r}{nearest(said, known)} (see involution --help)")


def _help() -> str:
    lines = [
        "usage: involution COMMAND [options]",
        "",
        "Involution and RedNet (CVPR 2021): train classifiers, detectors and segmenters, measure and use them.",
        "",
        "commands:",
        *(f"  {' '.join(command):18}{what}" for command, (_, what) in commands().items()),
        "",
        "  involution COMMAND --help   the options of a command",
        "  involution --version        the version",
        "",
        "Start with `involution demo`, or train on your own folder of images, one folder per class:",
        "  involution classify train --recipe finetune --data.spec imagefolder:PATH --model.weights FILE",
    ]
    return "\n".join(lines)

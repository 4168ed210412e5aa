"""Command lines of documentation and examples, parsed as the commands do."""

import re
import shlex
from pathlib import Path

from involution import cli

ROOT = Path(__file__).parents[1]


def parser_of(words):
    module = cli.command_module(words)
    return cli.command_parser(words, module), module


def parse(line):
    """Parse a command line as the command does, the files that it names aside."""
    argv = shlex.split(line, comments=True)
    if argv[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in argv[1:])
        return
    # torchrun ... -m involution
    argv = argv[argv.index("involution") + 1 :]
    words = next(tuple(argv[:n]) for n in (2, 1) if tuple(argv[:n]) in cli.commands())
    parser, module = parser_of(words)
    # printing the settings would end the process
    rest = [word for word in argv[len(words) :] if word not in ("--print_config", "--print-config")]
    # a run that goes on has its settings from a file
    if hasattr(module, "prepare") and "--resume" not in rest:
        rest = module.prepare(rest)
    parser.parse_args(rest)

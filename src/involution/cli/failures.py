"""What ends a command, told in one line, and the exit code for it."""

from __future__ import annotations

import difflib
import errno
import os
import re
import sys
from typing import Any

from involution.cli.limits import address_space, is_starved
from involution.cli.process import end_output
from involution.data import addresses
from involution.data.images import LoadingError
from involution.engine.process import is_main_process
from involution.extras import MissingExtra, is_installed

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
_WRONG_PATH = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ELOOP,
    errno.ENAMETOOLONG,
)
_LONGEST = 600


class WrongUsage(ValueError):
    """Arguments that a command doesn't take."""


def exit_code(error: BaseException) -> int:
    """Tell why a command ended.

    Args:
        error: What it raised.

    Returns:
        The exit code.

    Raises:
        BaseException: The error itself, if it is a fault of the program.
    """
    if isinstance(error, SystemExit):
        # --help and --print-config end like this
        return complain(error.code, FAILED) if isinstance(error.code, str) else int(error.code or DONE)
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    if isinstance(error, ImportError):
        return _cannot_import(error)
    if isinstance(error, OSError):
        # it was the output that failed, if more of it fails, too
        failure = end_output() if error.filename is None else None
        if failure or isinstance(error, BrokenPipeError):
            return no_output(failure or error)
        return _cannot_use(error)
    if isinstance(error, MemoryError):
        return complain(_no_memory(), FAILED)
    if isinstance(error, LoadingError):
        # what was asked for was right; of several devices all know it
        return complain(str(error), FAILED) if is_main_process() else FAILED
    if isinstance(error, RuntimeError) and type(error).__module__.startswith("involution.engine."):
        return complain(str(error), FAILED) if is_main_process() else FAILED
    # errors of our own classes are for the user; anything else is a bug
    if isinstance(error, ValueError) and type(error).__module__.startswith("involution."):
        return complain(str(error))
    if isinstance(error, RuntimeError) and (said := _limit(error)):
        return complain(said, FAILED)
    if isinstance(error, Exception) and is_starved():
        # nearly anything can fail then, in any way
        return complain(_no_memory(), FAILED)
    if isinstance(error, Exception) and (said := addresses.failure(error)):
        return complain(f"the storage at an address failed: {said}", FAILED)
    raise error


def _no_memory() -> str:
    limit = address_space()
    allowed = f": the system allows {limit / 2**20:,.0f} MB of addresses (ulimit -v)" if limit else ""
    return f"not enough memory{allowed}; try a smaller batch or image"


def no_output(error: OSError) -> int:
    """Say that what was printed could not be; of `involution ... | head` there is nothing to say."""
    return (
        FAILED if isinstance(error, BrokenPipeError) else complain(f"can't write the output: {error.strerror}", FAILED)
    )


def complain(message: str, code: int = USAGE) -> int:
    """Print one line to the error output, harmless whatever is in it, and return the code."""
    from involution.data.errors import printable

    print(f"involution: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code


def _cannot_import(error: ImportError) -> int:
    """Say what to install, or that what is installed can't be used."""
    package = (error.name or "").partition(".")[0]
    if isinstance(error, MissingExtra):
        return complain(str(error))
    if isinstance(error, ModuleNotFoundError) and package not in ("", "involution") and not is_installed(package):
        return complain(str(MissingExtra(package)))
    if is_starved():
        return complain(_no_memory(), FAILED)
    if package == "involution" or (isinstance(error, ModuleNotFoundError) and not package):
        raise error
    if _limit(error):
        return complain(f"{_limit(error)} (while a library was loaded: {error})", FAILED)
    return complain(f"a library is installed but can't be used: {error}", FAILED)


def _cannot_use(error: OSError) -> int:
    """Say which file, folder or stream the system refused, and why."""
    where, why = error.filename, error.strerror or str(error)
    if error.errno == errno.ENOENT and not _has_folder():
        return complain("the current folder was deleted; change to another one")
    if type(error).__module__.startswith("involution."):
        # in the midst of the work
        return complain(f"{os.fsdecode(where)}: {why}" if where else why, FAILED)
    # our own errors name the file in their message and have no number
    wrong = error.errno in _WRONG_PATH or (
        error.errno is None and isinstance(error, FileNotFoundError | FileExistsError)
    )
    return complain(f"{os.fsdecode(where)}: {why}" if where else why, USAGE if wrong else FAILED)


def _has_folder() -> bool:
    try:
        return bool(os.getcwd())
    except FileNotFoundError:
        return False


def _limit(error: Exception) -> str:
    """A limit of the system that a library told in its own words; empty if it is none."""
    text = " ".join(str(error).split())
    if re.search(r"out of memory|allocate memory|bad_alloc|failed to map segment", text):
        return _no_memory()
    if "start new thread" in text:
        return _no_memory() if is_starved() else "the system lets no more threads start (ulimit -u)"
    numbers = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EFBIG, errno.EROFS)
    return next((reason for reason in map(os.strerror, numbers) if reason in text), "")


def usage(message: str, parser: object) -> str:
    """Return an argument error in one line, with the closest option if one was misspelt."""
    from involution.cli.help import known_names
    from involution.data.errors import nearest
    from involution.engine.config import plain_words

    actions = getattr(parser, "_actions", [])
    known = known_names(parser)
    text = plain_words(message).replace('Parser key "', 'option "--')
    # without names internal to Python and jsonargparse
    text = text.replace("Problems parsing config: ", "not valid YAML: ").replace('in "<unicode string>", ', "")
    text = re.sub(
        r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)\] Errors: .* Given value: (.*)",
        r"wanted \1, got \2",
        " ".join(text.split()),
    )
    text = re.sub(r"Expected an? (.*?)\. Got value: (.*)", r"wanted \1, got \2", text)
    text = re.sub(r"<class '(\w+)'>", r"\1", text).replace("NoneType", "null")
    text = re.sub(r"typing\.Literal\[(.*?)\]", lambda found: found[1].replace("'", ""), text)
    text = re.sub(r"wanted (.*?\b)?bool\b", r"wanted \1true, false", text)
    # a value can be as long as a file
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 4 :]}"
    for action in actions:
        # name an option as the user types it
        if action.option_strings:
            text = text.replace(f'"--{action.dest}"', f'"{action.option_strings[-1]}"')
            text = text.replace(f"are required: {action.dest}", f"are required: {action.option_strings[-1]}")
    unknown = re.search(r"unrecognized arguments: (--[^\s=]+)", message)
    stray = re.search(r"unrecognized arguments: ([^-\s]\S*)", message)
    group = re.search(r"Group '(.+)' does not accept option '(.+)'", message)
    setting = re.search(r"Option '(.+)' is not accepted", message)
    if unknown:
        return f"unknown option {unknown[1]}{nearest(unknown[1], known)}"
    if stray:
        return f"unexpected {stray[1]}; a value follows the name of its option, such as --checkpoint FILE (see --help)"
    if group:
        return _unknown_setting(f"{group[1]}.{group[2]}", parser)
    if setting:
        return _unknown_setting(setting[1], parser)
    return text


def _unknown_setting(wrong: str, parser: Any) -> str:
    """Say that there is no such setting, with the whole name of the one that was meant, as a file has it."""
    meant: dict[str, str] = {}
    for name, action in parser._option_string_actions.items():
        if name.startswith("--") and action.nargs != 0 and action.dest not in ("config", "print_config"):
            meant[name.removeprefix("--")] = action.dest
    for name in list(meant.values()):
        # of optimizer.momentum the last word, too
        meant.setdefault(name.rpartition(".")[2], name)
    close = difflib.get_close_matches(wrong, meant, n=1, cutoff=0.5)
    return f"unknown setting {wrong}" + (f"; did you mean {meant[close[0]]}?" if close else "")

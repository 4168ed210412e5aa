"""What `--help` and `--help-all` print, and the short and old names of options.

`--help` lists the basic options: those that a command adds outside of any group, or those it names with `basics`.
`--help-all` lists every option.
"""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_INDENT = 24
_WIDEST = 110


@dataclass(frozen=True)
class _Line:
    """An option as it is listed, under the name that is shown first."""

    name: str
    action: Any
    text: str
    required: bool = False


class _Help(argparse._HelpAction):
    """Prints the basic options or all of them, and ends the command."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        print(help_text(parser, everything=option_string == "--help-all"))
        parser.exit()


def add_help(parser: Any, examples: Sequence[str] = ()) -> None:
    """Add `--help` and `--help-all` to a parser that has all other options.

    Args:
        parser: jsonargparse's parser, made without a help of its own.
        examples: command lines to show.
    """
    parser.examples = examples
    if not hasattr(parser, "basics"):
        plain = [_line(parser, action) for action in _shown(parser._optionals)]
        parser.basics = sorted(plain, key=lambda line: not line.required)
    for action in list(parser._actions):
        for name in action.option_strings:
            # dashes are shown, underscores are taken as well
            if "." not in name and "-" in name.strip("-"):
                add_names(parser, {f"--{name.strip('-').replace('-', '_')}": name})
    parser.add_argument("-h", "--help", action=_Help, default=argparse.SUPPRESS, help="show this help")
    # that of the help is none
    many = sum(bool(action.option_strings) for action in parser._actions if not _is_hidden(action)) - 1
    text = "show the whole description" if "\n\n" in (parser.description or "") else argparse.SUPPRESS
    text = f"show all {many} options" if many > len(parser.basics) else text
    parser.add_argument("--help-all", action=_Help, default=argparse.SUPPRESS, help=text)


def add_names(parser: Any, names: Mapping[str, str]) -> None:
    """Let options have further names, which the help does not list: from a new name to a name or destination."""
    for new, name in names.items():
        action = parser._option_string_actions.get(name) or _by_dest(parser, name)
        parser._option_string_actions[new] = action


def basics(parser: Any, names: Mapping[str, str], texts: Mapping[str, str] | None = None) -> None:
    """Choose the basic options, in their order.

    Args:
        parser: it has these options.
        names: from the name that is shown, which may be a new and shorter one, to the destination. Those that the
            parser does not have are left out.
        texts: other descriptions of some, by the name that is shown.
    """
    has = {action.dest for action in parser._actions}
    names = {name: dest for name, dest in names.items() if dest in has}
    add_names(parser, {name: dest for name, dest in names.items() if "." in dest})
    parser.basics = [
        _Line(name, action := _by_dest(parser, dest), (texts or {}).get(name) or _text(action))
        for name, dest in names.items()
    ]


def known_names(parser: Any) -> list[str]:
    """Names of options that are worth suggesting."""
    shown = [line.name for line in getattr(parser, "basics", [])]
    return shown + [
        name for action in getattr(parser, "_actions", []) for name in action.option_strings if "--" in name
    ]


def help_text(parser: Any, *, everything: bool) -> str:
    """The help of a command: usage, what it does, the basic options or all of them, examples."""
    width = max(min(shutil.get_terminal_size().columns, _WIDEST), 40)
    paragraphs = [" ".join(part.split()) for part in (parser.description or "").split("\n\n")]
    lines = [*_wrapped(f"usage: {_usage(parser)}", width, "       "), ""]
    for paragraph in paragraphs if everything else paragraphs[:1]:
        lines += [*_wrapped(paragraph, width), ""]
    positional = [_line(parser, action) for action in _shown(parser._positionals)]
    last = [_line(parser, action) for action in _shown(parser._optionals) if isinstance(action, _Help)]
    sections = [("arguments", positional), ("options", [*parser.basics, *last])]
    if everything:
        listed = {id(line.action) for line in parser.basics}
        others = [action for action in _shown(parser._optionals) if not isinstance(action, _Help)]
        sections.append(("more options", [_line(parser, action) for action in others if id(action) not in listed]))
        for group in parser._action_groups:
            if group not in (parser._positionals, parser._optionals):
                title = f"{group.title}; {group.description}" if group.description else group.title or ""
                sections.append((title, [_line(parser, action) for action in _shown(group)]))
    for title, entries in sections:
        if entries:
            lines += [*_wrapped(f"{title}:", width), *(part for entry in entries for part in _entry(entry, width)), ""]
    if parser.examples:
        lines += ["examples:", *(f"  {example}" for example in parser.examples), ""]
    return "\n".join(lines).rstrip()


def _by_dest(parser: Any, dest: str) -> Any:
    return next(action for action in parser._actions if action.dest == dest)


def _shown(group: Any) -> list[Any]:
    return [action for action in group._group_actions if not _is_hidden(action)]


def _is_hidden(action: Any) -> bool:
    # jsonargparse's options for the file of a group of settings say nothing more than --config
    return action.help == argparse.SUPPRESS or type(action).__name__ == "_ActionConfigLoad"


def _line(parser: Any, action: Any) -> _Line:
    # without jsonargparse's second name for appending to a list
    names = [name for name in action.option_strings if not name.endswith("+")]
    # older versions of jsonargparse have their own list of them
    required = bool(names) and (action.required or action.dest in getattr(parser, "required_args", ()))
    return _Line(", ".join(names), action, f"{_text(action)}{' (required)' if required else ''}", required)


def _text(action: Any) -> str:
    if "--print-config" in action.option_strings:
        return "print all settings as YAML, and exit"
    text = " ".join((action.help or "").split())
    text = text if text.endswith("...") else text.removesuffix(".")
    default = action.default
    if default in (None, argparse.SUPPRESS, "", [], (), {}) or (default is False and action.nargs == 0):
        return text
    if "default" in text or not (action.option_strings or action.nargs in ("?", "*")):
        return text
    shown = str(default).lower() if isinstance(default, bool) else str(default)
    if isinstance(default, list | tuple):
        shown = f"[{', '.join(map(str, default))}]"
    # with a space that no line ends at
    return f"{text} (default:\xa0{shown})"


def _value(action: Any, name: str = "") -> str:
    """The placeholder of an option's value, with a space before it; empty if it has none."""
    if action.nargs == 0 or type(action).__name__ in ("ActionYesNo", "_ActionPrintConfig"):
        return ""
    if isinstance(action.metavar, tuple):
        return "".join(f" {word}" for word in action.metavar)
    kind = str(getattr(action, "_typehint", action.type))
    word = action.metavar or (f"{{{','.join(map(str, action.choices))}}}" if action.choices else "")
    name = name.strip("-") or action.dest
    word = word or ("X" if "float" in kind else "N" if "int" in kind else name.rpartition(".")[2].upper())
    return f" {word} ..." if action.nargs in ("+", "*") else f" {word}"


def _usage(parser: Any) -> str:
    words = [parser.prog]
    words += [f"{line.name}{_value(line.action)}" for line in parser.basics if line.required]
    for action in _shown(parser._positionals):
        word = _value(action).strip()
        words.append(f"[{word}]" if action.nargs in ("?", "*") else word)
    return " ".join([*words, *(["[options]"] if parser.basics else [])])


def _entry(line: _Line, width: int) -> list[str]:
    head = f"  {line.name}{_value(line.action, line.name) if line.name else _value(line.action).strip()}"
    if len(head) > _INDENT - 2:
        return [head, *_wrapped(line.text, width, " " * _INDENT, first=False)]
    text = _wrapped(line.text, width, " " * _INDENT, first=False)
    return [head.ljust(_INDENT) + text[0].lstrip(), *text[1:]] if text else [head]


def _wrapped(text: str, width: int, indent: str = "", *, first: bool = True) -> list[str]:
    # a path or an option is not broken at its hyphens
    lines = textwrap.wrap(
        text,
        width,
        initial_indent="" if first else indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
    return [line.replace("\xa0", " ") for line in lines]

"""The parser of every command and of settings: jsonargparse's, with limits on YAML."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from involution.data.yaml import YamlError, parse_yaml, read_yaml
from involution.engine.settings import can_be_none

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

# the name under which jsonargparse knows how to read values
_MODE = "involution"


def make_parser(**settings: Any) -> ArgumentParser:
    """A parser that raises its errors and takes no abbreviations.

    Args:
        **settings: Of jsonargparse's parser.
    """
    from jsonargparse import set_loader

    set_loader(_MODE, _value, (YamlError,))
    return _parser_class()(
        parser_mode=_MODE, exit_on_error=False, allow_abbrev=False, print_config="--print-config", **settings
    )


@cache
def _parser_class() -> type[ArgumentParser]:
    import argparse

    from jsonargparse import ArgumentParser, Namespace

    class Parser(ArgumentParser):
        def _parse_optional(self, arg_string: str) -> Any:
            name = arg_string.partition("=")[0]
            if name.startswith("--") and "." in name and name not in self._option_string_actions:
                above = name.rpartition(".")[0]
                while above and above not in self._option_string_actions:
                    above = above.rpartition(".")[0]
                kind = getattr(self._option_string_actions.get(above), "_typehint", None)
                # only of a dict it is a part; --data.classes would be taken for --data
                if above and "dict" not in str(kind):
                    return argparse.ArgumentParser._parse_optional(self, arg_string)
            return super()._parse_optional(arg_string)

        def validate(self, namespace: Any, *args: Any, **kwargs: Any) -> None:
            super().validate(namespace, *args, **kwargs)
            for action in self._actions:
                if action.dest not in namespace:
                    continue
                # for jsonargparse, none is a value of every type, and anything a section
                value = namespace[action.dest]
                if value is None and action.default is not None and not can_be_none(getattr(action, "_typehint", None)):
                    raise TypeError(f"{action.dest} is left empty (null); give it a value or leave it out")
                if type(action).__name__ == "_ActionConfigLoad" and not isinstance(value, Namespace):
                    raise TypeError(f"{action.dest} wants settings, got {value!r:.60}")

    return Parser


def read_settings(value: str) -> dict[Any, Any]:
    """What `--config` is given: a file of settings, or the settings themselves in braces.

    Raises:
        YamlError: If it is no YAML, or more than settings need.
        OSError: If the file can't be read.
        TypeError: If it has no settings.
    """
    found = parse_yaml(value) if value.lstrip().startswith("{") else read_yaml(value)
    if not isinstance(found, dict):
        raise TypeError(f"{value}: wanted settings such as 'trainer: {{epochs: 3}}', got {found!r:.60}")
    return found


@cache
def config_action() -> Any:
    """The action of an option that takes a file of settings, or the settings themselves."""
    from jsonargparse import ActionConfigFile

    class ConfigFile(ActionConfigFile):
        def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
            where = "" if values.lstrip().startswith("{") else f"{values}: "
            try:
                found = read_settings(values)
            except YamlError as error:
                raise TypeError(str(error) if where else f"--{self.dest}: {error}") from error
            except (OSError, ValueError) as error:
                raise TypeError(f"--{self.dest} {values!r}: {getattr(error, 'strerror', error)}") from error
            if self.dest in found:
                raise TypeError(f"{where}settings can't name another file of settings; give each by --{self.dest}")
            names = {action.dest for action in parser._actions}
            single = {name for name in names if not any(other.startswith(f"{name}.") for other in names)}
            try:
                found = _unfolded(found, single)
            except YamlError as error:
                raise TypeError(f"{where}{error}") from error
            self.apply_config(parser, cfg, self.dest, json.dumps(found, ensure_ascii=False))

    return ConfigFile


def _unfolded(settings: Mapping[Any, Any], single: set[str]) -> dict[Any, Any]:
    """Settings in their sections: `optimizer.lr: 1` is `optimizer: {lr: 1}`.

    Args:
        settings: As they were written.
        single: The settings that are no sections; one of them may be a dictionary, whose keys stay as they are.

    Raises:
        YamlError: For a setting that is given twice.
    """
    whole: dict[Any, Any] = {}
    for path, value in _each(settings, single):
        level = whole
        for depth, part in enumerate(path[:-1]):
            level = level.setdefault(part, {})
            if not isinstance(level, dict):
                raise YamlError(f"{'.'.join(map(str, path[: depth + 1]))} appears twice")
        if path[-1] in level:
            raise YamlError(f"{'.'.join(map(str, path))} appears twice")
        level[path[-1]] = value
    return whole


def _each(
    settings: Mapping[Any, Any], single: set[str], above: tuple[Any, ...] = (), split: bool = True
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    for key, value in settings.items():
        path = (*above, *(str(key).split(".") if split else [key]))
        if split and "" in path:
            raise YamlError(f"{key!r} is no name of a setting")
        if isinstance(value, dict) and value:
            inside = not split or any(".".join(path[:end]) in single for end in range(1, len(path) + 1))
            yield from _each(value, single, path, not inside)
        else:
            yield path, value


def _value(text: str) -> Any:
    value = parse_yaml(text)
    # a word that ends in a colon, such as a folder's name, is not a mapping to nothing
    braces = text.lstrip().startswith("{")
    empty = not braces and isinstance(value, dict) and value and all(item is None for item in value.values())
    return text if empty else value

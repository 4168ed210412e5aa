"""The parser of every command and of settings: jsonargparse's, with limits on YAML."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from involution.data.yaml import YamlError, parse_yaml, read_yaml

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

    from jsonargparse import ArgumentParser

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

    return Parser


@cache
def config_action() -> Any:
    """The action of an option that takes a file of settings, or the settings themselves."""
    from jsonargparse import ActionConfigFile

    class ConfigFile(ActionConfigFile):
        def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
            if isinstance(values, str) and not values.lstrip().startswith("{"):
                try:
                    found = read_yaml(values)
                except YamlError as error:
                    raise TypeError(str(error)) from error
                except (OSError, ValueError) as error:
                    raise TypeError(f"--{self.dest} {values!r}: {getattr(error, 'strerror', error)}") from error
                if not isinstance(found, dict):
                    raise TypeError(f"{values}: wanted settings such as 'trainer: {{epochs: 3}}', got {found!r:.60}")
                values = json.dumps(found, ensure_ascii=False)
            self.apply_config(parser, cfg, self.dest, values)

    return ConfigFile


def _value(text: str) -> Any:
    value = parse_yaml(text)
    # a word that ends in a colon, such as a folder's name, is not a mapping to nothing
    empty = isinstance(value, dict) and value and all(item is None for item in value.values())
    return text if empty else value

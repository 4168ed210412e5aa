"""Reading YAML that somebody else wrote: settings and studies, within limits of size, depth and repetition."""

from __future__ import annotations

import codecs
import math
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

# the largest recipe of ours has 2 kB
MAX_BYTES = 2**18
MAX_DEPTH = 32
# values with every repetition by an alias counted
MAX_VALUES = 20_000
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# whole numbers that are read otherwise than they look: in eights, and in sixties
_ODD = re.compile(r"[-+]?0[0-9_]+|.*:.*")
_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")
# as YAML 1.2 has it: 1e-4 is a number
_FLOAT = re.compile(
    r"""^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
    |[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN))$""",
    re.X,
)


class YamlError(ValueError):
    """A text that is no YAML, or more than settings need; the message names the line."""


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """Read a YAML file as `parse_yaml` does.

    Raises:
        YamlError: If it is no YAML, or more than settings need; the message begins with the path.
        OSError: If it can't be read.
    """
    with Path(path).open("rb") as file:
        # a device has no end
        content = file.read(MAX_BYTES + 1)
    try:
        return parse_yaml(content)
    except YamlError as error:
        raise YamlError(f"{path}: {error}") from error


def parse_yaml(text: str | bytes, *, as_written: bool = False, plain: bool = True) -> Any:
    """Turn YAML into dictionaries, lists, text, finite numbers, booleans and None.

    It takes time in proportion to its length: what aliases would repeat is counted before it is made.

    Args:
        text: The YAML; bytes are UTF-8, or UTF-16 with its mark.
        as_written: Leave every value the text that it is: 010 is no number then.
        plain: Refuse whole numbers that are others than they look, such as 010, which is 8.

    Raises:
        YamlError: For a text of more than `MAX_BYTES`, nested deeper than `MAX_DEPTH`, or of more than `MAX_VALUES`
            values; for a key that appears twice, a number that is not finite, a date, or anything else that
            settings do not have.

    Example:
        >>> parse_yaml("optimizer: {name: sgd, lr: 1e-1}")
        {'optimizer': {'name': 'sgd', 'lr': 0.1}}
    """
    import yaml

    if len(text) > MAX_BYTES:
        raise YamlError(f"more than {MAX_BYTES // 1024} kB, which no settings need")
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-16" if text.startswith(_UTF_16) else "utf-8-sig")
        _check_size(text)
        return yaml.load(text, Loader=_loader(as_written, plain))
    except yaml.MarkedYAMLError as error:
        began = f" ({error.context} from {_place(error.context_mark)})" if error.context_mark else ""
        where = f"{_place(error.problem_mark)}: " if error.problem_mark else ""
        raise YamlError(f"{where}{error.problem}{began}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise YamlError(" ".join(str(error).split())) from error


def _place(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"


def _check_size(text: str) -> None:
    """Count what a text holds, event by event, before anything of it is made."""
    # values in each open list or mapping, with the name by which it may be repeated
    levels: list[tuple[int, str | None]] = [(0, None)]
    named: dict[str, int] = {}
    for event, line in _events(text):
        kind = type(event).__name__
        if kind == "AliasEvent":
            if event.anchor not in named:
                raise YamlError(f"line {line}: *{event.anchor} refers to nothing defined before it")
            size = named[event.anchor]
        elif kind in ("SequenceStartEvent", "MappingStartEvent"):
            if len(levels) > MAX_DEPTH:
                raise YamlError(f"line {line}: nested deeper than {MAX_DEPTH} levels")
            levels.append((1, event.anchor))
            continue
        elif kind in ("SequenceEndEvent", "MappingEndEvent", "ScalarEvent"):
            size, anchor = levels.pop() if kind != "ScalarEvent" else (1, event.anchor)
            if anchor:
                named[anchor] = size
        else:
            continue
        total, anchor = levels[-1]
        levels[-1] = (total + size, anchor)
        if total + size > MAX_VALUES:
            raise YamlError(f"line {line}: more than {MAX_VALUES:,} values, which no settings need")


def _events(text: str) -> Iterator[tuple[Any, int]]:
    import yaml

    for event in yaml.parse(text, Loader=_loader()):
        yield event, event.start_mark.line + 1


@cache
def _loader(as_written: bool = False, plain: bool = True) -> Any:
    import yaml

    # libyaml's where there is one: it is several times faster
    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise yaml.MarkedYAMLError(
                        problem="a name was wanted before the colon", problem_mark=key.start_mark
                    )
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"{key.value} appears twice", problem_mark=key.start_mark)
                seen.add(key.value)
            return super().construct_mapping(node, deep)

        def scalar(self, node: Any) -> Any:
            try:
                value = base.yaml_constructors[node.tag](self, node)
            except (LookupError, ValueError):
                value = math.nan
            if isinstance(value, float) and not math.isfinite(value):
                wanted = {"bool": "neither true nor false", "int": "not a whole number"}
                problem = f"{node.value[:40]} is {wanted.get(node.tag.rpartition(':')[2], 'not a finite number')}"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
            if plain and node.tag.endswith(":int") and _ODD.fullmatch(node.value):
                problem = (
                    f"{node.value[:40]} would be {value} to YAML, which counts it in eights or sixties; write a plain "
                    "number, or a text in quotes"
                )
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
            return value

        def refused(self, node: Any) -> None:
            problem = f"settings have no values of the kind {node.tag.rpartition(':')[2]}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)

    tags = [f"tag:yaml.org,2002:{name}" for name in _PLAIN]
    Loader.yaml_constructors = {tag: base.yaml_constructors[tag] for tag in tags}
    for name in ("bool", "int", "float"):
        Loader.add_constructor(f"tag:yaml.org,2002:{name}", Loader.scalar)
    Loader.add_constructor(None, Loader.refused)
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in found if tag.rpartition(":")[2] not in ("float", "timestamp")]
        for first, found in base.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
    if as_written:
        Loader.yaml_implicit_resolvers = {}
    return Loader

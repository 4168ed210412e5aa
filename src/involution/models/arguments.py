"""Arguments that a recipe or a checkpoint may give a network: its own, by name, and nothing that opens a file."""

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import timm
import torch

from involution.models.layouts import VARIANTS
from involution.plain import plain

# words of names that read a file or an address or choose code, and names that are set elsewhere
_NEVER = re.compile(
    r"(^|_)(pretrained|cfg|config|checkpoint|cache|file|dir|url|hub|implementation)(_|$)|(?<!drop)_path(_|$)|^path"
    r"|^(num_classes|in_chans|device|dtype)$"
)
# of timm's builders, which make a norm layer of them
_NORM = ("bn_eps", "bn_momentum")


def check_arguments(what: str, given: Mapping[str, Any], allowed: Iterable[str]) -> None:
    """Raise `ValueError` for an argument that is not allowed, or a value that is more than numbers and words.

    Args:
        what: What takes the arguments, for the message.
        given: The arguments.
        allowed: Names of those that it takes.

    Example:
        >>> check_arguments("rednet50", {"drop_rate": 0.1}, network_arguments("rednet50"))
    """
    known = {name for name in allowed if not _NEVER.search(name)}
    for name, value in given.items():
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]}?" if close else f" (it has {', '.join(sorted(known))})"
            raise ValueError(f"{what} has no argument {str(name)[:60]!r}{hint}")
        complaint = plain(value)
        if complaint:
            raise ValueError(f"{what}: {name} {complaint}")


def network_arguments(name: str) -> frozenset[str]:
    """Return the names of the arguments that a network of timm's registry takes by itself.

    Example:
        >>> {"drop_path_rate", "kernel_size"} <= network_arguments("rednet50")
        True
        >>> sorted({"pretrained", "checkpoint_path"} & network_arguments("resnet50"))
        []
    """
    return frozenset(argument for argument in _all_arguments(name) if not _NEVER.search(argument))


@functools.lru_cache
def _all_arguments(name: str) -> frozenset[str]:
    if name in VARIANTS:
        return named_arguments(VARIANTS[name][0])
    try:
        with torch.device("meta"):
            network = timm.create_model(name)
    except (RuntimeError, NotImplementedError):
        # some read a number that they have just made
        network = timm.create_model(name)
    return named_arguments(type(network)) | set(_NORM)


def named_arguments(cls: type | Callable[..., Any]) -> frozenset[str]:
    """Return the names of the arguments of a class, of those above it too where it hands further ones up."""
    names: set[str] = set()
    for base in cls.__mro__ if isinstance(cls, type) else (cls,):
        made = base.__dict__.get("__init__") if isinstance(cls, type) else base
        if made is None or base is object:
            continue
        parameters = list(inspect.signature(made).parameters.values())
        names |= {one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            break
    return frozenset(names - {"self"})

"""What other people's files say and this package does not read: counted by name, and told once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from involution.data.findings import Findings

_SHOWN = 5
# texts that say nothing, in lower case, as XML writes what JSON leaves empty
_EMPTY = ("", "0", "0.0", "false", "no", "none", "null", "unspecified", "unknown")


def unread(item: Any, known: Collection[str]) -> Counter[str]:
    """The fields of an entry that are not read, each with the number 1; those that say nothing are left out.

    Args:
        item: the entry; the fields of an object inside it are named with a point: ``attributes.occluded``.
        known: fields that are read, and those that change nothing.

    Example:
        >>> unread({"id": 1, "occluded": True, "crowd": 0, "extra": {"user": "a"}}, ["id"])
        Counter({'occluded': 1, 'extra.user': 1})
    """
    found: Counter[str] = Counter()
    for name, value in item.items() if isinstance(item, Mapping) else ():
        inner = value.items() if isinstance(value, Mapping) else ()
        pairs = [(f"{name}.{key}", part) for key, part in inner] or [(str(name), value)]
        for called, part in pairs if name not in known else ():
            if called not in known and part and not (isinstance(part, str) and part.strip().lower() in _EMPTY):
                found[called[:60]] += 1
    return found


def tell_unread(counts: Counter[str], what: str, where: str, findings: Findings) -> None:
    """Say what is not read, with how often it was met.

    Args:
        counts: how often, by name.
        what: in words: ``fields of images``.
        where: what the message begins with: ``train``.
        findings: told of it.
    """
    if counts:
        kinds = [f"{kind} ({count:,})" for kind, count in counts.most_common(_SHOWN)]
        more = len(counts) - _SHOWN
        kinds += [f"{more:,} further kind{'s' if more > 1 else ''}"] if more > 0 else []
        findings.note(f"{where}: {what} that are not read: {', '.join(kinds)}")

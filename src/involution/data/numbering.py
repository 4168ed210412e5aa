"""Files of a data set that are numbered: numbers without a file are told, as a copy that was broken off leaves them."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable

from involution.data.findings import Findings, some

# train-00000-of-00004, photos-000012; the last number counts
_NAME = re.compile(r"(.*?)(\d+)(-of-(\d+))?(\D*)")
_LARGEST = 1_000_000


def tell_holes(files: Iterable[str | os.PathLike[str]], findings: Findings) -> None:
    """Say which numbers have no file, between the first and the last, or of all that a name like ``0-of-4`` tells of.

    Args:
        files: of one kind, such as shards.
        findings: told of it.
    """
    found: dict[tuple[str, ...], dict[int, str]] = defaultdict(dict)
    for file in map(str, files):
        match = _NAME.fullmatch(os.path.basename(file))
        if match is None:
            continue
        before, digits, of, total, after = match.groups()
        found[os.path.dirname(file), before, of or "", total or "", after][int(digits)] = digits
    for (folder, before, of, total, after), numbers in sorted(found.items()):
        first, last = min(numbers), max(numbers)
        if total:
            # of those that count from 1 the last has the whole number
            first = int(last == int(total))
            last = int(total) - 1 + first
        if last - first > _LARGEST:
            continue
        width = len(next(iter(numbers.values())))
        missing = [number for number in range(first, last + 1) if number not in numbers]
        # what has more holes than files is no numbering
        if missing and (total or len(missing) <= len(numbers)):
            names = [f"{before}{number:0{width}}{of}{after}" for number in missing]
            findings.note(f"{folder or '.'}: numbered files that are missing: {some(names)}")

"""Files of a data set that are numbered: numbers without a file are told, as a copy that was broken off leaves them."""

from __future__ import annotations

import datetime
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress

from involution.data.findings import Findings, some

# train-00000-of-00004, photos-000012; the last number counts
_NAME = re.compile(r"(.*?)(\d+)(-of-(\d+))?(\D*)")
_LARGEST = 1_000_000
# numbers that are dates, by how many digits they have; and what is before the last number of 2024-01-31
_DATES = {4: ("%Y",), 6: ("%Y%m", "%y%m%d"), 8: ("%Y%m%d",)}
_BEFORE_DAY = re.compile(r"(?:.*\D)?(\d{4})[-_.](?:(\d{2})[-_.])?")
_YEARS = range(1900, 2100)


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
        if not total and all(_is_date(before, digits) for digits in numbers.values()):
            continue
        width = len(next(iter(numbers.values())))
        missing = [number for number in range(first, last + 1) if number not in numbers]
        # what has more holes than files is no numbering
        if missing and (total or len(missing) <= len(numbers)):
            names = [f"{before}{number:0{width}}{of}{after}" for number in missing]
            findings.note(f"{folder or '.'}: numbered files that are missing: {some(names)}")


def _is_date(before: str, digits: str) -> bool:
    """Whether a number is a date, such as 20240131, or the end of one, as in 2024-01-31."""
    above = _BEFORE_DAY.fullmatch(before) if len(digits) == 2 else None
    text = "".join(filter(None, above.groups())) + digits if above else digits
    for form in _DATES.get(len(text), ()):
        with suppress(ValueError):
            if datetime.datetime.strptime(text, form).year in _YEARS:
                return True
    return False

"""Images in a column of a Parquet table: paths, contents of files, or both, as data sets of Hugging Face have them."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate, islice
from typing import Any

from involution.data.errors import DataError, nearest
from involution.data.paths import why_unreadable
from involution.engine.predictor import Encoded, SkippedImage
from involution.extras import require

# taken where none is named
_USUAL = ("image", "bytes", "path", "file", "file_name")
_SHOWN = 10
_ROWS = 64


def find_column(file: str, column: str | None = None) -> tuple[str, int, list[str]]:
    """The column with the images, the number of rows, and the other columns.

    Args:
        file: a Parquet file.
        column: its name; by default the first of the usual names that there is.

    Raises:
        DataError: for a file that is no such table, without such a column, or with one of another type.
        MissingExtra: where pyarrow is missing.
    """
    opened = _open(file)
    schema = opened.schema_arrow
    name = column or next((usual for usual in _USUAL if usual in schema.names), None)
    if name is None or schema.names.count(name) != 1:
        listed = ", ".join(schema.names[:_SHOWN]) + (", …" if len(schema.names) > _SHOWN else "")
        wanted = f"{name!r}{nearest(name, schema.names)}" if name else f"named {', '.join(_USUAL)}; name one: --column"
        raise DataError(f"{file}: no column {wanted} (it has {listed or 'none'})")
    kind = schema.field(name).type
    if not _is_text(kind) and not _is_bytes(kind) and not _is_both(kind):
        raise DataError(f"{file}: the column {name!r} holds {kind}; wanted paths (text) or contents of files (bytes)")
    return name, opened.metadata.num_rows, [other for other in schema.names if other != name]


def _open(file: str) -> Any:
    require("pyarrow")
    import pyarrow
    from pyarrow.parquet import ParquetFile

    why = why_unreadable(file)
    if why:
        raise DataError(f"{file}: {why}")
    try:
        # read in steps: else all of a column's rows that were written together come into memory
        return ParquetFile(file, buffer_size=2**20)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{file}: not a readable Parquet file ({_line(error)})") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _is_text(kind: Any) -> bool:
    import pyarrow.types as is_

    plain = kind.value_type if is_.is_dictionary(kind) else kind
    return bool(is_.is_string(plain) or is_.is_large_string(plain) or is_.is_string_view(plain))


def _is_bytes(kind: Any) -> bool:
    import pyarrow.types as is_

    return bool(is_.is_binary(kind) or is_.is_large_binary(kind) or is_.is_binary_view(kind))


def _is_both(kind: Any) -> bool:
    import pyarrow.types as is_

    if not is_.is_struct(kind):
        return False
    types = {kind.field(number).name: kind.field(number).type for number in range(kind.num_fields)}
    return "bytes" in types and _is_bytes(types["bytes"]) and ("path" not in types or _is_text(types["path"]))


class Table:
    """A column that is read forward, from any row on.

    Args:
        file: a Parquet file.
        column: what `find_column` returned.

    Attributes:
        holds_paths: whether it has paths alone.

    Raises:
        DataError: for a file that can't be opened.
    """

    def __init__(self, file: str, column: str) -> None:
        self.file, self.column = file, column
        self._opened = _open(file)
        self.holds_paths = _is_text(self._opened.schema_arrow.field(column).type)
        metadata = self._opened.metadata
        groups = range(metadata.num_row_groups)
        # the first row of each group, and behind the last
        self._firsts = [0, *accumulate(metadata.row_group(group).num_rows for group in groups)]
        self._values: Iterator[Any] = iter(())
        # the row that comes next; before the first reading none does
        self._next = -1

    def images(self, start: int, count: int) -> Iterator[str | Encoded | SkippedImage]:
        """The images of some rows: paths, contents, or why there is none."""
        read = 0
        try:
            for value in islice(self._rows(start), count):
                self._next = start + read + 1
                item = self._image(start + read, value)
                read += 1
                yield item
            why = "the table ends before"
        # whatever the library makes of damaged pages
        except Exception as error:
            why = _line(error)
        self._next = -1 if read < count else self._next
        for row in range(start + read, start + count):
            yield SkippedImage(self._name(row), f"its row can't be read ({why})", "unreadable")

    def _rows(self, start: int) -> Iterator[Any]:
        """The values from a row on: of the reading that goes on, where no row group need be skipped."""
        group = bisect_right(self._firsts, start) - 1
        if not self._firsts[group] <= self._next <= start:
            self._values, self._next = self._read(group), self._firsts[group]
        return islice(self._values, start - self._next, None)

    def _read(self, group: int) -> Iterator[Any]:
        groups = range(group, self._opened.metadata.num_row_groups)
        for batch in self._opened.iter_batches(_ROWS, row_groups=groups, columns=[self.column], use_threads=False):
            yield from batch.column(0)

    def _name(self, row: int) -> str:
        return f"{self.file}:{row}"

    def _image(self, row: int, scalar: Any) -> str | Encoded | SkippedImage:
        try:
            value = scalar.as_py()
        except ValueError as error:
            # a text that is none
            return SkippedImage(self._name(row), f"its row can't be read ({_line(error)})", "unreadable")
        if isinstance(value, dict):
            value = value.get("path") if value.get("bytes") is None else value["bytes"]
        if value is None:
            return SkippedImage(self._name(row), "its row has no image", "missing")
        if isinstance(value, bytes):
            return Encoded(self._name(row), value)
        if "://" in value:
            return SkippedImage(value, "an address; only local files are read", "address")
        return os.path.join(os.path.dirname(self.file), value)

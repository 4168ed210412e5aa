"""Parts of a large prediction: the rows of some images, in one file that is written whole or not at all."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from involution.data.errors import DataError
from involution.data.noticed import Noticed
from involution.engine.files import atomic_path
from involution.engine.predictor import Encoded, Predictor, SkippedImage
from involution.predict.inputs import Part, Piece
from involution.predict.manifest import checksum
from involution.predict.tables import Table

_FIRST = {"index": "int", "file": "text"}
_LAST = {"error_kind": "text", "error": "text"}
# rows of a Parquet file that wait in memory, and become a row group
_GROUP = 256

Row = dict[str, Any]
Write = Callable[[Row], None]


def file_name(number: int, format: str) -> str:
    """The name of a part's file."""
    return f"part-{number:06}.{format}"


class PartRunner:
    """Predicts parts, one after the other.

    Args:
        predictor: what is used on the images.
        folder: where the files of the parts go.
        format: of these files, one of `FORMATS`.
        options: of the prediction.
    """

    def __init__(self, predictor: Predictor[Any], folder: Path, format: str, options: Mapping[str, Any]) -> None:
        self.predictor, self.folder, self.format, self.options = predictor, folder, format, options
        self._table: Table | None = None

    def run(self, part: Part) -> dict[str, Any]:
        """Write the rows of a part.

        Returns:
            What the record of finished parts says of it.

        Raises:
            OSError: if the file can't be written.
        """
        name = file_name(part.number, self.format)
        types = {**_FIRST, **self.predictor.row_types, **_LAST}
        errors: Counter[str] = Counter()
        noticed = Noticed()
        images = (image for piece in part.pieces for image in self._images(piece))
        with (
            atomic_path(self.folder / name, replace=True) as temporary,
            FORMATS[self.format](temporary, types) as write,
        ):
            results = self.predictor.stream(images, noticed=noticed, **self.options)
            for index, result in zip(range(part.start, part.start + part.count), results, strict=True):
                write(self._row(index, result, types))
                errors.update([result.kind] if isinstance(result, SkippedImage) else [])
        file = self.folder / name
        found = file.stat()
        line = {"part": part.number, "file": name, "rows": part.count, "bytes": found.st_size, "errors": dict(errors)}
        line |= {"modified": found.st_mtime_ns, "crc32": checksum(file)}
        return {**line, "stamps": part.stamps, "noticed": noticed.to_dict()}

    def _images(self, piece: Piece) -> Iterator[str | Encoded | SkippedImage]:
        if piece.files:
            yield from piece.files
        elif piece.column:
            if self._table is None or (self._table.file, self._table.column) != (piece.source, piece.column):
                self._table = Table(piece.source, piece.column)
            yield from self._table.images(piece.start, piece.count)
        else:
            yield from _members(piece)

    def _row(self, index: int, result: Any, types: Mapping[str, str]) -> Row:
        row: Row = dict.fromkeys(types)
        row |= {"index": index, "file": result.file}
        if isinstance(result, SkippedImage):
            row |= {"error_kind": result.kind, "error": result.reason}
        else:
            row |= result.row()
        return {name: _as_text(value) for name, value in row.items()}


def _as_text(value: Any) -> Any:
    """A value whose texts can be written as UTF-8, which the names of files need not be."""
    if isinstance(value, list) and value and isinstance(value[0], str):
        return [_as_text(item) for item in value]
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _members(piece: Piece) -> Iterator[Encoded | SkippedImage]:
    """The images of a tar file; what can't be read any more is told of each."""
    from involution.data.shards import shard_images

    shard, read = Path(piece.source), 0
    why = "the file is shorter than before"
    try:
        with shard.open("rb") as file:
            for image in islice(shard_images(shard, piece.header), piece.count):
                file.seek(image.offset)
                content = file.read(image.size)
                read += 1
                yield Encoded(f"{shard}:{image.name}", content)
    except (DataError, OSError) as error:
        why = getattr(error, "strerror", None) or str(error)
    for place in range(piece.start + read, piece.start + piece.count):
        yield SkippedImage(f"{shard}:{place}", f"its shard can't be read ({why})", "unreadable")


@contextmanager
def _jsonl(path: Path, types: Mapping[str, str]) -> Iterator[Write]:
    def plain(value: Any) -> str:
        return base64.b64encode(value).decode("ascii")

    with path.open("w", encoding="utf-8") as file:
        yield lambda row: print(json.dumps(row, ensure_ascii=False, default=plain), file=file)


@contextmanager
def _parquet(path: Path, types: Mapping[str, str]) -> Iterator[Write]:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    schema = pyarrow.schema([(name, _arrow_type(word)) for name, word in types.items()])
    waiting: list[Row] = []

    def flush() -> None:
        writer.write_batch(pyarrow.RecordBatch.from_pylist(waiting, schema))
        waiting.clear()

    def write(row: Row) -> None:
        waiting.append(row)
        if len(waiting) == _GROUP:
            flush()

    with path.open("wb") as file, ParquetWriter(file, schema) as writer:
        yield write
        if waiting:
            flush()


def _arrow_type(word: str) -> Any:
    import pyarrow

    if word.startswith("list of "):
        return pyarrow.list_(_arrow_type(word.removeprefix("list of ")))
    types = {"int": pyarrow.int64, "float": pyarrow.float64, "text": pyarrow.string, "bytes": pyarrow.binary}
    return types[word]()


# by the ending of the files
FORMATS = {"parquet": _parquet, "jsonl": _jsonl}

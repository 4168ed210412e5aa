"""WebDataset shards: tar files whose members of one name belong together, `0001.jpg` beside `0001.cls`."""

from __future__ import annotations

import functools
import io
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from involution.data.addresses import StorageError, is_remote, open_parts, read_range, stamp
from involution.data.contents import Stored
from involution.data.errors import DataError
from involution.data.fields import tell_unread
from involution.data.findings import Findings, some
from involution.data.images import CHECK_LIMIT, EXTENSIONS, Header, ImageError, Reading, look, read_image
from involution.data.noticed import tell_headers
from involution.data.paths import why_unreadable
from involution.data.walk import is_rubbish

if TYPE_CHECKING:
    from PIL.Image import Image

_IMAGES = tuple(suffix[1:] for suffix in EXTENSIONS)
_BLOCK = 512
# what may follow the last member: tar files are filled up to records, of 10 kB by default
_TAIL = 2**18
# and how many bytes of that there are by default at most: a record, and the two blocks of the end
_USUAL = 10_240 + 2 * _BLOCK
# bytes of a shard at an address that are read at once for its index: a header, a label and the next header
_PART = 4096
_AT_ONCE = 16
# headers that hold a long name or further fields, and their largest size
_FIELDS = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
_MAX_HEADER = 1_000_000


class _Member(tarfile.TarInfo):
    """A header whose size can be true."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        found = super().frombuf(buf, encoding, errors)
        if found.size < 0 or (found.type in _FIELDS and found.size > _MAX_HEADER):
            raise DataError(f"{found.name}: a size of {found.size:,} bytes")
        return found


class ShardDataset(Dataset[tuple[Any, int]]):
    """The images of shards, reached by an index of the tar headers; of those at addresses nothing else is read before.

    Through the index a shard is read at any place, so that shuffling, resuming and sharing among devices are
    as exact as with folders. Only image bytes and the digits of `.cls` members are read: nothing is unpickled.

    Args:
        shards: tar files.
        num_classes: labels must be below it.
        findings: told which members are not read.
        reading: how images are read.
    """

    def __init__(
        self, shards: Sequence[Path], num_classes: int, findings: Findings, reading: Reading | None = None
    ) -> None:
        # (shard, offset, size, key) of each image
        self.entries: list[tuple[int, int, int, str]] = []
        self.labels: list[int] = []
        self.shards = list(shards)
        self.reading = reading or Reading()
        others: Counter[str] = Counter()
        tails: list[Path] = []
        for number, found in enumerate(_indexes(self.shards, num_classes)):
            self.entries += [(number, offset, size, key) for offset, size, key in found.images]
            self.labels += found.labels
            others += found.others
            tails += [self.shards[number]] if found.tail else []
            for key, reason in found.problems:
                findings.problem(f"{self.shards[number]}:{key}", reason)
        if not self.entries:
            kinds = ", ".join(kind for kind, _ in others.most_common(3))
            came = f"; found {kinds}, for a suffix begins at the first dot of a name" if others else ""
            came = f": {findings.problems[0]}" if findings.problems else came
            raise DataError(f"{self.shards[0]}: no samples; wanted members such as 0001.jpg with 0001.cls{came}")
        self._check(findings)
        tell_tails(tails, findings)
        tell_unread(others, "members", f"{self.shards[0].name} and similar", findings)

    def _check(self, findings: Findings) -> None:
        """Look at the headers of the images, so that a broken one shows before the training."""
        where = self.shards[0].name
        if len(self) > CHECK_LIMIT or is_remote(self.shards[0]):
            findings.note(f"{where} and similar: {len(self):,} images, which are not checked beforehand")
            return

        def header(index: int) -> Header | str:
            name = self.name_of(index)
            try:
                return look(self.stored(index).open(), self.reading, name)
            except (ImageError, OSError) as error:
                return str(error).removeprefix(f"{name}: ")

        with ThreadPoolExecutor(8) as pool:
            headers = list(pool.map(header, range(len(self))))
        for index, found in enumerate(headers):
            if isinstance(found, str):
                findings.problem(self.name_of(index), found)
        whole = [index for index, found in enumerate(headers) if not isinstance(found, str)]
        named = [(Path(self.name_of(index)), headers[index]) for index in whole]
        tell_headers(named, self.reading, findings, where if len(self.shards) == 1 else f"{where} and similar")
        self.entries, self.labels = ([items[index] for index in whole] for items in (self.entries, self.labels))  # type: ignore[assignment]

    def stored(self, index: int) -> Stored:
        """Where the bytes of an image are."""
        number, offset, size, _ = self.entries[index]
        return Stored(self.shards[number], offset, size)

    def __len__(self) -> int:
        return len(self.entries)

    def name_of(self, index: int) -> str:
        """What messages call an image."""
        number, _, _, key = self.entries[index]
        return f"{self.shards[number]}:{key}"

    def __getitem__(self, index: int) -> tuple[Image, int]:
        number, offset, size, _ = self.entries[index]
        try:
            content = read_range(self.shards[number], offset, size)
        except OSError as error:
            raise ImageError(f"{self.name_of(index)}: can't be read ({error.strerror or error})") from error
        return read_image(content, name=self.name_of(index), reading=self.reading), self.labels[index]


@dataclass(frozen=True)
class _Index:
    """What one shard holds: offset, size and key of each image, its label, and kinds of members that are not read.

    And whether more empty bytes follow than is usual, and which samples can't be used and why.
    """

    images: list[tuple[int, int, str]]
    labels: list[int]
    others: Counter[str]
    tail: bool
    problems: list[tuple[str, str]]


def _indexes(shards: Sequence[Path], num_classes: int) -> Iterator[_Index]:
    index = functools.partial(_index, num_classes=num_classes)
    if not is_remote(shards[0]):
        yield from map(index, shards)
        return
    # an answer from far takes its time
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        yield from pool.map(index, shards)
    finally:
        pool.shutdown(cancel_futures=True)


def _index(shard: Path, num_classes: int) -> _Index:
    from webdataset.tariterators import base_plus_ext

    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, str] = {}
    others: Counter[str] = Counter()
    tails: list[Path] = []
    wrong: dict[str, str] = {}
    for archive, member in _members(shard, tails=tails):
        other = _other(member, (*_IMAGES, "cls"))
        if other:
            others[other] += 1
            continue
        key, extension = base_plus_ext(member.name)
        kind = extension.lower()
        if member.issparse():
            wrong[key] = f"its .{kind} is stored sparse, which can't be read; pack it again"
        elif key in (images if kind in _IMAGES else labels):
            wrong[key] = f"has several {'images' if kind in _IMAGES else '.cls members'}"
        elif kind == "cls":
            labels[key] = _label(archive, member)
        else:
            images[key] = (member.offset_data, member.size)
    for key in dict.fromkeys((*images, *labels)):
        if key in wrong:
            continue
        if key not in images:
            wrong[key] = "has a .cls member, but no image"
        elif not images[key][1]:
            wrong[key] = "the image is empty (0 bytes)"
        elif key not in labels:
            wrong[key] = "has no .cls member"
        elif not labels[key].isdigit() or int(labels[key]) >= num_classes:
            wrong[key] = f"its .cls holds {labels[key]!r}; wanted a class number from 0 to {num_classes - 1}"
    places = [(offset, size, key) for key, (offset, size) in images.items() if key not in wrong]
    return _Index(places, [int(labels[key]) for *_, key in places], others, bool(tails), list(wrong.items()))


@dataclass(frozen=True)
class ShardImage:
    """An image in a shard, which need not have a label.

    Attributes:
        name: of the member.
        header: byte at which what belongs to it begins.
        offset: byte at which its content begins.
        size: of the content in bytes.
    """

    name: str
    header: int
    offset: int
    size: int


def tell_tails(shards: Sequence[Path], findings: Findings) -> None:
    """Say which shards end with more empty bytes than is usual."""
    if shards:
        findings.note(
            f"tar files that end with more empty bytes than is usual: {some([shard.name for shard in shards])}; they "
            "are read, but may lack images, as where a download was broken off"
        )


def shard_images(
    shard: Path, start: int = 0, others: Counter[str] | None = None, tails: list[Path] | None = None
) -> Iterator[ShardImage]:
    """The images of a shard in their order, whatever lies beside them.

    Args:
        shard: a tar file.
        start: the `header` of the first one.
        others: counts the members that are none, by kind.
        tails: gets the shard if more empty bytes follow than is usual.

    Raises:
        DataError: for a file that is none, or broken anywhere.
    """
    for _, member in _members(shard, start, tails):
        other = _other(member, _IMAGES) or ("stored sparse" if member.issparse() else "")
        if not other:
            yield ShardImage(member.name, member.offset, member.offset_data, member.size)
        elif others is not None:
            others[other] += 1


def _other(member: tarfile.TarInfo, wanted: Sequence[str]) -> str:
    """What a member is of none of these suffixes, or nothing."""
    from webdataset.tariterators import base_plus_ext

    if any(is_rubbish(part) for part in PurePosixPath(member.name).parts):
        return "left by an operating system"
    if not member.isfile():
        return "folders and links"
    key, extension = base_plus_ext(member.name)
    if key is None or not extension:
        return "no suffix"
    return "" if extension.lower() in wanted else f".{extension.lower()}"


def _members(
    shard: Path, start: int = 0, tails: list[Path] | None = None
) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The members of a tar file, from a header to its very end.

    Raises:
        DataError: for a file that is none, or broken anywhere: the library ends in silence at a broken header, at an
            empty block, whatever follows it, and where a file is cut off between two members.
    """
    why = why_unreadable(shard)
    if why:
        raise DataError(f"{shard}: {why}")
    length, _ = stamp(shard)
    end, whole = 0, True
    try:
        with open_parts(shard, _PART) as file, _archive(file, start) as archive:
            for member in archive:
                # links and folders have no content, whatever size they claim
                size = member.size if member.isfile() and not member.issparse() else 0
                if size < 0 or member.offset_data + size > length:
                    raise DataError(f"{shard}: {member.name} claims {member.size:,} bytes, more than the file has left")
                end = member.offset_data + -(-size // _BLOCK) * _BLOCK
                whole = not member.issparse()
                yield archive, member
                # the library would keep a kilobyte of each
                archive.members.clear()  # type: ignore[attr-defined]
        rest = read_range(shard, end, max(0, min(_TAIL, length - end)))
    except StorageError as error:
        raise DataError(f"{shard}: {error.strerror}") from error
    except DataError as error:
        raise DataError(str(error) if str(error).startswith(str(shard)) else f"{shard}: {error}") from error
    except Exception as error:
        # whatever the library makes of hostile headers
        raise DataError(f"{shard}: not a readable, uncompressed tar file ({error})") from error
    why = _why_not_ended(rest, end, length) if whole else ""
    if why:
        raise DataError(f"{shard}: {why}")
    if tails is not None and whole and length - end > _USUAL:
        tails.append(shard)


def _why_not_ended(rest: bytes, end: int, length: int) -> str:
    """What is wrong with what follows the last member of a tar file of this length; "" for nothing."""
    if rest[:_BLOCK].strip(b"\0"):
        return f"a broken header at byte {end:,}, behind the last member that can be read"
    place = len(rest) - len(rest.lstrip(b"\0"))
    if place < len(rest):
        return (
            f"more follows at byte {end + place:,}, behind the end of the archive: tar files that were joined are read "
            "to the end of the first; keep them apart, or unpack all (tar --ignore-zeros) and pack them again"
        )
    if length - end > _TAIL:
        return (
            f"ends with {length - end:,} empty bytes, as a file whose download was broken off; fetch or pack it again"
        )
    if len(rest) < _BLOCK:
        return "lacks the empty blocks that a tar file ends with: it may be cut off; fetch or pack it again"
    return ""


def _archive(file: io.BufferedIOBase, start: int) -> tarfile.TarFile:
    file.seek(start)
    return tarfile.open(fileobj=file, mode="r:", tarinfo=_Member)


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    # a class number has few digits: never read more of a file that claims to be one
    stream = archive.extractfile(member)
    return stream.read(32).decode("ascii", "replace").strip() if stream is not None else ""

"""Files of published weights on this machine: found, downloaded once, converted once, and checked at every use."""

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from involution.models.checkpoint import convert_checkpoint
from involution.models.errors import CheckpointError, WeightsError
from involution.models.readers import read_metadata
from involution.models.weights.download import download, remove
from involution.models.weights.table import PublishedWeights, find, nearest, published

SOURCE = "INVOLUTION_WEIGHTS"


def cache_folder() -> Path:
    """Return the folder of downloaded weights: torch.hub's, which ``TORCH_HOME`` moves."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def given_source() -> Path | str | None:
    """Return the folder, or the address of one, that ``INVOLUTION_WEIGHTS`` names; None without.

    Raises:
        WeightsError: It names no folder.
    """
    words = os.environ.get(SOURCE, "").strip()
    if not words:
        return None
    if words.lower().startswith(("http://", "https://")):
        return words.rstrip("/")
    folder = Path(words).expanduser()
    if not folder.is_dir():
        raise WeightsError(f"{SOURCE} is {words}, which is no folder; wanted a folder with the files, or an address")
    return folder


def locate(path: str | os.PathLike[str]) -> Path:
    """Return the file of weights that a user named: a path as it is, published weights from where `get` has them.

    A file goes before published weights of the same name; ``./rednet50`` is a path in any case.

    Args:
        path: Of a file, or a name such as ``rednet50``.

    Raises:
        WeightsError: Published weights that can't be had, or a word that is nearly the name of some.
    """
    file = Path(path)
    if file.is_file():
        return file
    if published(path):
        return get(str(path))
    close = None if file.exists() or file.suffix in (".ckpt", ".pth", ".safetensors") else nearest(str(path))
    if close:
        raise WeightsError(f"no such checkpoint: {path}; did you mean the published weights {close}?")
    return file


def get(name: str, *, folder: str | os.PathLike[str] | None = None, again: bool = False) -> Path:
    """Return the file of published weights, converted to safetensors in this package's layout.

    The first call downloads it, checks it, converts it and keeps its hash, in one process alone; the others wait. Where
    ``INVOLUTION_WEIGHTS`` names a folder, files of the same names in it are used and nothing is downloaded; where it
    names an address, they are downloaded from there.

    Args:
        name: Of the weights, with or without its tag.
        folder: Where they are kept; by default `cache_folder`.
        again: Get it anew; a file in a folder that ``INVOLUTION_WEIGHTS`` names is converted anew.

    Raises:
        WeightsError: No such weights, they can't be had (the message says what to do by hand), or what came is not
            what was published: then nothing of it is kept.
        OSError: A file can't be written.
    """
    entry = find(name)
    cache = Path(folder) if folder else cache_folder()
    source = given_source()
    if isinstance(source, Path):
        ready, original = source / entry.converted, source / entry.file
        if ready.is_file():
            _checked(ready)
            return ready
        if original.is_file():
            return _converted(entry, original, _checked(original, entry.sha256), cache, again)
    if not again and (found := _unlocked(entry, cache)):
        return found
    if isinstance(source, Path):
        raise WeightsError(f"{entry.file} is not in {source}, the folder of {SOURCE}. {by_hand(entry, source)}")
    address = f"{source}/{entry.file}" if source else entry.address
    with _alone(entry, cache):
        original = cache / entry.file
        if again:
            for file in (original, cache / entry.converted):
                file.unlink(missing_ok=True)
                _record(file).unlink(missing_ok=True)
        elif found := _found(entry, cache):
            return found
        if not original.is_file():
            _download(entry, address, original)
        return _convert(entry, original, _checked(original, entry.sha256), cache)


def present(entry: PublishedWeights) -> Path | None:
    """Return the file of published weights that is on this machine, without checking it."""
    source = given_source()
    folders = [source] if isinstance(source, Path) else []
    places = [folder / name for folder in (*folders, cache_folder()) for name in (entry.converted, entry.file)]
    return next((place for place in places if place.is_file()), None)


def named(path: str | os.PathLike[str]) -> PublishedWeights | None:
    """Return the published weights that a user named: by their name, or by a file that was converted from them."""
    file = Path(path)
    if not file.is_file():
        return published(path)
    return published(read_metadata(file).get("weights", "")) if file.suffix == ".safetensors" else None


def by_hand(entry: PublishedWeights, folder: Path) -> str:
    """Return what to do where there is no internet, one sentence."""
    other = "" if os.environ.get(SOURCE) else f", or to a folder that {SOURCE}=FOLDER names"
    return (
        f"By hand: download {entry.address} on a machine with internet and copy {entry.file} to {folder}{other}; "
        f"{entry.converted}, which `involution weights get {entry.model}` makes there, does as well"
    )


def _unlocked(entry: PublishedWeights, cache: Path) -> Path | None:
    try:
        return _found(entry, cache)
    except WeightsError:
        # another process may be replacing it
        with _alone(entry, cache):
            return _found(entry, cache)


def _found(entry: PublishedWeights, cache: Path, sha256: str | None = None) -> Path | None:
    """The converted file, if it is there and, where a hash is given, was made from the file with that hash."""
    ready = cache / entry.converted
    if not ready.is_file():
        return None
    _checked(ready)
    made_from = read_metadata(ready).get("source_sha256")
    if entry.sha256 not in (None, made_from):
        raise WeightsError(f"{ready} was made from another file than was published. {_anew(entry)}")
    return ready if sha256 in (None, made_from) else None


def _converted(entry: PublishedWeights, original: Path, sha256: str, cache: Path, again: bool) -> Path:
    if not again and (found := _found(entry, cache, sha256)):
        return found
    with _alone(entry, cache):
        found = None if again else _found(entry, cache, sha256)
        return found or _convert(entry, original, sha256, cache)


def _download(entry: PublishedWeights, address: str, original: Path) -> None:
    """Download the published file; it is only kept if it can be converted."""
    part = original.with_name(f"{original.name}.part")
    try:
        download(address, part, most_bytes=entry.most_bytes, title=entry.name)
    except WeightsError as error:
        raise WeightsError(f"{entry.name} can't be downloaded: {error}. {by_hand(entry, original.parent)}") from error
    try:
        sha256 = file_sha256(part)
        if entry.sha256 not in (None, sha256):
            raise WeightsError(f"its sha256 is {sha256}, wanted {entry.sha256}")
        _convert(entry, part, sha256, original.parent)
        _keep(original, sha256)
        os.replace(part, original)
    except CheckpointError as error:
        said = str(error).removeprefix(str(part)).lstrip(": ")
        raise WeightsError(f"what came from {address} is refused and was deleted: {said}") from error
    finally:
        remove(part)


def _convert(entry: PublishedWeights, original: Path, sha256: str, cache: Path) -> Path:
    """Convert a file of weights and keep the hash of the result."""
    ready = cache / entry.converted
    making = cache / f".{entry.name}.{os.getpid()}.safetensors"
    told = {"weights": entry.name, "source_sha256": sha256, "license": entry.license, "origin": entry.origin}
    try:
        report = convert_checkpoint(original, making, overwrite=True, metadata=told)
        got, wanted = (report.model, report.num_classes, report.in_chans), (entry.model, entry.num_classes, 3)
        if got != wanted:
            raise CheckpointError(
                f"{original}: wanted a {wanted[0]} for {wanted[1]} classes and {wanted[2]} channels, "
                f"got a {got[0]} for {got[1]} and {got[2]}"
            )
        _keep(ready, file_sha256(making))
        os.replace(making, ready)
    finally:
        making.unlink(missing_ok=True)
    return ready


@contextmanager
def _alone(entry: PublishedWeights, cache: Path) -> Iterator[None]:
    """Wait until no other process works on these weights."""
    from filelock import FileLock, Timeout

    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = FileLock(cache / f".{entry.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"waiting for another process that gets {entry.name}", file=sys.stderr)
            lock.acquire()
    except OSError as error:
        raise OSError(
            error.errno, f"{error.strerror}; TORCH_HOME chooses another place for downloads", str(cache)
        ) from error
    try:
        yield
    finally:
        lock.release()


def _checked(file: Path, known: str | None = None) -> str:
    """The hash of a file, which has to be the one that was published or that is kept beside it."""
    found = file_sha256(file)
    wanted = known or _kept(file)
    if wanted not in (None, found):
        when = "as published" if known else "when it came"
        raise WeightsError(
            f"{file} is not what it was {when}: its sha256 is {found}, wanted {wanted}; delete it and get it again"
        )
    return found


def _anew(entry: PublishedWeights) -> str:
    return f"`involution weights get {entry.model} --again` gets it anew"


def _record(file: Path) -> Path:
    return file.with_name(f"{file.name}.sha256")


def _keep(file: Path, sha256: str) -> None:
    # as sha256sum writes it, so that sha256sum -c checks it
    record = _record(file)
    temporary = record.with_name(f".{record.name}.{os.getpid()}.tmp")
    temporary.write_text(f"{sha256}  {file.name}\n", encoding="utf-8")
    os.replace(temporary, record)


def _kept(file: Path) -> str | None:
    try:
        words = _record(file).read_text(encoding="utf-8", errors="replace").split()
    except FileNotFoundError:
        return None
    return words[0].lower() if words else None


def file_sha256(file: Path) -> str:
    """The SHA-256 of a file."""
    found = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(2**20):
            found.update(chunk)
    return found.hexdigest()

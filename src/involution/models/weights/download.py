"""Downloading a file over HTTP: resumed where it broke off, never more than was announced, never a web page.

Why not a library: `torch.hub.download_url_to_file` and timm's downloads, which call it, neither resume nor retry nor
bound the size; pooch has no resume; huggingface_hub's `http_get` resumes, but is no public function of it and splices a
file that changed on the server. So this is urllib with a Range header that holds for the same file alone (If-Range).
"""

import errno
import http.client
import json
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from involution.models.errors import WeightsError

# seconds without a byte; tries that bring less than a megabyte; seconds of the first pause, which doubles
TIMEOUT, TRIES, PAUSE = 30.0, 5, 1.0
_ENOUGH, _CHUNK = 2**20, 2**18
# answers that may be better the next time
_PASSING = (408, 425, 429, 500, 502, 503, 504)


class _Passing(Exception):
    """A fault of the connection that the next try may not meet."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never away from an encrypted connection."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        allowed = ("https",) if urlsplit(req.full_url).scheme == "https" else ("http", "https")
        if urlsplit(newurl).scheme not in allowed:
            raise WeightsError(f"{req.full_url} leads to {newurl}, which is not followed: wanted {allowed[0]}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(address: str, part: Path, *, most_bytes: int, title: str) -> None:
    """Download a file; what an earlier call left unfinished is resumed if the server still has the same file.

    Args:
        address: Of the file, http or https.
        part: Where it goes. After a fault of the connection or Ctrl-C it keeps what has come.
        most_bytes: A larger file is refused.
        title: Of the progress bar, which is shown in a terminal.

    Raises:
        WeightsError: No connection, another answer than a file, or a file that is too large.
        OSError: The file can't be written; nothing of it stays.
    """
    # quick, and in every installation of torch where there is a tqdm; a bar that does nothing elsewhere
    from torch.utils.model_zoo import tqdm

    if urlsplit(address).scheme not in ("http", "https"):
        raise WeightsError(f"wanted an address of http or https, got {address}")
    tries = 0
    with tqdm(unit="B", unit_scale=True, unit_divisor=1000, desc=title, disable=None) as bar:
        while True:
            before = _size(part)
            try:
                with _whole_or_nothing(part):
                    return _try(address, part, most_bytes, bar)
            except _Passing as error:
                tries = tries + 1 if _size(part) - before < _ENOUGH else 1
                if tries >= TRIES:
                    kept = f"; the {_size(part) / 1e6:.1f} MB that came are kept for the next time"
                    raise WeightsError(f"{error} ({tries} tries{kept if _validator(part) else ''})") from error
                time.sleep(PAUSE * 2 ** (tries - 1))


def remove(part: Path) -> None:
    """Remove what a download has left."""
    part.unlink(missing_ok=True)
    _notes(part).unlink(missing_ok=True)


@contextmanager
def _whole_or_nothing(part: Path) -> Iterator[None]:
    """Leave nothing of a file that can't be written or that is refused."""
    try:
        yield
    except OSError as error:
        remove(part)
        why = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            why += "; TORCH_HOME chooses another place for downloads"
        raise OSError(error.errno, why, str(part.parent)) from error
    except WeightsError:
        remove(part)
        raise


def _try(address: str, part: Path, most_bytes: int, bar: Any) -> None:
    from involution import __version__

    headers = {"User-Agent": f"involution/{__version__}", "Accept-Encoding": "identity"}
    same = _validator(part)
    start = _size(part) if same else 0
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": str(same)}
    with _open(urllib.request.Request(address, headers=headers), part) as answer:
        _check_answer(answer, address)
        start = start if answer.status == 206 and _range_start(answer) == start else 0
        total = _total(answer, start)
        if total is not None and total > most_bytes:
            raise WeightsError(
                f"{address} is a file of {total / 1e6:.0f} MB, wanted at most {most_bytes / 1e6:.0f}: refused"
            )
        _check_room(part, (total or most_bytes) - start)
        _remember(part, answer)
        bar.total = total
        bar.n = start
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            for chunk in _chunks(answer):
                start += len(chunk)
                if start > (most_bytes if total is None else total):
                    raise WeightsError(f"{address} brings more bytes than it announced or may have: refused")
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and start < total:
        raise _Passing(f"{address} broke off after {start / 1e6:.1f} of {total / 1e6:.1f} MB")


@contextmanager
def _open(request: urllib.request.Request, part: Path) -> Iterator[Any]:
    """The answer to a request; what can't get better is a `WeightsError`, the rest `_Passing`."""
    address, host = request.full_url, urlsplit(request.full_url).netloc
    try:
        answer = urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            # more is here than the server has
            remove(part)
        if error.code in (*_PASSING, 416):
            raise _Passing(f"{address} answers {error.code} {error.reason}") from error
        raise WeightsError(f"{address} answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        reason = error.reason
        if isinstance(reason, TimeoutError | ConnectionResetError | ConnectionAbortedError):
            raise _Passing(f"no answer from {host} ({reason})") from error
        said = reason.strerror if isinstance(reason, OSError) and not isinstance(reason, ssl.SSLError) else reason
        raise WeightsError(f"no connection to {host} ({said or reason})") from error
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _Passing(f"no answer from {host} ({error or type(error).__name__})") from error
    with answer:
        yield answer


def _check_answer(answer: Any, address: str) -> None:
    if answer.status not in (200, 206):
        raise WeightsError(f"{address} answers {answer.status} {answer.reason}")
    if answer.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        where = "" if answer.url == address else f" ({answer.url})"
        raise WeightsError(f"{address} answers with a web page{where} in place of the file")


def _range_start(answer: Any) -> int | None:
    """Where the part of the file that was sent begins, by ``bytes 100-199/200``."""
    unit, _, span = answer.headers.get("Content-Range", "").partition(" ")
    start = span.partition("-")[0]
    return int(start) if unit == "bytes" and start.isdigit() else None


def _total(answer: Any, start: int) -> int | None:
    length = answer.headers.get("Content-Length", "")
    return start + int(length) if length.isdigit() else None


def _chunks(answer: Any) -> Iterator[bytes]:
    while True:
        try:
            chunk: bytes = answer.read(_CHUNK)
        except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            raise _Passing(f"{answer.url} broke off ({str(error) or type(error).__name__})") from error
        if not chunk:
            return
        yield chunk


def _check_room(part: Path, wanted: int) -> None:
    # as much again for what it is converted to
    if shutil.disk_usage(part.parent).free < 2 * wanted:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}, {2 * wanted / 1e6:.0f} MB are needed", None)


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _notes(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _remember(part: Path, answer: Any) -> None:
    """Keep what tells this file from another one at the same address."""
    tag = answer.headers.get("ETag", "")
    validator = answer.headers.get("Last-Modified") if not tag or tag.startswith("W/") else tag
    _notes(part).write_text(json.dumps(validator), encoding="utf-8")


def _validator(part: Path) -> str | None:
    try:
        found = json.loads(_notes(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, str) and found.isprintable() else None

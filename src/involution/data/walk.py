"""Finding the images below a folder, by what they hold and not by their names alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from involution.data.errors import DataError
from involution.data.findings import Findings
from involution.data.images import EXTENSIONS, is_image
from involution.data.paths import ARCHIVES, RECORD, is_folder, why_unreadable

# files of other kinds that lie beside images, known without a look inside
_OTHERS = (
    *(".txt", ".xml", ".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml", ".md", ".html", ".py", ".ipynb", ".ini"),
    *(".db", ".pdf", ".npy", ".npz", ".mat", ".pt", ".pth", ".ckpt", ".cache", ".mp4", ".mov", ".avi"),
)
NO_IMAGES = "no images"
# what scanners store
_VOLUMES = (".dcm", ".dicom", ".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")
_MEDICAL = "medical images (DICOM, NIfTI), which are not read; save them as PNG"
_READ = "links to folders that are read already"
# what operating systems and network drives leave in folders, in lower case
_RUBBISH = ("thumbs.db", "ehthumbs.db", "desktop.ini", ".ds_store", "icon\r")
# copies that editors and exiftool keep of a file beside it: a.jpg~, a.jpg_original, a.jpg.bak
_BACKUP = re.compile(r"(.+?)~+|(.+\.\w+?)(?:_original|\.(?:bak|orig|old)\d*)", re.IGNORECASE)
_RUBBISH_FOLDERS = ("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found")


def is_rubbish(name: str) -> bool:
    """Whether a file or folder of this name is one that operating systems leave anywhere."""
    return name.lower() in (*_RUBBISH, *_RUBBISH_FOLDERS) or name.startswith("._")


def why_no_image(path: Path) -> str:
    """Why a file or folder is not taken for an image, in words; "" for one that is."""
    name, suffix = path.name, path.suffix.lower()
    if is_rubbish(name):
        return "left by an operating system"
    if name.startswith("."):
        return "hidden"
    if (backup := _BACKUP.fullmatch(name)) and path.with_name(backup[1] or backup[2]).exists():
        return "backup copies"
    if suffix in EXTENSIONS or (suffix not in (*_OTHERS, *ARCHIVES) and is_image(path)):
        return ""
    why = why_unreadable(path, empty=True) or (_MEDICAL if name.lower().endswith(_VOLUMES) else "")
    return why or ("archives, which are not unpacked" if suffix in ARCHIVES else NO_IMAGES)


def images_below(
    folder: Path, findings: Findings | None = None, root: Path | None = None, deep: bool = True
) -> list[Path]:
    """The image files in and below a folder, sorted.

    A file with a known suffix counts as an image, whatever it holds; any other counts where its content is one. Links
    to folders are followed, each folder once.

    Args:
        folder: the folder.
        findings: told what was not taken, and why.
        root: the folder that names are told from; the folder itself by default.
        deep: look into the folders below, too.

    Raises:
        DataError: for a folder that can't be read.
    """
    findings = findings if findings is not None else Findings()
    root = root or folder
    found: list[Path] = []
    for path in _files(folder, set(), deep):
        known = is_rubbish(path.name) or path.name.startswith(".")
        why = _READ if not known and is_folder(path) else why_no_image(path)
        if why:
            findings.ignore(why, os.path.relpath(path, root))
        else:
            found.append(path)
    return sorted(found)


def subfolders(root: Path) -> list[str]:
    """Names of the folders in a folder, sorted.

    Left out are hidden ones, those of operating systems, links upwards, and what commands of this package made, such as
    runs/.
    """
    return sorted(
        entry.name
        for entry in root.iterdir()
        if not entry.name.startswith(".")
        and not is_rubbish(entry.name)
        and is_folder(entry)
        and not _leads_up(entry)
        and not _holds_runs(entry)
    )


def _holds_runs(folder: Path) -> bool:
    """Whether a folder is that of a training, or holds nothing but folders in which commands of this package worked."""
    # of a folder that may not be entered this says no
    if os.path.isfile(folder / RECORD):
        return (folder / "last.ckpt").is_file()
    found = False
    try:
        with os.scandir(folder) as entries:
            # a large class folder is left at its first image
            for entry in entries:
                if not entry.name.startswith("."):
                    found = os.path.isfile(os.path.join(entry.path, RECORD))
                    if not found:
                        return False
    except OSError:
        return False
    return found


def files_below(folder: Path, suffix: str, findings: Findings | None = None, skipped: str = "") -> list[Path]:
    """The files in and below a folder whose names end so, in any case, sorted; links to folders as in `images_below`.

    Args:
        folder: the folder.
        suffix: what their names end in.
        findings: told what was not taken, and why.
        skipped: a character; files and folders whose names begin with it are not taken either.

    Raises:
        DataError: for a folder that can't be read.
    """
    findings = findings if findings is not None else Findings()
    found: list[Path] = []
    for path in _files(folder, set(), True):
        name = os.path.relpath(path, folder)
        if is_rubbish(path.name):
            findings.ignore("left by an operating system", name)
        elif path.name.startswith("."):
            findings.ignore("hidden", name)
        elif skipped and any(part.startswith(skipped) for part in Path(name).parts):
            findings.ignore(f"names that begin with {skipped}", name)
        elif path.name.lower().endswith(suffix) and path.is_file():
            found.append(path)
        else:
            findings.ignore(_READ if is_folder(path) else f"no {suffix} files", name)
    return sorted(found)


def _files(folder: Path, seen: set[tuple[int, int]], deep: bool) -> Iterator[Path]:
    try:
        key = os.stat(folder)
        if (key.st_dev, key.st_ino) in seen:
            yield folder
            return
        seen.add((key.st_dev, key.st_ino))
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: can't be opened ({error.strerror or error})") from error
    for entry in entries:
        try:
            below = entry.is_dir()
        except OSError:
            below = False
        if below and not entry.name.startswith(".") and not is_rubbish(entry.name):
            if _leads_up(entry.path):
                yield Path(entry.path)
            elif deep:
                yield from _files(Path(entry.path), seen, deep)
        else:
            yield Path(entry.path)


def _leads_up(folder: str | os.PathLike[str]) -> bool:
    """Whether a link leads to a folder that it is in: what lies there beside it is no content of its own folder."""
    if not os.path.islink(folder):
        return False
    here, there = os.path.realpath(os.path.dirname(folder)), os.path.realpath(folder)
    return Path(here).is_relative_to(there)

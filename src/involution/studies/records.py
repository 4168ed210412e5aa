"""A study's folder: it knows which study it belongs to, and has a record of each run that ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from involution.engine.files import atomic_path, check_folder, make_folder
from involution.studies.errors import StudyError

MARKER = "study.json"


def check_study_folder(folder: Path) -> None:
    """See that a folder is a study's or free, without making it.

    Raises:
        StudyError: If it holds anything else.
        OSError: If it can't be made or written to.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise StudyError(f"{folder} holds files that are not a study's; choose another folder with --output")
    check_folder(folder)


def claim_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make a study's folder, or find that it is this study's already.

    Args:
        folder: Of the study.
        settings: What makes it this study and no other.

    Raises:
        StudyError: If the folder holds anything else.
    """
    marker = folder / MARKER
    if marker.is_file():
        found = difference(read(marker), settings)
        if found:
            raise StudyError(f"{folder} holds another study ({found}); choose another folder with --output")
        return
    check_study_folder(folder)
    make_folder(folder)
    write(marker, settings)


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return the first setting that differs, in words."""
    for key in sorted({*old, *new}):
        if key not in old or key not in new:
            return f"only one of the two has {key}"
        if old[key] != new[key]:
            return f"{key} is {old[key]} there, {new[key]} here"
    return ""


def read(path: Path) -> dict[str, Any]:
    """Return a record.

    Raises:
        StudyError: For a file that holds none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{path}: not valid JSON; remove it to repeat its run") from error
    if not isinstance(found, dict):
        raise StudyError(f"{path}: wanted the record of a run; remove it to repeat its run")
    return found


def read_record(path: Path, settings: Mapping[str, Any], **more: Any) -> dict[str, Any] | None:
    """Return what a run left when it ended, None where it did not end.

    Args:
        path: Of the record.
        settings: Of the run; the record has them under ``settings``.
        more: What else makes it this run; the record has it beside them.

    Raises:
        StudyError: If the record is of other settings, or can't be read.
    """
    if not path.is_file():
        return None
    found = read(path)
    there = {**found.get("settings", {}), **{key: found[key] for key in more if key in found}}
    if said := difference(there, {**settings, **more}):
        raise StudyError(f"{path} belongs to another study ({said}); choose another folder with --output")
    return found


def write(path: Path, found: Mapping[str, Any]) -> None:
    """Write a record in place of an earlier one."""
    with atomic_path(path, replace=True) as temporary:
        temporary.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

"""The formats of data sets: each registers itself, and is opened, recognised and listed by that alone."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from involution.data.addresses import is_address
from involution.data.errors import SKIP_HINT, DataError, nearest
from involution.data.images import Reading
from involution.data.paths import need_folder
from involution.data.records import SPLITS, DataSet


@dataclass(frozen=True)
class Options:
    """How a data set is opened, besides its place; a format takes what it knows.

    Args:
        on_problem: ``refuse`` a data set with malformed entries, or ``skip`` these; either way they are reported.
        split_seed: seed for drawing splits that the data set does not have.
        split_by: ``name`` draws each image by its name, so that an added one moves no other; ``draw`` has exact shares.
        split_copies: ``together`` keeps altered copies of one image, by their names, and files of equal content in one
            split when splits are drawn; ``apart`` draws them one by one.
        classes: file with the class names, one per line or a JSON list, instead of the data set's own.
        masks: check and decode the masks of boxes, too.
        only: the one split that is wanted, for an evaluation: the others need not be there, and a folder without splits
            is this one as a whole.
        allow_empty: whether a class may have no training image.
        exif: ``apply`` turns images upright as their EXIF orientation says, ``ignore`` takes the pixels as stored.
        value_range: the values that become black and white in files of more than 8 bits; None for the type's range.
        background: whether images without objects are trained on, too.
        ignore_index: value of a label map whose pixels neither train nor count.
        values: class of each value of a label map, such as ``{0: background, 255: lesion}``; None for places.
        given: whether a user set all this now, and should know what has no effect; not a checkpoint.
    """

    on_problem: str = "refuse"
    split_seed: int = 0
    split_by: str = "name"
    split_copies: str = "together"
    classes: str | None = None
    masks: bool = False
    only: str | None = None
    allow_empty: bool = False
    exif: str = "apply"
    value_range: tuple[float, float] | None = None
    background: bool = True
    ignore_index: int | None = 255
    values: Mapping[Any, str | None] | None = None
    given: bool = True

    @property
    def reading(self) -> Reading:
        """How the images are read."""
        return Reading(self.exif, self.value_range)

    def __post_init__(self) -> None:
        # a wrong setting shows before anything is looked for
        _ = self.reading
        if self.only is not None and self.only not in SPLITS:
            raise DataError(f"no split named {self.only!r}; wanted train, val or test")
        if self.on_problem not in ("refuse", "skip"):
            raise DataError(f"on_problem must be refuse or skip, got {self.on_problem!r}")

    @classmethod
    def of(cls, settings: Any, **more: Any) -> Options:
        """The options that an object has as attributes of the same names, such as a run's data settings.

        Args:
            settings: the object; what it lacks stays at its default.
            more: options that it does not decide.
        """
        names = [item.name for item in dataclasses.fields(cls)]
        return cls(**{name: getattr(settings, name) for name in names if hasattr(settings, name)} | more)


@dataclass(frozen=True)
class Format:
    """One format of data sets.

    Attributes:
        name: what a spec begins with.
        task: classify, detect or segment.
        syntax: of a spec: ``digits``, ``coco:PATH``, or ``digit-scenes[:PATH]`` where the path may be left out.
        description: one line for the help.
        open: from spec, its path ("" without) and options to the data set.
        recognises: whether a folder looks like this format.
        eval_split: the split that is measured unless another is named; None for what is usual in the task.
        lacking: what a folder that is not recognised lacks to be in this format, and what to do; "" for nothing known.
    """

    name: str
    task: str
    syntax: str
    description: str
    open: Callable[[str, str, Options], DataSet[Any]]
    recognises: Callable[[Path], bool] = lambda path: False
    eval_split: str | None = None
    lacking: Callable[[Path], str] = lambda path: ""


_FORMATS: dict[tuple[str, str], Format] = {}


def register(found: Format) -> Format:
    """Make a format known under its name, for its task.

    Raises:
        ValueError: if there is one of that name already.
    """
    key = (found.task, found.name)
    if key in _FORMATS:
        raise ValueError(f"{found.task} already has a format named {found.name}")
    _FORMATS[key] = found
    return found


def formats(task: str | None = None) -> list[Format]:
    """The registered formats of one task, or of all; the embedded ones first.

    Example:
        >>> [found.syntax for found in formats("segment")]
        ['digit-scenes[:PATH]', 'cityscapes:PATH', 'masks:PATH']
    """
    _load()
    found = [item for item in _FORMATS.values() if task in (None, item.task)]
    return sorted(found, key=lambda item: (item.task, _path_of(item) == "needed", item.name))


def format_help(task: str) -> str:
    """The formats of a task in one sentence, for the help of a setting."""
    return "; ".join(f"{found.syntax} ({found.description})" for found in formats(task))


def open_data(task: str, spec: str, options: Options | None = None) -> DataSet[Any]:
    """Open a data set.

    Args:
        task: classify, detect or segment.
        spec: ``KIND:PATH`` by one of `formats`, ``KIND`` for an embedded one, or the path of a folder whose format can
            be recognised.
        options: how it is opened.

    Returns:
        The data set, checked.

    Raises:
        DataError: for an unknown kind, a missing or needless path, and everything that the format refuses.
    """
    chosen, path = _chosen(task, spec)
    # a shell leaves the ~ behind a colon as it is
    options, path = options or Options(), os.path.expanduser(path)
    try:
        found = chosen.open(spec, path, options)
    except DataError as error:
        raise _with_hint(error, path) from error
    if spec == chosen.name and os.path.isdir(spec):
        found.findings.note(f"{spec} is the built-in data set; for the folder of that name: ./{spec}")
    for name in ("split_seed", "split_by", "split_copies"):
        if (
            options.only is None
            and options.given
            and name not in found.findings.drawn_by
            and getattr(options, name) != getattr(Options, name)
        ):
            found.findings.note(f"data.{name} has no effect: no splits of {spec} are drawn by it")
    return found


def _with_hint(error: DataError, path: str) -> DataError:
    """An error, and what the folder surely holds instead, if that is known."""
    from involution.data.foreign import foreign

    # single entries that are malformed say nothing of the format
    structure = path and not is_address(path) and SKIP_HINT not in str(error)
    hint = foreign(Path(path)) if structure else ""
    return type(error)(f"{error}; {hint}") if hint else error


def eval_split(task: str, spec: str) -> str | None:
    """The split of a data set that is measured unless another is named; None for what is usual in the task.

    Raises:
        DataError: as `open_data`, for a spec of no format.

    Example:
        >>> eval_split("classify", "imagenet:PATH"), eval_split("classify", "digits")
        ('val', None)
    """
    return _chosen(task, spec)[0].eval_split


def _chosen(task: str, spec: str) -> tuple[Format, str]:
    """The format of a spec, and its path."""
    known = {found.name: found for found in formats(task)}
    kind, colon, path = spec.partition(":")
    if kind not in known:
        return _recognised(task, spec), spec
    chosen = known[kind]
    wanted = _path_of(chosen)
    if wanted == "none" and path:
        raise DataError(f"{kind} takes no path, got {spec!r}")
    if not path and (wanted == "needed" or colon):
        raise DataError(f"{kind} needs a path: {chosen.syntax}")
    return chosen, path


def tasks_of(spec: str) -> list[str]:
    """The tasks that a spec's kind, or the folder that it names, has a format for."""
    kind = spec.partition(":")[0]
    named = [found.task for found in formats() if found.name == kind]
    folder = Path(spec).expanduser()
    if named or not spec or not folder.is_dir():
        return named
    return list(dict.fromkeys(found.task for found in formats() if found.recognises(folder)))


def unrecognised(spec: str, task: str | None = None) -> str:
    """What a folder in no recognised format lacks, or surely holds instead; "" for nothing that is known.

    Args:
        spec: the folder.
        task: the task that it was meant for; None for any.
    """
    from involution.data.foreign import foreign

    folder = Path(spec).expanduser()
    if not spec or not folder.is_dir():
        return ""
    return next(filter(None, (found.lacking(folder) for found in formats(task))), "") or foreign(folder)


def _path_of(found: Format) -> str:
    return "maybe" if found.syntax.endswith("]") else "needed" if ":" in found.syntax else "none"


def _recognised(task: str, spec: str) -> Format:
    known = formats(task)
    folder = Path(spec).expanduser()
    if spec and folder.is_dir():
        fitting = [found for found in known if found.recognises(folder)]
        if len(fitting) == 1:
            return fitting[0]
        names = [found.syntax for found in fitting or known]
        why = "could be several formats" if fitting else "is not in a recognised format"
        error = DataError(f"{spec} {why}; say which: {', '.join(names)}")
        hint = "" if fitting else unrecognised(spec, task)
        raise DataError(f"{error}; {hint}") if hint else error
    if spec and folder.is_file():
        need_folder(folder)
    kind = spec.partition(":")[0]
    elsewhere = [found.task for found in formats() if found.name == kind]
    hint = f"; {kind} is for {' and '.join(elsewhere)}" if elsewhere else nearest(kind, [item.name for item in known])
    raise DataError(
        f"no data set named {kind!r} for {task} (there are {', '.join(found.syntax for found in known)}){hint}"
    )


@functools.cache
def _load() -> None:
    package = importlib.import_module("involution.data.formats")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")

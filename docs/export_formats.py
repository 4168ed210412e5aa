"""The tables of what each format of exported files takes, from what is registered."""

from types import SimpleNamespace
from typing import Any

from involution.export.errors import ExportError
from involution.export.metadata import WEIGHTS
from involution.export.registry import Format, Settings, formats, get_task, tasks
from involution.extras import EXTRAS


def formats_table() -> str:
    """Return in Markdown what each format's files are and which settings it takes."""
    header = ["`--format`", "files", "`--runtime`", "needs", "`--int8`", "`--weights`", "other settings"]
    return _table(header, [_format(found) for found in formats().values()])


def tasks_table() -> str:
    """Return in Markdown what each task's files take and do, the same in every format."""
    header = ["task", "sizes that stay open", "`--size` fixes", "in the graph by `--with-preprocessing`, in this order"]
    return _table(header, [_task(name) for name in tasks()])


def _format(found: Format) -> list[str]:
    weights = [kind for kind in WEIGHTS if _takes(found, kind)]
    others = [f"`--{name}`" for name in found.options if name not in ("int8", "weights")]
    return [
        f"`{found.name}`",
        " and ".join(f"`{suffix}`" for suffix in (found.suffix, *found.beside)),
        f"`{found.runtime}`",
        _extra(*found.packages, *found.writers) or "PyTorch alone",
        ", with ".join(filter(None, ["yes", _extra(*found.quantisers)])) if "int8" in found.options else "no",
        ", ".join(weights),
        ", ".join(others) or "none",
    ]


def _takes(found: Format, kind: str) -> bool:
    if "weights" not in found.options:
        return kind == Settings().weights
    try:
        found.check(Settings(weights=kind))
    except ExportError:
        return False
    return True


def _extra(*packages: str) -> str:
    """The extras that bring packages, the first that lists each."""
    names = [next(name for name, extra in EXTRAS.items() if package in extra.packages) for package in packages]
    return " and ".join(f"`involution[{name}]`" for name in dict.fromkeys(names))


def _task(name: str) -> list[str]:
    found = get_task(name)
    # of a network that resizes its images
    card: Any = SimpleNamespace(input_size=(3, 1, 1))
    steps = ", ".join(step.replace("_", " ") for step in found.inside(card))
    return [name, ", ".join(found.opens), ", ".join(found.fixes) or "nothing: it sees one size", steps]


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))

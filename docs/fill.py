"""Writes the tables of README and of the site's pages from the files of results: ``python docs/fill.py``."""

import re
from pathlib import Path
from typing import Any

import guides
import results

from involution.studies.tables import Table

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NECKS = {
    "RedNet, convolution neck": "convolution neck",
    "RedNet, involution neck": "involution neck",
    "RedNet, involution neck and head": "involution neck and head",
}
_PLACE = re.compile(r"<!-- table: (\w+) -->\n.*?<!-- end -->", re.DOTALL)


def tables() -> dict[str, str]:
    """Return each table, in Markdown, by the name that it has in a page."""
    readme = {"networks": _networks(), "speed": _speed(), "detectors": _detectors()}
    return {**readme, **results.tables(), **guides.tables()}


def places(text: str) -> list[str]:
    """Return the names of the tables that a page has places for."""
    return _PLACE.findall(text)


def filled(text: str, tables: dict[str, str]) -> str:
    """Return a page's text with its tables as the results have them now.

    Args:
        text: With a comment ``<!-- table: NAME -->`` before each table and ``<!-- end -->`` behind it.
        tables: Of `tables`.

    Raises:
        ValueError: For a table that there is not.
    """
    for name in places(text):
        if name not in tables:
            raise ValueError(f"no table {name!r}; there are {', '.join(tables)}")
    return _PLACE.sub(lambda found: f"<!-- table: {found[1]} -->\n\n{tables[found[1]].strip()}\n\n<!-- end -->", text)


def _networks() -> str:
    rows = {row["model"]: row for row in results.rows("cost")}
    cells = []
    for depth in (26, 38, 50, 101, 152):
        rednet, twin = rows[f"rednet{depth}"], rows[f"rednet{depth}_conv"]
        cells.append(
            [
                f"`rednet{depth}`",
                *(f"{rednet[key] / scale:.2f}" for key, scale in (("parameters", 1e6), ("macs", 1e9))),
                f"{rednet['published_top1']:.2f} ({rednet['published_top1_paper']:.1f})",
                *(f"{twin[key] / scale:.2f}" for key, scale in (("parameters", 1e6), ("macs", 1e9))),
                f"{twin['published_top1']:.1f}",
                f"{rednet['p50_of_twin']:.2f}",
            ]
        )
    header = ["", "parameters, M", "MACs, G", "published top-1, % (in the paper)"]
    header += ["ResNet twin: parameters, M", "MACs, G", "published top-1, %", "RedNet's time ÷ twin's"]
    return _with_machine(Table("Networks", header, cells), rows["rednet50"], "inference at batch 1")


def _speed() -> str:
    row = results.rows("cpu")[0]
    return f"{results.bare(results.short())}\n\n{_machine(row)}"


def _detectors() -> str:
    cells = []
    for family, title in results.FAMILIES.items():
        rows = results.detectors(family)
        for measure in dict.fromkeys(row["measure"] for row in rows):
            ratios = {row["candidate"]: f"{row['p50_ratio']:.2f}" for row in rows if row["measure"] == measure}
            cells.append([f"{title}, {measure}", *(ratios.get(neck, "") for neck in NECKS)])
    return _with_machine(Table("Detectors", ["", *NECKS.values()], cells), rows[0], "batch 1")


def _with_machine(table: Table, row: dict[str, Any], also: str) -> str:
    return f"{results.bare(table)}\n\n{_machine(row)}, {also}"


def _machine(row: dict[str, Any]) -> str:
    return f"Measured on: {row['device']}, torch {row['torch']}"


if __name__ == "__main__":
    made = tables()
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8"), made), encoding="utf-8")

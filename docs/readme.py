"""Writes README's tables from the files in ``benchmarks/results/``: ``python docs/readme.py``."""

import re
from pathlib import Path
from typing import Any

import results

from involution.studies.tables import Table

README = Path(__file__).parent.parent / "README.md"
NECKS = {
    "RedNet, convolution neck": "convolution neck",
    "RedNet, involution neck": "involution neck",
    "RedNet, involution neck and head": "involution neck and head",
}


def tables() -> dict[str, str]:
    """Return each table of README, in Markdown, by the name that it has there."""
    return {"networks": _networks(), "speed": _speed(), "detectors": _detectors()}


def filled(text: str) -> str:
    """Return README's text with its tables as the results have them now."""
    for name, table in tables().items():
        begin = f"<!-- table: {name} -->\n"
        text, count = re.subn(f"{begin}.*?<!-- end -->", f"{begin}{table}\n<!-- end -->", text, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"README must have one place for the table {name!r}; it has {count}")
    return text


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
    return f"\n{_bare(results.short().markdown())}\n\n{_machine(row)}\n"


def _detectors() -> str:
    cells = []
    for family, title in results.FAMILIES.items():
        rows = results.rows(f"detection-{family}")
        for measure in dict.fromkeys(row["measure"] for row in rows):
            ratios = {row["candidate"]: f"{row['p50_ratio']:.2f}" for row in rows if row["measure"] == measure}
            cells.append([f"{title}, {measure}", *(ratios.get(neck, "") for neck in NECKS)])
    return _with_machine(Table("Detectors", ["", *NECKS.values()], cells), rows[0], "batch 1")


def _with_machine(table: Table, row: dict[str, Any], also: str) -> str:
    return f"\n{_bare(table.markdown())}\n\n{_machine(row)}, {also}\n"


def _machine(row: dict[str, Any]) -> str:
    return f"Measured on: {row['device']}, torch {row['torch']}"


def _bare(markdown: str) -> str:
    """Return a table without its title."""
    return markdown[markdown.index("|") :].strip()


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")

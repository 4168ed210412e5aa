"""What the site shows of other files: the tables, from the measurements' results, and the commands' --help."""

import contextlib
import csv
import io
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from involution import cli
from involution.studies import ablation, ablation_table, bench, cost_table, cpu_benchmark
from involution.studies.tables import Table

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
WORDS = (
    "measure",
    "layer",
    "candidate",
    "base",
    "model",
    "published_in",
    "axis",
    "setting",
    "accuracies",
    "split",
    "dtype",
    "kernels",
    "device",
    "torch",
)


def tables() -> dict[str, str]:
    """Return each table of the page of measured figures, in Markdown, by the name that it has there."""
    operator = rows("cpu_avx512_torch2.14.1.csv")
    cost = cost_table.table(rows("cost_cpu-avx512_torch2.14.1.csv"))
    found = {
        "measured_short": _short(operator),
        "measured_ratios": bench.ratio_table(operator),
        "measured_limits": bench.limit_table(bench.limits(operator)),
        "measured_layers": _layers(operator),
        "measured_targets": _targets(operator),
        "measured_count": _columns(cost, "Counted and published", range(7)),
        "measured_time": _columns(cost, "Measured", (0, 8, 9, 10, 11)),
        "measured_neck": _detection("detection_neck_cpu-avx512_torch2.14.1.csv", "The neck's finest level"),
        "measured_retinanet": _detection("detection_retinanet_cpu-avx512_torch2.14.1.csv", "RetinaNet"),
        "measured_faster_rcnn": _detection("detection_faster_rcnn_cpu-avx512_torch2.14.1.csv", "Faster R-CNN"),
        "measured_mask_rcnn": _detection("detection_mask_rcnn_cpu-avx512_torch2.14.1.csv", "Mask R-CNN"),
    }
    found["measured_ablate"] = ablation_table.table(
        ablation.load_study("paper"), rows("ablate_cpu-avx512_torch2.14.1.csv")
    )
    return {name: table.markdown() for name, table in found.items()}


def rows(name: str) -> list[dict[str, Any]]:
    """Return the rows of a file of results as they were measured: numbers as numbers, nothing for an empty cell."""
    with (RESULTS / name).open(encoding="utf-8", newline="") as file:
        return [{key: _value(key, cell) for key, cell in row.items() if cell} for row in csv.DictReader(file)]


def _value(key: str, cell: str) -> Any:
    if cell in ("True", "False"):
        return cell == "True"
    try:
        return cell if key in WORDS else int(cell) if cell.isdigit() else float(cell)
    except ValueError:
        return cell


def _columns(table: Table, title: str, chosen: Sequence[int]) -> Table:
    """Return some columns of a table that is too wide for a page."""
    header, *cells = ([row[column] for column in chosen] for row in (table.header, *table.rows))
    return Table(title, header, cells, table.labels)


def _short(found: list[dict[str, Any]]) -> Table:
    chosen = {
        "RedNet-50 ÷ ResNet-50, inference, batch norms folded": ("inference", "RedNet-50, folded"),
        "RedNet-50 ÷ ResNet-50, training step": ("training", "RedNet-50"),
        "RedNet-50 by unfold ÷ ResNet-50, inference": ("inference", "RedNet-50 by unfold"),
        "unfold ÷ involution, forward": ("forward", "unfold"),
        "unfold ÷ involution, forward and backward": ("forward+backward", "unfold"),
        "depthwise 7×7 convolution ÷ involution, forward": ("forward", "depthwise 7×7"),
    }
    batches = sorted({row["batch"] for row in found})
    cells = []
    for title, key in chosen.items():
        ratios = [
            [row["p50_ratio"] for row in found if (row["measure"], row["candidate"], row["batch"]) == (*key, batch)]
            for batch in batches
        ]
        cells.append([title, *(f"{statistics.median(some):.2f}" if some else "" for some in ratios)])
    return Table("Time ÷ time", ["", *(f"batch {batch}" for batch in batches)], cells)


def _layers(found: list[dict[str, Any]]) -> Table:
    names = ("involution", "depthwise 7×7", "unfold")
    times = {
        (row["layer"], row["batch"], row["measure"], row["candidate"]): f"{row['p50_ms']:.2f}"
        for row in found
        if row["measure"] in ("forward", "forward+backward")
    }
    keys = dict.fromkeys((layer, batch) for layer, batch, *_ in times)
    cells = [
        [
            layer,
            str(batch),
            *(times[layer, batch, mode, name] for mode in ("forward", "forward+backward") for name in names),
        ]
        for layer, batch in sorted(keys, key=lambda key: key[1])
    ]
    header = ["layer", "batch", *(f"{mode}: {name}" for mode in ("forward", "with backward") for name in names)]
    return Table("RedNet-50's different involution layers, ms (median)", header, cells)


def _targets(found: list[dict[str, Any]]) -> Table:
    cells = [
        [target.name, target.wanted, f"{target.measured:g}", "met" if target.met else "missed"]
        for target in cpu_benchmark.summary(found)
    ]
    return Table("Targets", ["what", "wanted", "measured", ""], cells)


def _detection(name: str, title: str) -> Table:
    cells = [
        [
            row["measure"],
            row["candidate"],
            f"{row['p50_ms']:,.0f} ({row['p20_ms']:,.0f}–{row['p80_ms']:,.0f})",
            f"{row['p50_ratio']:.2f} ({row['p20_ratio']:.2f}–{row['p80_ratio']:.2f})",
            f"{row['peak_bytes'] / 1e6:,.0f}",
        ]
        for row in rows(name)
    ]
    header = ["measure", "candidate", "ms (p20–p80)", f"÷ {rows(name)[0]['base']} (p20–p80)", "peak memory, MB"]
    return Table(f"{title}, one image of 800×1344 pixels", header, cells, labels=2)


def commands() -> str:
    """Return a section for each command with what its --help prints."""
    sections = []
    for words in cli.COMMANDS:
        out = io.StringIO()
        before = os.environ.get("COLUMNS")
        os.environ["COLUMNS"] = "88"
        try:
            with contextlib.redirect_stdout(out):
                code = cli.main([*words, "--help"])
        finally:
            os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
        if code != 0:
            raise RuntimeError(f"involution {' '.join(words)} --help ended with {code}")
        usage, rest = out.getvalue().strip().split("\n\n", 1)
        # dozens of settings are told once, below; jsonargparse puts a backspace before [=flags]
        usage = usage if usage.count("\n") < 9 else f"usage: involution {' '.join(words)} [options]"
        text = f"{usage}\n\n{rest}".replace(" \b", "")
        sections.append(f"## {' '.join(words)}\n\n```text\n{text}\n```\n")
    return "\n" + "\n".join(sections)

"""What the study of photographs found: rows, tables, and what can be said of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from involution.studies.photo.networks import NETWORKS, PER_PIXEL
from involution.studies.photo.runs import SIDE, STEPS, TIME, Plan
from involution.studies.photo.train import PHOTOS, Run, cost
from involution.studies.tables import Table, document

Row = Mapping[str, Any]
RATES = (
    "Each network has the better of two learning rates, 0.003 and 0.01, for 8 s of training on these photographs, also "
    "where it trains for shorter or longer: other rates could move who is ahead."
)
"""What the comparison does not settle."""


def rows(plan: Plan, found: Mapping[Run, Row]) -> list[dict[str, Any]]:
    """Return a row for each network, photograph and comparison of which a training ended.

    Args:
        plan: What was compared.
        found: Of the trainings, by run.

    Returns:
        Rows with ``comparison``, ``network``, ``layers``, ``train`` and ``test``; ``parameters``, and ``macs`` of a
        pixel; ``learning_rate``; ``seeds``; ``threads``; ``steps`` and ``seconds``, which are means; ``psnr_mean``
        and ``psnr_std`` in dB (n − 1), ``psnrs``; the same of SSIM; ``noisy_psnr`` and ``noisy_ssim`` of the
        picture as it was given.
    """
    table = []
    for comparison, network, train in plan.cases():
        runs = [plan.run(comparison, network, train, seed) for seed in range(plan.seeds)]
        ended = [found[run] for run in runs if run in found]
        if not ended:
            continue
        parameters, macs = cost(network)
        row: dict[str, Any] = {
            "comparison": comparison,
            "network": network,
            "layers": NETWORKS[network].layers,
            "train": train,
            "test": runs[0].test,
            "parameters": parameters,
            "macs": macs,
            "learning_rate": NETWORKS[network].learning_rate,
            "seeds": len(ended),
            "threads": 1,
            "steps": round(statistics.fmean(record["steps"] for record in ended)),
            "seconds": round(statistics.fmean(record["seconds"] for record in ended), 2),
        }
        for key, digits in (("psnr", 3), ("ssim", 4)):
            values = [record[key] for record in ended]
            row[f"{key}_mean"] = round(statistics.fmean(values), digits)
            row[f"{key}_std"] = round(statistics.stdev(values), digits) if len(values) > 1 else ""
            row[f"{key}s"] = " ".join(f"{value:.{digits}f}" for value in values)
            row[f"noisy_{key}"] = round(ended[0][f"noisy_{key}"], digits)
        table.append(row)
    return table


def tables(rows: Sequence[Row]) -> list[Table]:
    """Return the table of equal time in full, and one of PSNR in every comparison."""
    return [table for table in (time_table(rows), psnr_table(rows)) if table.rows]


def time_table(rows: Sequence[Row]) -> Table:
    """Return what each network costs and reaches where all are trained for the same time."""
    some = [row for row in rows if row["comparison"] == TIME]
    trains = list(dict.fromkeys(row["train"] for row in some))
    by = {(row["network"], row["train"]): row for row in some}
    cells = []
    for network in dict.fromkeys(row["network"] for row in some):
        mine = {train: by[network, train] for train in trains if (network, train) in by}
        first = next(iter(mine.values()))
        line = [network, f"{first['parameters']:,}", f"{first['macs']:,}"]
        line.append(f"{round(statistics.fmean(row['steps'] for row in mine.values())):,}")
        for train in trains:
            row = mine.get(train)
            line += [_text(row, "psnr", 2), _text(row, "ssim", 3)]
        cells.append(line)
    header = ["network", "parameters", "multiply-adds a pixel", "steps"]
    for train in trains:
        way = f"{train} → {_other(train)}"
        header += [f"{way}: PSNR, dB", "SSIM"]
    seconds = f", {some[0]['seconds']:.3g} s of one core each" if some else ""
    return Table(f"Equal time{seconds}", header, cells)


def psnr_table(rows: Sequence[Row]) -> Table:
    """Return the PSNR of each network in each comparison, for both photographs."""
    comparisons = list(dict.fromkeys(row["comparison"] for row in rows))
    by = {(row["network"], row["comparison"], row["train"]): row for row in rows}
    cells = [
        [network, train, *(_text(by.get((network, comparison, train)), "psnr", 2) for comparison in comparisons)]
        for train in dict.fromkeys(row["train"] for row in rows)
        for network in dict.fromkeys(row["network"] for row in rows)
    ]
    header = ["network", "learned from", *(_title(rows, comparison) for comparison in comparisons)]
    return Table("PSNR on the other photograph, dB", header, cells, labels=2)


def _title(rows: Sequence[Row], comparison: str) -> str:
    some = [row for row in rows if row["comparison"] == comparison]
    if comparison == STEPS:
        return f"{comparison}: {some[0]['steps']}"
    more = f", {SIDE}×{SIDE}" if comparison not in (TIME,) and "pixels" in comparison else ""
    return f"{comparison}: {statistics.median(row['seconds'] for row in some):.3g} s{more}"


def _text(row: Row | None, key: str, digits: int) -> str:
    if row is None:
        return ""
    spread = "" if row.get(f"{key}_std", "") == "" else f" ± {row[f'{key}_std']:.{digits}f}"
    return f"{row[f'{key}_mean']:.{digits}f}{spread}"


def _other(train: str) -> str:
    return Run("", train, 0).test


def gain(rows: Sequence[Row], comparison: str, train: str) -> tuple[float, str] | None:
    """Return by how many dB the kernels for each pixel are ahead of the best other network there, and its name."""
    some = [row for row in rows if (row["comparison"], row["train"]) == (comparison, train)]
    own = [row["psnr_mean"] for row in some if row["network"] == PER_PIXEL]
    others = {row["network"]: row["psnr_mean"] for row in some if row["network"] != PER_PIXEL}
    if not own or not others:
        return None
    best = max(others, key=others.__getitem__)
    return own[0] - others[best], best


def leads(rows: Sequence[Row]) -> list[str]:
    """Return who is ahead in each comparison and by how much, a line each."""
    lines = []
    for comparison in dict.fromkeys(row["comparison"] for row in rows):
        words = []
        for train in PHOTOS:
            if (found := gain(rows, comparison, train)) is not None:
                words.append(f"{found[0]:+.2f} dB from {train} (next: {found[1]})")
        if words:
            lines.append(f"{_title(rows, comparison)}: {PER_PIXEL} against the best other there: {'; '.join(words)}.")
    return lines


def notes(rows: Sequence[Row]) -> list[str]:
    """Return what must be known to read the tables, and who is ahead in each comparison and by how much."""
    lines = [
        "Noise of standard deviation 25 on colours of 0 to 255 is to be taken from a photograph; the network has "
        "seen another one. Photographs: scikit-learn's china.jpg and flower.jpg, 640×427.",
    ]
    given = {row["test"]: (row["noisy_psnr"], row["noisy_ssim"]) for row in rows}
    lines += [f"{name} as given: PSNR {psnr:.2f} dB, SSIM {ssim:.3f}." for name, (psnr, ssim) in given.items()]
    lines += leads(rows)
    seeds = sorted({row["seeds"] for row in rows})
    lines.append(
        f"Mean ± standard deviation of {' to '.join(map(str, seeds))} seeds; time is the processor's, one thread."
    )
    return [*lines, RATES]


def markdown(rows: Sequence[Row]) -> str:
    """Return the tables and their notes in Markdown."""
    return document(tables(rows), notes(rows), "photo")

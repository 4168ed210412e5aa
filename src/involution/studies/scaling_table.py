"""The table of `involution cost --scale`: what a network's training step should take on many devices."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from involution.engine.trunk import blocks
from involution.studies import scaling
from involution.studies.cost_table import build, check_models
from involution.studies.errors import StudyError
from involution.studies.origin import read_csv
from involution.studies.scaling import Cluster, Work
from involution.studies.tables import Table, document

DEVICES = (8, 16, 32, 64, 128, 256, 512)
TITLES = {"ddp": "DDP", "fsdp": "FSDP2"}
SENT_BYTES = {"float32": 4, "bfloat16": 2}


@cache
def _sizes(name: str) -> tuple[int, int, int, int]:
    """Parameters of a model: all, those that learn, those outside of its blocks; and how many groups there are."""
    check_models([name])
    with torch.device("meta"):
        model = build(name)
    groups = blocks(model)
    everything = sum(parameter.numel() for parameter in model.parameters())
    learns = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    inside = sum(parameter.numel() for block in groups for parameter in block.parameters())
    return everything, learns, everything - inside, len(groups) + 1


def work_of(name: str, step_s: float, *, sent_as: str = "float32", backward: float = 2 / 3) -> Work:
    """Return what a network computes and sends in a step.

    Args:
        name: One of `cost_table.known_models`.
        step_s: Seconds of a step on one device.
        sent_as: Number format on the links, one of `SENT_BYTES`.
        backward: Share of the step that is backward.
    """
    everything, learns, root, groups = _sizes(name)
    size = SENT_BYTES[sent_as]
    return Work(step_s, size * learns, size * everything, size * root, groups, backward)


def measured_step(path: Path, name: str, batch: int | None) -> tuple[float, int, str]:
    """Return seconds, batch size and description of a network's training step in a file of results.

    Args:
        path: CSV of ``involution bench cpu`` or ``gpu``.
        name: Such as ``rednet50``.
        batch: Images; by default the most that were measured.

    Raises:
        StudyError: If the file does not have it.
    """
    try:
        rows = read_csv(path)
    except (OSError, ValueError, csv.Error) as error:
        raise StudyError(f"can't read {path}: {getattr(error, 'strerror', None) or error}") from error
    steps = [row for row in rows if row.get("measure") == "training" and _is_timed(row)]
    mine = [row for row in steps if _model(row) == name]
    if not mine:
        known = ", ".join(dict.fromkeys(map(_model, steps))) or "no network"
        raise StudyError(f"{path} has no training step of {name} (it has those of {known}); give --step-ms")
    batches = sorted({row["batch"] for row in mine})
    wanted = batches[-1] if batch is None else batch
    if wanted not in batches:
        raise StudyError(f"{path} has {name} at batch {', '.join(map(str, batches))}, not {wanted}; choose one")
    row = min((row for row in mine if row["batch"] == wanted), key=lambda row: row["p50_ms"])
    where = f"{row['candidate']}, {row.get('device', 'unknown device')}, {row.get('dtype', 'float32')}"
    return row["p50_ms"] / 1e3, wanted, f"measured: {where} ({path.name})"


def _is_timed(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("p50_ms"), float | int) and isinstance(row.get("batch"), int)


def _model(row: Mapping[str, Any]) -> str:
    return str(row.get("candidate", "")).split(",")[0].lower().replace("-", "")


def rows(
    name: str,
    work: Work,
    batch: int,
    devices: Iterable[int],
    strategies: Iterable[str],
    cluster: Cluster,
    *,
    overlap: float,
    bucket_bytes: float,
) -> list[dict[str, Any]]:
    """Predict a network's step for each strategy and number of devices.

    Args:
        name: Of the network.
        work: Of `work_of`.
        batch: Images of a device.
        devices: How many, each to be predicted.
        strategies: Some of `scaling.STRATEGIES`.
        cluster: How devices are connected.
        overlap: As in `scaling.ddp`.
        bucket_bytes: As in `scaling.ddp`.
    """
    found = []
    for strategy in strategies:
        options = {"bucket_bytes": bucket_bytes} if strategy == "ddp" else {}
        for number in devices:
            made = scaling.STRATEGIES[strategy](work, number, cluster, overlap=overlap, **options)
            found.append(
                {
                    "model": name,
                    "strategy": strategy,
                    "devices": number,
                    "nodes": -(-number // cluster.per_node),
                    "batch": batch,
                    "compute_ms": round(work.step_s * 1e3, 4),
                    "step_ms": round(made.step_s * 1e3, 4),
                    "communication_ms": round(made.communication_s * 1e3, 4),
                    "exposed_ms": round(made.exposed_s * 1e3, 4),
                    "sent_bytes": round(made.sent_bytes),
                    "images_per_s": round(number * batch / made.step_s, 1),
                    "efficiency": round(work.step_s / made.step_s, 4),
                }
            )
    return found


def table(found: Sequence[Mapping[str, Any]]) -> Table:
    """Return predictions as a reader wants to see them."""
    header = ["network", "by", "devices", "nodes", "step, ms", "on the links, ms", "of which waited for, ms"]
    header += ["sent by a device, MB", "images/s", "efficiency"]
    cells = [
        [
            row["model"],
            TITLES[row["strategy"]],
            str(row["devices"]),
            str(row["nodes"]),
            f"{row['step_ms']:,.2f}",
            f"{row['communication_ms']:,.2f}",
            f"{row['exposed_ms']:,.2f}",
            f"{row['sent_bytes'] / 1e6:,.1f}",
            f"{row['images_per_s']:,.0f}",
            f"{row['efficiency']:.1%}",
        ]
        for row in found
    ]
    sizes = ", ".join(dict.fromkeys(str(row["batch"]) for row in found))
    return Table(f"Predicted, not measured: training, {sizes} images a device", header, cells, labels=2)


def notes(cluster: Cluster, overlap: float, steps: Iterable[str]) -> list[str]:
    """Return what the predictions rest on."""
    inside, between = cluster.inside, cluster.between
    return [
        *(f"Step on one device: {step}." for step in steps),
        f"Links: {inside.bytes_per_s / 1e9:g} GB/s for a device inside a node of {cluster.per_node} and "
        f"{between.bytes_per_s / 1e9:g} GB/s for a node to others, in one direction; {inside.hop_s * 1e6:g} and "
        f"{between.hop_s * 1e6:g} µs a hop; {overlap:.0%} of what can be hidden is hidden. These are settings: measure "
        "your cluster's, for example by nccl-tests.",
        "One ring through all devices: 2(n−1)/n of the gradients by DDP; by FSDP2 (n−1)/n of the parameters twice and "
        "of the gradients once. Data loading, uneven batches and other traffic are left out. Formula: "
        "involution.studies.scaling.",
    ]


def markdown(found: Sequence[Mapping[str, Any]], lines: Sequence[str]) -> str:
    """Return the table of `rows` and its notes in Markdown."""
    return document([table(found)], lines, "cost --scale")

"""The benchmark for anybody's machine: the operator and the models against the baselines, by what the machine has."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..ops import native
from . import cpu_benchmark
from .environment import kernels
from .operator_benchmark import REDNET50, Layer, _candidates, _tensors
from .tables import Table
from .timing import peak_memory

# on a GPU the copy is of memory, on a CPU the matrix product of one core
_MATRIX, _COPY = "one core's matrix product", "a copy's memory bandwidth"
# measurements of cpu_benchmark.run and of _plain: of the operator's call, of each layer, of networks
_CALLS, _OF_LAYER, _OF_PLAIN, _NETWORKS = 2, 6, 3, 2
_QUICK_GPU_MINUTES, _GPU_MINUTES = 1.0, 30.0


def run(
    batches: Sequence[int],
    *,
    quick: bool = False,
    seconds: float = 1.0,
    networks: bool = True,
    layers: tuple[Layer, ...] = REDNET50,
) -> Iterator[dict[str, Any]]:
    """Measure with the GPU's kernels where there is a GPU, else with the C++ kernels, else with the plain forms.

    Args:
        batches: Batch sizes; a GPU has those of `gpu_benchmark`.
        quick: Only the most important measurements, in about a minute: batch 1, and of the larger batches the memory
            limit.
        seconds: Time for each measurement on a CPU.
        networks: Also time whole networks.
        layers: Of the operator, on a CPU.

    Yields:
        A row for each candidate: milliseconds and the ratio to its base in the same round, as p20, p50 and p80, and
        which kernels served.
    """
    if torch.cuda.is_available() and kernels() == "triton":
        found = _gpu(quick, networks)
    elif torch.cuda.is_available() or native.reason is not None:
        found = _plain(batches[:1] if quick else batches, seconds, networks, layers)
    else:
        found = _cpu(batches, quick, seconds, networks, layers)
    for row in found:
        yield {**row, "kernels": kernels()}


def measurements(batches: Sequence[int], *, quick: bool, networks: bool, layers: int = len(REDNET50)) -> int | None:
    """Return how many measurements `run` makes; None on a GPU, where time decides."""
    if torch.cuda.is_available():
        return None
    whole = batches[:1] if quick else batches
    of_networks = sum(_NETWORKS for batch in whole if networks and batch <= 8)
    if native.reason is not None:
        return of_networks + len(whole) * layers * _OF_PLAIN
    more = layers if quick else 0
    return _CALLS + of_networks + len(whole) * layers * _OF_LAYER + more


def measurement(row: Mapping[str, Any]) -> str:
    """Return in words which measurement a row is of."""
    batch = f", batch {row['batch']}" if "batch" in row else ""
    return f"{row['measure']}, {row['layer']}{batch}"


def _gpu(quick: bool, networks: bool) -> Iterator[dict[str, Any]]:
    from . import gpu_benchmark

    yield from gpu_benchmark.run(
        networks=gpu_benchmark.NETWORKS if networks else None,
        rounds=7 if quick else 15,
        compiled=not quick,
        minutes=_QUICK_GPU_MINUTES if quick else _GPU_MINUTES,
    )


def _cpu(
    batches: Sequence[int], quick: bool, seconds: float, networks: bool, layers: tuple[Layer, ...]
) -> Iterator[dict[str, Any]]:
    first = tuple(batches[:1] if quick else batches)
    yield from cpu_benchmark.run(first, seconds=seconds, networks=networks, layers=layers)
    if quick:
        # the limit of memory shows with batches only
        for layer in layers:
            yield from _limits(layer, max(8, *batches), seconds)


def _limits(layer: Layer, batch: int, seconds: float) -> Iterator[dict[str, Any]]:
    tensors = _tensors(layer, batch, channels_last=True)
    with torch.inference_mode():
        yield from cpu_benchmark._limits(layer, batch, *tensors, seconds)


def _plain(
    batches: Sequence[int], seconds: float, networks: bool, layers: tuple[Layer, ...]
) -> Iterator[dict[str, Any]]:
    cpu = not torch.cuda.is_available()
    for batch in batches:
        for layer in layers:
            tensors = _tensors(layer, batch, channels_last=True)
            for mode, candidates in _candidates(layer, *tensors).items():
                memory = {name: peak_memory(function) for name, function in candidates.items()}
                for row in cpu_benchmark._rows(mode, layer.name, batch, candidates, "involution", seconds):
                    yield {**row, "peak_bytes": memory[row["candidate"]]}
            if cpu:
                yield from _limits(layer, batch, seconds)
        if networks and cpu and batch <= 8:
            for measure, base, candidates in (
                ("inference", "ResNet-50, folded", cpu_benchmark._networks(batch, False)),
                ("training", "ResNet-50", cpu_benchmark._training_steps(batch, False)),
            ):
                yield from cpu_benchmark._rows(measure, "network", batch, candidates, base, 4 * seconds, warm=False)


@dataclass(frozen=True)
class Limit:
    """Which share of a measured limit of the machine a kernel reaches on a layer.

    Attributes:
        of: The limit.
        layer: The layer.
        kernel: The kernel.
        share: 1 at the limit.
    """

    of: str
    layer: str
    kernel: str
    share: float


_KERNELS = {"forward": "forward", "of input": "gradient of input", "of map": "gradient of kernels"}


def limits(rows: Iterable[Mapping[str, Any]]) -> list[Limit]:
    """Return the shares of the machine's limits in a run's rows; of a GPU in the first number format."""
    found = []
    for row in rows:
        if row.get("limit_fraction") is not None and row["candidate"] in _KERNELS:
            limit = f"{_MATRIX}, batch 1" if row["measure"] == "one thread" else f"{_COPY}, batch {row['batch']}"
            found.append(Limit(limit, row["layer"], _KERNELS[row["candidate"]], row["limit_fraction"]))
        elif row.get("copy_fraction") is not None and row["dtype"] == "bfloat16":
            found.append(Limit(f"{_COPY}, {row['measure']}", row["layer"], row["candidate"], row["copy_fraction"]))
    return found


def ratio_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Return each candidate's time over its base's: medians over the layers, and the span of the layers."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get("p50_ratio") is None or row["candidate"] == row["base"] or "limit_fraction" in row:
            continue
        # a network is one, layers are many
        measure = " ".join(filter(None, (row["measure"], row.get("dtype", ""))))
        groups.setdefault((measure, str(row["batch"]), row["candidate"], row["base"]), []).append(row)
    cells = []
    for (measure, batch, candidate, base), some in groups.items():
        middle = {p: statistics.median(row[f"{p}_ratio"] for row in some) for p in ("p20", "p50", "p80")}
        ratios = [row["p50_ratio"] for row in some]
        span = f"{min(ratios):.2f}–{max(ratios):.2f}" if len(ratios) > 1 else ""
        figures = f"{middle['p50']:.2f} ({middle['p20']:.2f}–{middle['p80']:.2f})"
        cells.append([measure, candidate, base, batch, figures, span])
    header = ["measure", "candidate", "÷ base", "batch", "time ratio (p20–p80)", "over the layers"]
    return Table("Time of the candidate ÷ time of the base; medians over RedNet-50's layers", header, cells, labels=3)


def limit_table(some: Sequence[Limit]) -> Table:
    """Return the shares of the machine's limits, a row for each limit and kernel, a column for each layer."""
    layers = list(dict.fromkeys(limit.layer for limit in some))
    shares = {(limit.of, limit.kernel, limit.layer): limit.share for limit in some}
    cells = [
        [of, kernel, *(f"{share:.0%}" if (share := shares.get((of, kernel, layer))) else "" for layer in layers)]
        for of, kernel in dict.fromkeys((limit.of, limit.kernel) for limit in some)
    ]
    return Table("Share of the machine's measured limits", ["limit", "kernel", *layers], cells, labels=2)


def markdown(rows: Sequence[Mapping[str, Any]], origin: Mapping[str, str]) -> str:
    """Return both tables in Markdown.

    Args:
        rows: Of `run`.
        origin: What `timing.provenance` returns.
    """
    tables = [ratio_table(rows), *([limit_table(some)] if (some := limits(rows)) else [])]
    notes = [f"- {row['layer']}: not measured, {row['note']}" for row in rows if row["measure"] == "not measured"]
    where = ", ".join(f"{key} {value}" for key, value in origin.items())
    return "\n".join([*(table.markdown() for table in tables), *notes, f"- Made by involution bench: {where}.", ""])

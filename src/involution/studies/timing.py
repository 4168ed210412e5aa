"""The benchmark harness: interleaved timing, peak memory, and result rows that say where they come from."""

import csv
import datetime
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..engine.files import atomic_path


@dataclass(frozen=True)
class Timing:
    """Wall-clock time of one call in milliseconds: 20th, 50th and 80th percentile over the rounds."""

    p20: float
    p50: float
    p80: float


def interleave(
    candidates: Mapping[str, Callable[[], Any]], *, seconds: float = 1.0, min_rounds: int = 7
) -> dict[str, Timing]:
    """Time several functions in turn, round by round, so that whatever else the machine does hits all alike.

    Args:
        candidates: Functions by name; each is called once before the clock starts.
        seconds: Rounds go on until this much time has passed.
        min_rounds: But there are at least so many.
    """
    samples = interleaved_samples(candidates, seconds=seconds, min_rounds=min_rounds)
    return {name: _percentiles(values) for name, values in samples.items()}


def interleaved_ratios(
    candidates: Mapping[str, Callable[[], Any]],
    base: str,
    *,
    seconds: float = 1.0,
    min_rounds: int = 7,
    warm: bool = False,
) -> tuple[dict[str, Timing], dict[str, Timing]]:
    """As `interleave`, and each candidate's time over that of `base` in the same round, as percentiles too."""
    samples = interleaved_samples(candidates, seconds=seconds, min_rounds=min_rounds, warm=warm)
    times = {name: _percentiles(values) for name, values in samples.items()}
    ratios = {
        name: _percentiles([value / reference for value, reference in zip(values, samples[base], strict=True)])
        for name, values in samples.items()
    }
    return times, ratios


def interleaved_samples(
    candidates: Mapping[str, Callable[[], Any]], *, seconds: float, min_rounds: int, warm: bool = False
) -> dict[str, list[float]]:
    """Return the milliseconds of every call behind `interleave`.

    With ``warm`` up to three calls that aren't timed, in 20 ms, go before each one that is: the caches then hold the
    candidate's own data, not those of the candidate before.
    """
    for function in candidates.values():
        function()
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < min_rounds or time.perf_counter() < end:
        for name, function in candidates.items():
            if warm:
                _warm_up(function)
            _synchronize()
            start = time.perf_counter()
            function()
            _synchronize()
            samples[name].append((time.perf_counter() - start) * 1e3)
        rounds += 1
    return samples


def _warm_up(function: Callable[[], Any]) -> None:
    end = time.perf_counter() + 0.02
    for _ in range(3):
        function()
        if time.perf_counter() > end:
            break


def peak_memory(function: Callable[[], Any]) -> int:
    """Return the most bytes of tensors that a call holds at once beyond those that were there before it."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    # the public tables give sums; the peak needs the events in order of time
    results = profiler.profiler.kineto_results
    events = [e for e in results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def device_name() -> str:
    """Return the GPU's name, or the processor's with the number of threads in use."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def provenance() -> dict[str, str]:
    """Return the columns that every result row carries: date, device, versions."""
    return {
        "date": datetime.date.today().isoformat(),
        "device": device_name(),
        "torch": torch.__version__,
        "involution": __version__,
    }


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write result rows, each with its provenance, to a CSV file that is whole or not there."""
    origin = provenance()
    table = [{**row, **origin} for row in rows]
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(key for row in table for key in row)))
        writer.writeheader()
        writer.writerows(table)


def _percentiles(values: list[float]) -> Timing:
    cuts = statistics.quantiles(values, n=10, method="inclusive")
    return Timing(cuts[1], cuts[4], cuts[7])


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()

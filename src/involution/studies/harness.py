"""Measuring, written once for every suite: candidates in turn, rows of results, memory, figures of rows.

A speed is the ratio of a candidate's time to that of a named base. The candidates take turns, round by round, in one
process; each round gives one ratio, and the figure is the median of these ratios (``p50_ratio``). It is not the ratio
of two medians: whatever slows the machine for a moment slows both sides of a round alike, but two medians may be of
different moments. Over several layers the figure is the median of the layers' figures. README, documentation, tables
and targets all follow this rule; `ratios` is its one implementation.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from involution.studies.errors import StudyError

Row = dict[str, Any]
Candidates = Mapping[str, Callable[[], Any]]


@dataclass(frozen=True)
class Options:
    """What is asked of a suite; what is left empty the suite decides.

    Attributes:
        quick: Only what matters most, in about a minute.
        dry_run: The smallest sizes on whatever there is: shows that all of it works, its times say nothing.
        parts: Some of the suite's parts; empty: all.
        batches: Batch sizes.
        seconds: Least time for each measurement.
        rounds: Least rounds of each measurement.
        minutes: After so long no further measurement is begun.
        compiled: Also torch.compile's code, which takes many minutes to compile.
    """

    quick: bool = False
    dry_run: bool = False
    parts: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    seconds: float | None = None
    rounds: int | None = None
    minutes: float | None = None
    compiled: bool = False

    def filled(self, **values: Any) -> Any:
        """Return the options with these values for what was left empty; `Any`, since nothing is None any more."""
        return replace(self, **{key: value for key, value in values.items() if getattr(self, key) in (None, ())})


@dataclass(frozen=True)
class Measurement:
    """One thing to measure: its name, what yields its rows, and how many minutes it needs at least."""

    name: str
    rows: Callable[[], Iterable[Row]]
    minutes: float = 0


@dataclass(frozen=True)
class Target:
    """What a figure should be, and what it is."""

    name: str
    wanted: str
    measured: float
    met: bool


def _no_targets(rows: Sequence[Mapping[str, Any]]) -> list[Target]:
    return []


@dataclass(frozen=True)
class Suite:
    """A suite of benchmarks; a file in ``studies/suites`` makes one and calls it ``SUITE``.

    Attributes:
        parts: What it can be asked for by itself.
        plan: Yields the measurements for options whose parts are filled in, the most important first.
        targets: Compares a run's rows with what was aimed at.
        minutes: For which no limit was given, and for a quick run.
        on_cpu: Whether it measures on the CPU even where there is a GPU.
    """

    parts: tuple[str, ...]
    plan: Callable[[Options], Iterable[Measurement]]
    targets: Callable[[Sequence[Mapping[str, Any]]], list[Target]] = _no_targets
    minutes: tuple[float, float] = (math.inf, math.inf)
    on_cpu: bool = False

    def measurements(self, options: Options) -> list[Measurement]:
        """Return what there is to measure.

        Raises:
            StudyError: For a part that the suite has not.
        """
        for part in options.parts:
            if part not in self.parts:
                raise StudyError(f"--only must be some of {', '.join(self.parts)}, got {part}")
        return list(self.plan(options.filled(parts=self.parts)))

    def limit(self, options: Options) -> float:
        """Return after how many minutes nothing is begun any more."""
        return self.minutes[options.quick] if options.minutes is None else options.minutes


def run(plan: Iterable[Measurement], minutes: float = math.inf, tell: Callable[[str], Any] = lambda name: None) -> Any:
    """Do the measurements of a plan.

    Args:
        plan: Of `Suite.measurements`.
        minutes: After so long none is begun.
        tell: Called with the name of each before it begins.

    Yields:
        Their rows. One that fails, or that there was no memory or no time for, gives a row with a ``note``.

    Raises:
        AssertionError: If what was to be timed computes something wrong.
    """
    end = time.monotonic() + 60 * minutes
    for measurement in plan:
        if time.monotonic() + 60 * measurement.minutes > end:
            yield not_measured(measurement.name, _LATE)
            continue
        tell(measurement.name)
        try:
            yield from measurement.rows()
        except AssertionError:
            raise
        except Exception as error:  # no memory for the operands, or a package that is missing
            yield not_measured(measurement.name, _reason(error))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


_LATE = "no time left"


def failed(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Say whether something was not measured for another reason than time."""
    return any(row.get("note", _LATE) != _LATE for row in rows)


def not_measured(what: str, why: str) -> Row:
    """Return the row of what could not be measured."""
    return {"measure": "not measured", "layer": what, "candidate": "", "note": why}


def line(row: Mapping[str, Any]) -> str:
    """Return a row in words, for where there are no tables."""
    words = [str(row[key]) for key in ("family", "measure", "layer", "batch", "dtype", "candidate") if row.get(key)]
    if "p50_ms" in row:
        words.append(f"{row['p50_ms']:g} ms")
    if "peak_bytes" in row:
        words[-1] += f", {row['peak_bytes'] / 1e6:.1f} MB"
    if "p50_ratio" in row:
        words.append(f"{row['p50_ratio']:.2f} ({row['p20_ratio']:.2f}–{row['p80_ratio']:.2f}) of {row['base']}")
    return "  ".join([*words, *([row["note"]] if "note" in row else [])])


def out_of_memory(error: Exception) -> bool:
    """Say whether an allocator found no room; the CPU's has no class of its own for it."""
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


def _reason(error: Exception) -> str:
    if out_of_memory(error):
        return "out of memory"
    lines = str(error).strip().splitlines() or [""]
    return f"failed: {type(error).__name__}: {lines[0][:200]}"


def measure(
    candidates: Candidates,
    base: str,
    *,
    seconds: float = 1.0,
    rounds: int = 7,
    warm: bool = False,
    pause: float = 0.0,
    calls: int = 1,
    device: str = "cpu",
    **columns: Any,
) -> Iterator[Row]:
    """Time candidates in turn and measure what each holds in memory.

    Args:
        candidates: Functions by name.
        base: The name of the one whose time is 1.
        seconds: As in `interleaved`; rounds, warm and pause, too.
        rounds: See there.
        warm: See there.
        pause: See there.
        calls: How many calls are timed as one; for calls of microseconds.
        device: A GPU, for its own clock; else the wall clock measures.
        columns: What all rows have in common: measure, layer, batch and so on.

    Yields:
        A row for each candidate: milliseconds of a call and the ratio to the base's in the same round, each as p20, p50
        and p80, and the most bytes held beyond those before the call. A candidate that fails has a note instead.
    """
    fit, held = {}, {}
    for name, function in candidates.items():
        try:
            # compiles, where it has to, outside of what is measured
            function()
            held[name] = peak_memory(function)
            fit[name] = partial(_repeat, function, calls) if calls > 1 else function
        except AssertionError:
            raise
        except Exception as error:  # a baseline that fails is a result, too
            yield {**columns, "candidate": name, "note": _reason(error)}
        if device != "cpu":
            getattr(torch, device).empty_cache()
    samples = interleaved(fit, seconds=seconds, rounds=rounds, warm=warm, pause=pause, device=device)
    for name, times in samples.items():
        row = {**columns, "candidate": name, "base": base, "peak_bytes": held[name]}
        row |= percentiles([value / calls for value in times], "ms", 5)
        if base in samples:
            row |= percentiles([one / other for one, other in zip(times, samples[base], strict=True)], "ratio", 4)
        yield row


def interleaved(
    candidates: Candidates,
    *,
    seconds: float = 1.0,
    rounds: int = 7,
    warm: bool = False,
    pause: float = 0.0,
    device: str = "cpu",
    clock: Callable[[], float] | None = None,
) -> dict[str, list[float]]:
    """Return the milliseconds of every call of several functions in turn, so that a disturbance hits all alike.

    Args:
        candidates: Functions by name; each is called once before the clock starts.
        seconds: Rounds go on until this much time has passed; on a GPU's clock their number alone counts.
        rounds: But there are at least so many.
        warm: Up to three calls that aren't timed, in 20 ms, go before each one that is: the caches then hold the
            candidate's own data, not those of the candidate before.
        pause: Seconds of rest before them, for the threads of the candidate before, which may go on spinning.
        device: A GPU's type: its own clock times the calls, each with a cold L2 cache.
        clock: What times a call on the CPU: the wall's clock if None, or with one thread ``time.process_time``, which
            does not count the work of others.
    """
    for function in candidates.values():
        function()
    if not candidates:
        return {}
    if device != "cpu":
        return _by_device_clock(candidates, rounds, device)
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    clock = clock or time.perf_counter
    end = time.perf_counter() + seconds
    done = 0
    while done < rounds or time.perf_counter() < end:
        for name, function in candidates.items():
            if pause:
                time.sleep(pause)
            if warm:
                _warm_up(function)
            _synchronize()
            start = clock()
            function()
            _synchronize()
            samples[name].append((clock() - start) * 1e3)
        done += 1
    return samples


def _by_device_clock(candidates: Candidates, rounds: int, device: str) -> dict[str, list[float]]:
    runtime = getattr(torch, device)
    flush = torch.empty(2**26, device=device)
    events: list[tuple[str, Any, Any]] = []
    for _ in range(rounds):
        for name, function in candidates.items():
            start, stop = runtime.Event(enable_timing=True), runtime.Event(enable_timing=True)
            # clears the cache and keeps the device busy while the host runs ahead
            for _ in range(10):
                flush.zero_()
            start.record()
            function()
            stop.record()
            events.append((name, start, stop))
        runtime.synchronize()
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for name, start, stop in events:
        samples[name].append(start.elapsed_time(stop))
    return samples


def _warm_up(function: Callable[[], Any]) -> None:
    end = time.perf_counter() + 0.02
    for _ in range(3):
        function()
        if time.perf_counter() > end:
            break


def _repeat(function: Callable[[], Any], calls: int) -> None:
    for _ in range(calls):
        function()


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def percentiles(values: Sequence[float], suffix: str, digits: int) -> dict[str, float]:
    """Return the columns ``p20_SUFFIX``, ``p50_SUFFIX`` and ``p80_SUFFIX`` of two values or more, rounded."""
    cuts = statistics.quantiles(values, n=10, method="inclusive")
    return {f"p{10 * n + 10}_{suffix}": round(cuts[n], digits) for n in (1, 4, 7)}


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
    found = _allocations(profiler.profiler.kineto_results.experimental_event_tree())
    sizes: dict[int, int] = {}
    held = peak = 0
    for _, address, size in sorted(found, key=lambda event: event[0]):
        if size > 0:
            sizes[address] = size
            held += size
            peak = max(peak, held)
        else:
            # what was there before is let go of as well, with a size that an earlier profile may have left behind
            held -= sizes.pop(address, 0)
    return peak


def _allocations(events: Iterable[Any]) -> Iterator[tuple[int, int, int]]:
    """The time, address and size of what a profile's events allocate, below 0 where it is let go of."""
    for event in events:
        if event.tag == torch._C._profiler._EventType.Allocation:
            yield event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size
        yield from _allocations(event.children)


def ratios(
    rows: Iterable[Mapping[str, Any]], measure: str, over: str, under: str, key: str = "p50_ratio"
) -> list[float]:
    """Return a candidate's figure over another's, for each layer, batch and number format that has both.

    Args:
        rows: Of a run.
        measure: Which.
        over: Name of a candidate.
        under: Name of another, commonly the base.
        key: ``p50_ratio`` for time, ``peak_bytes`` for memory.
    """
    found: dict[Any, dict[str, float]] = {}
    for row in rows:
        if row["measure"] == measure and row.get(key):
            case = row.get("layer"), row["batch"], row.get("dtype")
            found.setdefault(case, {})[row["candidate"]] = row[key]
    return [values[over] / values[under] for values in found.values() if over in values and under in values]


def target(
    name: str, values: Sequence[float], *, least: float | None = None, most: float = math.inf, worst: bool = False
) -> list[Target]:
    """Return one target, or none where nothing was measured.

    Args:
        name: What it is about.
        values: Of the layers.
        least: The figure should be at least this, or
        most: at most this.
        worst: The layer that is furthest from it decides, not the median.
    """
    if not values:
        return []
    if least is not None:
        value = min(values) if worst else statistics.median(values)
        return [Target(name, f"≥ {least:g}", round(value, 3), value >= least)]
    value = max(values) if worst else statistics.median(values)
    return [Target(name, f"≤ {most:g}", round(value, 3), value <= most)]

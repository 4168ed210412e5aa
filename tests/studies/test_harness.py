"""Measuring: rows with the right figures, candidates in turn, and what happens to what fails."""

import math

import pytest
import torch

from involution.studies import harness
from involution.studies.errors import StudyError
from involution.studies.harness import Measurement, Options, Suite, Target, measure, ratios, target


class Clock:
    """A clock that stands still but for what the functions take."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    monotonic = perf_counter

    def taking(self, milliseconds, calls):
        """A function that takes the given times in turn, and notes that it was called."""
        times = iter(milliseconds)

        def function():
            calls.append(function)
            self.now += next(times) / 1e3

        return function


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(harness, "time", clock)
    monkeypatch.setattr(harness, "peak_memory", lambda function: 1000)
    return clock


def test_a_row_is_of_the_ratios_within_the_rounds(clock):
    calls = []
    # two untimed calls, then five rounds; the machine slows down tenfold in the last two
    base = clock.taking([9, 9, 1, 2, 3, 40, 50], calls)
    other = clock.taking([9, 9, 2, 6, 12, 200, 300], calls)
    found = list(measure({"base": base, "other": other}, "base", seconds=0, rounds=5, measure="forward", batch=8))
    assert calls == [base, other] * 7
    row = {"measure": "forward", "batch": 8, "base": "base", "peak_bytes": 1000}
    one = {"p20_ms": 1.8, "p50_ms": 3, "p80_ms": 42, "p20_ratio": 1, "p50_ratio": 1, "p80_ratio": 1}
    # ratios 2, 3, 4, 5, 6; the ratio of the medians, 4, would be of different rounds
    two = {"p20_ms": 5.2, "p50_ms": 12, "p80_ms": 220, "p20_ratio": 2.8, "p50_ratio": 4, "p80_ratio": 5.2}
    assert found[0] == {**row, "candidate": "base", **one}
    assert found[1] == {**row, "candidate": "other", **two}


def test_median_of_ratios_and_not_ratio_of_medians(clock):
    base, other = clock.taking([0, 0, 1, 10, 10], []), clock.taking([0, 0, 2, 5, 30], [])
    *_, row = measure({"base": base, "other": other}, "base", seconds=0, rounds=3)
    # of 2, 0.5 and 3; the medians, 5 and 10, would say 0.5
    assert row["p50_ratio"] == 2


def test_rounds_go_on_until_the_time_has_passed(clock):
    samples = harness.interleaved({"a": clock.taking([250] * 9, [])}, seconds=1.5, rounds=2)
    assert samples == {"a": pytest.approx([250] * 6)}


def test_several_calls_are_timed_as_one(clock):
    (row,) = measure({"a": clock.taking([3] * 99, [])}, "a", seconds=0, rounds=2, calls=10)
    assert (row["p20_ms"], row["p50_ms"], row["p80_ms"]) == (3, 3, 3)


def test_warm_calls_are_not_timed(clock):
    calls = []
    samples = harness.interleaved({"a": clock.taking([5] * 99, calls)}, seconds=0, rounds=2, warm=True)
    assert samples == {"a": pytest.approx([5, 5])}
    # first one, then before each that is timed as many as fit in 20 ms, three at most
    assert len(calls) == 1 + 2 * (3 + 1)


def test_a_pause_goes_before_the_warm_calls(clock, monkeypatch):
    calls, pauses = [], []
    monkeypatch.setattr(clock, "sleep", lambda seconds: pauses.append((seconds, len(calls))), raising=False)
    harness.interleaved({"a": clock.taking([25] * 9, calls)}, seconds=0, rounds=2, warm=True, pause=0.1)
    # one call first, then in each round a warm one and one that is timed
    assert pauses == [(0.1, 1), (0.1, 3)]


def test_percentiles():
    values = [float(n) for n in range(11)]
    assert harness.percentiles(values, "ms", 2) == {"p20_ms": 2, "p50_ms": 5, "p80_ms": 8}


def test_peak_memory_counts_what_is_held_at_once():
    def two_then_one() -> None:
        a = torch.empty(1_000_000, dtype=torch.uint8)
        b = torch.empty(2_000_000, dtype=torch.uint8)
        del a, b
        torch.empty(500_000, dtype=torch.uint8)

    peak = harness.peak_memory(two_then_one)
    assert 3_000_000 <= peak < 3_001_000


def test_memory_of_earlier_calls_is_not_subtracted():
    kept: list[torch.Tensor] = []
    assert harness.peak_memory(lambda: kept.append(torch.empty(5_000_000, dtype=torch.uint8))) >= 5_000_000

    def frees() -> None:
        kept.clear()
        torch.empty(1_000_000, dtype=torch.uint8)

    assert 1_000_000 <= harness.peak_memory(frees) < 1_001_000


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (torch.OutOfMemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "out of memory"),
        (RuntimeError("no compiler\nmore"), "failed: RuntimeError: no compiler"),
    ],
)
def test_what_fails_is_a_row(error, note):
    def fails():
        raise error

    first, second = measure({"bad": fails, "good": lambda: None}, "good", seconds=0, rounds=2, measure="forward")
    assert first == {"measure": "forward", "candidate": "bad", "note": note}
    assert (second["candidate"], second["p50_ratio"]) == ("good", 1)
    # a base that fails leaves the times
    first, second = measure({"bad": fails, "good": lambda: None}, "bad", seconds=0, rounds=2, measure="forward")
    assert "p50_ms" in second
    assert "p50_ratio" not in second
    # and a whole measurement
    plan = [Measurement("a", fails), Measurement("b", lambda: [{"measure": "b"}])]
    rows = list(harness.run(plan))
    assert rows == [harness.not_measured("a", note), {"measure": "b"}]
    assert harness.failed(rows)


def test_nothing_wrong_is_timed():
    def wrong():
        raise AssertionError("not close")

    with pytest.raises(AssertionError, match="not close"):
        list(measure({"wrong": wrong}, "wrong"))
    with pytest.raises(AssertionError, match="not close"):
        list(harness.run([Measurement("check", wrong)]))


def test_what_there_is_no_time_for_is_named(clock):
    def minute():
        clock.now += 60
        return [{"measure": "done"}]

    said = []
    plan = [Measurement("a", minute), Measurement("b", minute, 5), Measurement("c", minute), Measurement("d", minute)]
    found = list(harness.run(plan, minutes=1.5, tell=said.append))
    done, late = {"measure": "done"}, "no time left"
    assert found == [done, harness.not_measured("b", late), done, harness.not_measured("d", late)]
    assert said == ["a", "c"]
    assert not harness.failed(found)


def test_ratios_are_of_one_layer_batch_and_format():
    def row(candidate, ratio, **more):
        return {"measure": "forward", "layer": "a", "batch": 1, "candidate": candidate, "p50_ratio": ratio, **more}

    rows = [
        row("base", 1.0, peak_bytes=10),
        row("other", 4.0, peak_bytes=5),
        row("base", 1.0, layer="b"),
        row("other", 8.0, layer="b"),
        # nothing to compare with
        row("other", 2.0, batch=8),
        row("other", 3.0, dtype="bfloat16"),
        row("other", 9.0, measure="backward"),
        {"measure": "forward", "layer": "c", "batch": 1, "candidate": "base", "note": "out of memory"},
    ]
    assert ratios(rows, "forward", "other", "base") == [4, 8]
    assert ratios(rows, "forward", "base", "other") == [0.25, 0.125]
    assert ratios(rows, "forward", "other", "base", "peak_bytes") == [0.5]


def test_targets():
    assert target("a", []) == []
    assert target("a", [1, 5, 9], least=5) == [Target("a", "≥ 5", 5, True)]
    assert target("a", [1, 5, 9], least=5, worst=True) == [Target("a", "≥ 5", 1, False)]
    assert target("a", [1, 5, 9], most=5) == [Target("a", "≤ 5", 5, True)]
    assert target("a", [1, 5, 9], most=5, worst=True) == [Target("a", "≤ 5", 9, False)]


def test_a_suites_parts_and_time():
    asked = []
    suite = Suite(("a", "b"), lambda options: asked.append(options) or [Measurement("m", list)], minutes=(30, 1))
    assert [m.name for m in suite.measurements(Options())] == ["m"]
    suite.measurements(Options(parts=("b",)))
    assert [options.parts for options in asked] == [("a", "b"), ("b",)]
    with pytest.raises(StudyError, match="--only must be some of a, b, got c"):
        suite.measurements(Options(parts=("c",)))
    assert [suite.limit(Options(quick=quick)) for quick in (False, True)] == [30, 1]
    assert suite.limit(Options(quick=True, minutes=7)) == 7
    assert Suite((), lambda options: []).limit(Options()) == math.inf


def test_options_are_filled_where_they_are_empty():
    options = Options(batches=(3,), rounds=0).filled(batches=(1, 8), seconds=0.5, rounds=7)
    assert (options.batches, options.seconds, options.rounds) == ((3,), 0.5, 0)


def test_a_row_in_words():
    row = {"measure": "forward", "layer": "stem", "batch": 1, "candidate": "unfold", "base": "involution"}
    figures = {"p50_ms": 2.5, "peak_bytes": 3_000_000, "p20_ratio": 9, "p50_ratio": 10, "p80_ratio": 11}
    assert (
        harness.line({**row, **figures}) == "forward  stem  1  unfold  2.5 ms, 3.0 MB  10.00 (9.00–11.00) of involution"
    )
    assert harness.line(harness.not_measured("networks", "no time left")) == "not measured  networks  no time left"

"""What holds for every suite, those to come included."""

from argparse import ArgumentParser
from pathlib import Path

import pytest
import torch

from involution.studies import harness, origin, suites
from involution.studies.errors import StudyError

FOLDER = Path(suites.__file__).parent


def options(*words):
    parser = ArgumentParser()
    suites.add_arguments(parser)
    return suites.options(parser.parse_args(words))


def test_every_file_is_registered():
    assert {path.stem for path in FOLDER.glob("*.py")} == {"__init__", *suites.SUITES}


@pytest.fixture(params=suites.SUITES)
def name(request):
    if request.param == "gpu":
        pytest.importorskip("triton")
    return request.param


def test_a_dry_run_has_every_part_and_names_each_measurement_once(name):
    suite = suites.load(name)
    everything = [measurement.name for measurement in suite.measurements(options("--dry-run"))]
    assert len(set(everything)) == len(everything)
    for part in suite.parts:
        some = {measurement.name for measurement in suite.measurements(options("--dry-run", "--only", part))}
        assert some <= set(everything)
        assert some
    with pytest.raises(StudyError, match=f"--only must be some of {suite.parts[0]}, .*, got nonsense"):
        suite.measurements(options("--only", "nonsense"))


@pytest.mark.slow
def test_all_of_a_suite_runs(name):
    if name == "serving":
        pytest.skip("measures servers, with programs of others: test_serving.py")
    suite = suites.load(name)
    rows = list(harness.run(suite.measurements(options("--dry-run"))))
    assert [row for row in rows if "note" in row] == []
    for row in rows:
        if row["measure"] != "copy" and not row["measure"].startswith("link"):
            assert {"layer", "batch", "candidate", "base", "p50_ms", "p50_ratio"} <= row.keys()
            # the memory of other runtimes is not seen
            assert name == "deployment" or "peak_bytes" in row
    assert all(row["p50_ratio"] == 1 for row in rows if row.get("base") == row["candidate"])
    suite.targets(rows)


def test_options_of_words():
    assert options() == harness.Options()
    words = "--quick --only operator operator --batch 8 1 8 --seconds 0.5 --rounds 3 --minutes 2 --compile --dry-run"
    expected = harness.Options(
        quick=True,
        dry_run=True,
        parts=("operator",),
        batches=(8, 1),
        seconds=0.5,
        rounds=3,
        minutes=2,
        compiled=True,
    )
    assert options(*words.split()) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--batch-size 4 0", "--batch-size must be 1 or more, got 0"),
        ("--seconds nan", "--seconds must be 0 or more, got nan"),
        ("--rounds 1", "--rounds must be 2 or more, got 1"),
        ("--threads 0", "--threads must be 1 or more, got 0"),
    ],
)
def test_wrong_numbers(words, message):
    with pytest.raises(StudyError, match=message):
        options(*words.split())


@pytest.mark.parametrize(
    ("cuda", "served", "name"),
    [(False, "avx512", "cpu"), (True, "triton", "gpu"), (True, "cuda", "gpu"), (True, "plain", "operator")],
)
def test_the_suite_of_this_machine(cuda, served, name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(origin, "kernels", lambda: served)
    assert suites.default() == name


def test_results_are_named_after_suite_and_parts(monkeypatch):
    monkeypatch.setattr(origin, "file_name", lambda *words: "-".join(words))
    assert suites.results_name("cpu", harness.Options()) == "cpu"
    assert suites.results_name("cpu", harness.Options(quick=True, parts=("networks",))) == "cpu-networks-quick"

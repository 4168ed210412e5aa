import pytest
import torch

from involution.studies.envelope import runs, train
from involution.studies.envelope.networks import CONVOLUTION, FAMILIES, REDNET, WIDTHS
from involution.studies.envelope.runs import TRAININGS, Plan, read_times, take_times
from involution.studies.envelope.tasks import FEW, TASKS
from involution.studies.errors import StudyError

PLAN = Plan(seeds=2, tasks=(FEW,), families=(CONVOLUTION, REDNET), widths=(8,), epochs=1)


def test_what_is_compared():
    plan = Plan()
    found = plan.runs()
    assert len(found) == 3 * len(TASKS) * len(FAMILIES) * len(WIDTHS)
    assert [run.seed for run in found] == sorted(run.seed for run in found)
    assert {(run.task, run.epochs) for run in found} == {(name, task.epochs) for name, task in TASKS.items()}
    assert len({runs.name_of(run) for run in found}) == len(found)


@pytest.mark.parametrize("seeds", [0, 1001])
def test_seeds_are_checked(seeds):
    with pytest.raises(StudyError, match=f"seeds must be from 1 to 1000, got {seeds}"):
        Plan(seeds=seeds)


def test_a_training_learns_and_repeats():
    run = train.Run(FEW, CONVOLUTION, 8, seed=3, epochs=6)
    threads = torch.get_num_threads()
    first, again, other = (train.record(one) for one in (run, run, train.Run(FEW, CONVOLUTION, 8, 4, 6)))
    assert first["steps"] == 6 * 4
    assert first["images"] == 1197
    assert first["train_accuracy"] > 15
    assert (
        (first["accuracy"], first["loss"]) == (again["accuracy"], again["loss"]) != (other["accuracy"], other["loss"])
    )
    assert torch.get_num_threads() == threads


def test_a_record_says_what_was_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "record", lambda run: {"accuracy": 50.0})
    run = PLAN.runs()[0]
    found = dict(TRAININGS.do_missing([run], tmp_path, 1))[run]
    settings = TRAININGS.read(run, tmp_path)["settings"]
    assert found["settings"] == settings
    assert settings["learning_rate"] == FAMILIES[CONVOLUTION].learning_rate
    assert settings["train_images"] == TASKS[FEW].images


def test_times_are_ratios_within_rounds(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "_ROUNDS", 2)
    assert read_times(PLAN, tmp_path) is None
    told = []
    rows = take_times(PLAN, tmp_path, told.append)
    assert told == ["times of inference", "times of training"]
    assert {(row["family"], row["width"], row["measure"]) for row in rows} == {
        (family, 8, measure) for family in PLAN.families for measure in runs.MEASURES
    }
    assert all(row["p50_ms"] > 0 for row in rows)
    assert {row["p50_ratio"] for row in rows if row["family"] == CONVOLUTION} == {1.0}
    assert read_times(PLAN, tmp_path) == rows
    # other networks were not timed
    assert read_times(Plan(), tmp_path) is None

import json
from dataclasses import asdict, dataclass

import pytest

from involution.studies.errors import StudyError
from involution.studies.trainings import Trainings, in_name


@dataclass(frozen=True)
class Run:
    width: int
    seed: int


RUNS = [Run(width, seed) for seed in range(2) for width in (4, 8)]


def trainings(done, study="toy", **more):
    def train(run, folder):
        done.append(run)
        return {"accuracy": 50.0 + run.width}

    return Trainings(
        {"study": study}, lambda run: f"width{run.width}-seed{run.seed}", lambda run: {**asdict(run), **more}, train
    )


def test_a_stopped_study_goes_on(tmp_path):
    done = []
    toy = trainings(done)
    toy.claim(tmp_path / "out")
    going = toy.do_missing(RUNS, tmp_path / "out", 1)
    first = next(going)
    # killed here
    going.close()
    rest = list(toy.do_missing(RUNS, tmp_path / "out", 1))
    assert [run for run, _ in [first, *rest]] == done == RUNS
    toy.claim(tmp_path / "out")
    assert list(toy.do_missing(RUNS, tmp_path / "out", 1)) == []
    assert done == RUNS
    found = toy.read_all([*RUNS, Run(16, 0)], tmp_path / "out")
    assert list(found) == RUNS
    assert found[RUNS[0]]["accuracy"] == first[1]["accuracy"] == 54.0
    # with what it was measured on
    assert {"settings", "accuracy", "torch", "device"} <= found[RUNS[0]].keys()


def test_records_of_other_settings_are_not_taken(tmp_path):
    trainings([]).do(RUNS[0], tmp_path)
    with pytest.raises(StudyError, match=r"belongs to another study \(only one of the two has learning_rate\)"):
        trainings([], learning_rate=0.1).read(RUNS[0], tmp_path)
    path = trainings([]).path(RUNS[0], tmp_path)
    found = json.loads(path.read_text())
    found["settings"]["width"] = 5
    path.write_text(json.dumps(found))
    with pytest.raises(StudyError, match=r"belongs to another study \(width is 5 there, 4 here\); choose another"):
        trainings([]).read(RUNS[0], tmp_path)


def test_folders_of_other_studies_are_not_taken(tmp_path):
    trainings([]).claim(tmp_path / "out")
    with pytest.raises(StudyError, match=r"holds another study \(study is toy there, other here\)"):
        trainings([], "other").claim(tmp_path / "out")


def test_names_of_files():
    assert in_name("convolution 3×3, then (7×7)") == "convolution-3-3-then-7-7"

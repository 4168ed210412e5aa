import pytest
import torch

from involution.studies.errors import StudyError
from involution.studies.photo import runs
from involution.studies.photo.networks import NETWORKS, PER_PIXEL
from involution.studies.photo.runs import LONG, STEPS, TIME, TRAININGS, Plan, trained

PLAN = Plan(steps=1, seeds=1, comparisons=(STEPS,), trains=("china",))


def fake(run):
    return NETWORKS[run.network].build(), {"steps": 1, "seconds": 0.1, "psnr": 20.0, "ssim": 0.5}


def test_what_is_compared():
    plan = Plan(seconds=2, seeds=2)
    times = {(run.network, run.train) for run in plan.runs() if run.seconds == 2 and not run.side}
    assert times == {(network, train) for network in NETWORKS for train in ("china", "flower")}
    assert {run.seed for run in plan.runs()} == {0, 1}
    assert plan.run(LONG, PER_PIXEL, "china", 0).seconds == 8
    assert plan.run(TIME, PER_PIXEL, "china", 1).steps is None
    names = [runs.name_of(run) for run in plan.runs()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"steps": -1}, {"seeds": 0}])
def test_nothing_to_train_is_refused(wrong):
    (name,) = wrong
    with pytest.raises(StudyError, match=f"{name} must be more than 0, got {wrong[name]}"):
        Plan(**wrong)


def test_a_record_says_what_was_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "record", fake)
    run = PLAN.runs()[0]
    found = TRAININGS.do(run, tmp_path)
    assert found["psnr"] == 20.0
    assert TRAININGS.read(run, tmp_path)["settings"]["learning_rate"] == NETWORKS[run.network].learning_rate


def test_the_network_that_was_trained_is_the_one_that_is_read(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(runs, "record", lambda run: made.append(fake(run)) or made[0])
    run = PLAN.run(STEPS, PER_PIXEL, "china", 0)
    TRAININGS.do(run, tmp_path)
    torch.testing.assert_close(trained(run, tmp_path).state_dict(), made[0][0].state_dict(), rtol=0, atol=0)
    (tmp_path / "weights" / f"{runs.name_of(run)}.safetensors").unlink()
    with pytest.raises(StudyError, match=r"no weights of kernels for each pixel; remove .* to repeat its run"):
        trained(run, tmp_path)


def test_in_several_processes(tmp_path):
    plan = Plan(steps=1, seeds=2, comparisons=(STEPS,), trains=("china",))
    some = [run for run in plan.runs() if run.network.startswith("one")]
    done = dict(TRAININGS.do_missing(some, tmp_path, 2))
    assert set(done) == set(some)
    assert all(found["steps"] == 1 for found in done.values())

"""The trainings of an ablation study: records, going on, several at once."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from generated import image_folder

from involution.engine import run as engine
from involution.engine.callbacks import TrainingDiverged, TrainingInterrupted
from involution.engine.run_folder import LOCK
from involution.studies import ablation_runs, records
from involution.studies.ablation import load_study
from involution.studies.ablation_runs import claim_folder, do_run, open_data, read_record, run_all
from involution.studies.errors import StudyError
from involution.studies.moved_digits import SPLITS, make_moved_digits

STUDY = """
recipe: digits
settings:
  model.name: rednet_nano
  model.args.layers: [1, 1]
  model.args.kernel_size: 3
  data.spec: imagefolder:{data}
  data.image_size: 8
  data.batch_size: 8
  trainer.epochs: 2
seeds: 1
axes:
  kernel: {{model.args.kernel_size: [3, 5]}}
"""


@pytest.fixture(scope="module")
def study_file(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    image_folder(root / "data")
    path = root / "study.yaml"
    path.write_text(STUDY.format(data=root / "data"))
    return path


@pytest.fixture
def study(study_file):
    return load_study(study_file)


def test_a_stopped_study_goes_on_and_does_nothing_twice(study, tmp_path, monkeypatch):
    claim_folder(study, tmp_path / "out")
    assert open_data(study, tmp_path / "out") == "test"
    going = run_all(study, tmp_path / "out", "test", 1)
    first, record = next(going)
    # killed here
    going.close()
    assert record["images"] == 24
    assert 0 <= record["top1"] <= 1
    assert record["epochs"] == 2
    kept = (tmp_path / "out" / "results" / f"{first.name}.json").read_bytes()
    done = []
    monkeypatch.setattr(ablation_runs, "do_run", lambda run, **rest: done.append(run.name) or do_run(run, **rest))
    claim_folder(study, tmp_path / "out")
    assert [run.name for run, _ in run_all(study, tmp_path / "out", "test", 1)] == done == ["kernel_size=5-seed0"]
    assert list(run_all(study, tmp_path / "out", "test", 1)) == []
    # more seeds: only those that are new
    more = study.changed(seeds=2)
    claim_folder(more, tmp_path / "out")
    assert next(run_all(more, tmp_path / "out", "test", 1))[0].name == "base-seed1"
    assert (tmp_path / "out" / "results" / f"{first.name}.json").read_bytes() == kept
    assert read_record(first, tmp_path / "out")["top1"] == record["top1"]


def test_a_training_goes_on_where_it_was(study, tmp_path, monkeypatch):
    run = study.runs()[0]
    place = {"name": run.name, "output": str(tmp_path / "elsewhere" / "runs")}
    half = replace(run.config, trainer=replace(run.config.trainer, epochs=1), **place)
    before = engine.train(half, progress=False).history
    # stopped there, and the folder moved
    (tmp_path / "elsewhere").rename(tmp_path / "out")
    record = do_run(run, tmp_path / "out", "test")
    assert record["epochs"] == 2
    lines = (tmp_path / "out" / "runs" / run.name / "metrics.csv").read_text().splitlines()
    assert (
        float(dict(zip(lines[0].split(","), lines[1].split(","), strict=True))["train_loss"]) == before[0]["train_loss"]
    )
    # killed between training and record: only measured again
    (tmp_path / "out" / "results" / f"{run.name}.json").unlink()
    monkeypatch.setattr("involution.engine.run._fit", None)
    again = do_run(run, tmp_path / "out", "test")
    assert {**again, "train_seconds": 0} == {**record, "train_seconds": 0}


def test_what_has_no_checkpoint_begins_anew(study, tmp_path):
    run = study.runs()[0]
    folder = tmp_path / "runs" / run.name
    (folder / "tensorboard").mkdir(parents=True)
    # what a run that was killed leaves
    (folder / LOCK).touch()
    assert do_run(run, tmp_path, "val")["split"] == "val"


def test_a_diverged_training_is_a_result(study, tmp_path, monkeypatch):
    def diverge(*args, **kwargs):
        raise TrainingDiverged("the loss became nan in epoch 1")

    monkeypatch.setattr(engine, "train", diverge)
    run = study.runs()[0]
    assert do_run(run, tmp_path, "test")["diverged"] == "the loss became nan in epoch 1"
    assert "top1" not in read_record(run, tmp_path)


def test_an_interrupted_training_leaves_no_record(study, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise TrainingInterrupted(None)

    monkeypatch.setattr(engine, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        list(run_all(study, tmp_path, "test", 1))
    assert not (tmp_path / "results").exists()


def test_studies_are_not_mixed(study, tmp_path):
    claim_folder(study, tmp_path / "out")
    with pytest.raises(StudyError, match=r"holds another study \(trainer.epochs is 2 there, 3 here\); choose another"):
        claim_folder(study.changed(settings={"trainer.epochs": 3}), tmp_path / "out")
    # where and on what it is done makes no other study
    claim_folder(study.changed(settings={"data.workers": 2, "trainer.accelerator": "cpu"}), tmp_path / "out")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "thesis.txt").touch()
    with pytest.raises(StudyError, match="holds files that are not a study's; choose another folder"):
        claim_folder(study, tmp_path / "files")


def test_records_are_not_mixed(study, tmp_path):
    run = study.runs()[0]
    path = tmp_path / "results" / f"{run.name}.json"
    other = study.changed(settings={"trainer.epochs": 3}).runs()[0]
    records.write(path, {"settings": ablation_runs._compared(other.config), "seed": 0, "top1": 1.0})
    with pytest.raises(StudyError, match=r"belongs to another study \(trainer.epochs is 3 there, 2 here\)"):
        read_record(run, tmp_path)
    path.write_text(path.read_text()[:100])
    with pytest.raises(StudyError, match="not valid JSON; remove it to repeat its run"):
        read_record(run, tmp_path)


def test_more_jobs_than_gpus(study, tmp_path, monkeypatch):
    monkeypatch.setattr(ablation_runs.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ablation_runs.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert ablation_runs._gpus(study) == ["4", "6"]
    assert ablation_runs.default_jobs(study) == 2
    with pytest.raises(StudyError, match="--jobs must be at most 2, the number of GPUs, got 3"):
        next(run_all(study, tmp_path, "test", 3))
    # a study for the CPU has no use for them
    cpu = study.changed(settings={"trainer.accelerator": "cpu"})
    assert ablation_runs._gpus(cpu) == []


def test_moved_digits(tmp_path):
    folder = make_moved_digits(tmp_path / "digits")
    names = {split: [path.name for path in (folder / split).glob("*/*.png")] for split in SPLITS}
    assert {split: len(found) for split, found in names.items()} == SPLITS
    # each of the 1,797 digits is in one of them
    assert len({name for found in names.values() for name in found}) == sum(SPLITS.values()) == 1797
    # of each class a tenth
    assert all(45 <= len(list(label.iterdir())) <= 55 for label in (folder / "train").iterdir())
    again = make_moved_digits(tmp_path / "again")
    assert all(path.read_bytes() == (again / path.relative_to(folder)).read_bytes() for path in folder.glob("val/*/*"))
    assert list(tmp_path.iterdir()) == [folder, again] or set(tmp_path.iterdir()) == {folder, again}


def command(study_file, out, *words):
    line = ["-m", "involution", "ablate", "--study", str(study_file), "--output", str(out), *words]
    return subprocess.Popen([sys.executable, *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(found, seconds=600):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen")


def results(out):
    return {path.stem: json.loads(path.read_text()) for path in (out / "results").glob("*.json")}


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # a zombie that nobody reaps here has ended
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks into /proc")
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
def test_several_at_once_stopped_and_going_on(study_file, study, tmp_path, stop):
    out = tmp_path / "out"
    words = ["--jobs", "2", "--seeds", "3"]
    with command(study_file, out, *words) as process:
        wait_for(lambda: results(out))
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(stop)
        error = process.communicate()[1]
    assert "Traceback" not in error
    if stop == signal.SIGINT:
        assert process.returncode == 130
        assert "training runs are done; repeat the command to resume" in error
    # the workers end with the study
    wait_for(lambda: not any(alive(int(child)) for child in children))
    before = results(out)
    assert 1 <= len(before) < 6
    with command(study_file, out, *words) as process:
        process.communicate()
    assert process.returncode == 0
    after = results(out)
    assert len(after) == 6
    assert {name: after[name] for name in before} == before
    # several at once find what one after the other finds
    alone = study.changed(seeds=3)
    serial = {run.name: record for run, record in run_all(alone, tmp_path / "serial", "test", 1)}
    assert {name: record["val_top1"] for name, record in serial.items()} == pytest.approx(
        {name: record["val_top1"] for name, record in after.items()}, abs=0.2
    )

"""Checkpoints that involution 0.1.0 wrote: they evaluate, predict and go on as they did there.

Each comes from a run of three epochs on a tiny network, which was stopped by Ctrl-C: the classifier's on the embedded
digits, the detector's and the segmenter's (with a moving average of the weights) on the scenes made below.
"""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from involution.cli import main
from involution.data.scenes import make_digit_scenes

FOLDER = Path(__file__).parent / "checkpoints_0_1_0"
TASKS = ("classify", "detect", "segment")
# what 0.1.0 measured
FIGURES = {
    "classify-best": {"top1": 0.1388888955, "loss": 2.1271047593},
    "classify-last": {"top1": 0.1916666627, "loss": 2.1805777550},
    "segment-best": {"miou": 0.0046986061, "accuracy": 0.0136413574},
    "segment-last": {"miou": 0.0055789013, "accuracy": 0.0231323242},
}
FIRST_BOXES = {
    "detect-best": ([0.4380645752, 81.4520874023, 18.3368644714, 46.1172180176], 0.1297437996),
    "detect-last": ([0.3786630630, 104.2657623291, 20.4761428833, 16.3265533447], 0.1340291351),
}
# of the third epoch, most of which ran after the interruption
LAST_EPOCHS = {
    "classify": {"train_loss": 1.9809122086, "val_accuracy": 0.2944444418},
    "detect": {"train_loss": 3.1579751968, "val_ap": 0.0},
    "segment": {"train_loss": 3.2740173340, "val_miou": 0.0462972057},
}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The runs in the working directory, where the recipes say that they are, and the scenes beside them."""
    monkeypatch.chdir(tmp_path)
    for task in TASKS:
        (tmp_path / "runs" / task).mkdir(parents=True)
        for kind in ("best", "last"):
            shutil.copy(FOLDER / f"{task}-{kind}.ckpt", tmp_path / "runs" / task / f"{kind}.ckpt")
    make_digit_scenes(tmp_path / "scenes", {"train": 4, "val": 2})
    return tmp_path / "runs"


@pytest.mark.parametrize("name", FIGURES)
def test_evaluates(name, runs):
    task, kind = name.split("-")
    assert main([task, "eval", "--checkpoint", f"runs/{task}/{kind}.ckpt", "--output", "figures.json"]) == 0
    found = json.loads(Path("figures.json").read_text())
    assert {figure: found[figure] for figure in FIGURES[name]} == pytest.approx(FIGURES[name], rel=1e-4)


@pytest.mark.parametrize("name", FIRST_BOXES)
def test_evaluates_a_detector(name, runs):
    task, kind = name.split("-")
    assert main([task, "eval", "--checkpoint", f"runs/{task}/{kind}.ckpt", "--results", "boxes.json"]) == 0
    found = json.loads(Path("boxes.json").read_text())
    assert len(found) == 200
    assert (found[0]["image_id"], found[0]["category_id"]) == (1, 10)
    assert found[0]["bbox"] == pytest.approx(FIRST_BOXES[name][0], rel=1e-3)
    assert found[0]["score"] == pytest.approx(FIRST_BOXES[name][1], rel=1e-4)


def test_predicts(runs, capsys):
    PIL.Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save("grey.png")
    scene = "scenes/val/000000.png"
    assert main(["classify", "predict", "grey.png", "--checkpoint", "runs/classify/best.ckpt"]) == 0
    # the classes and their scores, whatever the table around them looks like
    out = capsys.readouterr().out
    assert re.search(r"\b1\b.*\b24\.6\b.*\b6\b.*\b18\.6\b.*\b2\b.*\b12\.9\b", out, re.DOTALL)
    assert main(["detect", "predict", scene, "--checkpoint", "runs/detect/best.ckpt", "--score", "0.1"]) == 0
    assert re.search(r"\b32 objects in 1 image", capsys.readouterr().out)
    assert main(["segment", "predict", scene, "--checkpoint", "runs/segment/best.ckpt", "--output", "maps"]) == 0
    shares = np.bincount(np.asarray(PIL.Image.open("maps/000000.png")).flatten(), minlength=11) / 128**2
    assert shares[[6, 10, 4]] == pytest.approx([0.8475341797, 0.1141967773, 0.0325927734], abs=1e-3)


@pytest.mark.parametrize("task", TASKS)
def test_goes_on(task, runs, monkeypatch):
    # as 0.1.0 did on every processor
    monkeypatch.setattr("involution.engine.optimizer.cpu_has_bfloat16", lambda: True)
    assert main([task, "train", "--resume", f"runs/{task}/last.ckpt"]) == 0
    with (runs / task / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(float(row["epoch"])) for row in rows] == [1, 2, 3]
    wanted = LAST_EPOCHS[task]
    # sums of a whole epoch: machines differ in the last digits of each step
    assert {figure: float(rows[-1][figure]) for figure in wanted} == pytest.approx(wanted, rel=1e-3)

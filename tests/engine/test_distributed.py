"""Two processes must compute what one computes."""

import json
import os
import runpy
import subprocess
import sys

import pytest
import timm
import torch
from processes import run_processes

from involution.engine import evaluate, train
from involution.engine.tasks.classify.module import ClassificationTask

WORKER = """
import json, sys
import torch
torch.set_num_threads(1)
from involution.engine import evaluate, train
from involution.engine.process import is_main_process
from involution.engine.tasks.classify.config import ClassifyConfig
from involution.engine.tasks.classify.module import ClassificationTask

seen = []
original = ClassificationTask.training_step

def record(self, batch, batch_idx):
    # batch norm by its running statistics: a device's share of the batch is then as good as all of it
    self.model.eval()
    seen.append([float(image.double().sum()) for image in batch[0]])
    return original(self, batch, batch_idx)

ClassificationTask.training_step = record
config = ClassifyConfig.load("digits", json.loads(sys.argv[1]))
result = train(config, progress=False)
torch.save(seen, sys.argv[2] + str(int(not is_main_process())))
found = evaluate(result.last, devices=config.devices, accelerator="cpu", batch_size=100)
assert found.num_images == 360, found.num_images
if is_main_process():
    torch.save({"confusion": found.confusion, "loss": found.loss, "seen": found.num_images}, sys.argv[2] + "eval")
"""

# the split of 360 images is uneven over the batches of two devices, and that of 1077 over 256
CHANGES = {
    "model.name": "test_resnet",
    "data.image_size": 8,
    "data.batch_size": 256,
    "trainer.epochs": 2,
    # one device does not compute the gradients of what is frozen, two compute and drop them
    "model.freeze": "stem,layer1",
    "model.freeze_epochs": 1,
    "trainer.accelerator": "cpu",
    "trainer.precision": "64-true",
    "optimizer.name": "sgd",
    "optimizer.lr": 0.05,
    "optimizer.decay_norm_and_bias": True,
    "schedule.warmup_epochs": 0,
}


def alone(rank, words):
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def run(folder, count, *, torchrun=False):
    """Train and evaluate on `count` processes; weights, images seen per process, evaluation."""
    script = folder / "worker.py"
    script.write_text(WORKER)
    torch.manual_seed(3)
    torch.save(timm.create_model("test_resnet", in_chans=1).state_dict(), folder / "start.pth")
    changes = {**CHANGES, "output": str(folder), "name": "run", "devices": 1 if torchrun else count}
    changes["model.weights"] = str(folder / "start.pth")
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={count}", "--master-port=29613"]
    words = [str(script), json.dumps(changes), str(folder / "seen")]
    if count == 1:
        run_processes(1, alone, words)
    else:
        command = [sys.executable, *(launcher if torchrun else []), *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    weights = torch.load(folder / "run" / "last.ckpt", weights_only=True)["state_dict"]
    images = [torch.load(folder / f"seen{rank}") for rank in range(count)]
    return weights, images, torch.load(folder / "seeneval")


@pytest.mark.parametrize("torchrun", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_processes_compute_what_one_computes(tmp_path, torchrun):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    weights, images, figures = run(folders[0], 1)
    shared_weights, shared_images, shared_figures = run(folders[1], 2, torchrun=torchrun)
    for name, value in weights.items():
        assert torch.allclose(value.double(), shared_weights[name].double(), rtol=0, atol=1e-9), name
    # both saw the same images at each step, each on one of the processes
    for step, whole in enumerate(images[0]):
        assert sorted(whole) == sorted(shared_images[0][step] + shared_images[1][step])
    assert torch.equal(figures["confusion"], shared_figures["confusion"])
    assert figures["loss"] == pytest.approx(shared_figures["loss"], rel=1e-6)


def test_accumulated_steps_are_those_of_the_whole_batch(make_config, monkeypatch):
    original = ClassificationTask.training_step

    def frozen_norm(self, batch, batch_idx):
        self.model.eval()
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ClassificationTask, "training_step", frozen_norm)
    same = {"trainer.precision": "64-true", "trainer.epochs": 1}
    whole = train(make_config("whole", **same), progress=False)
    parts = train(make_config("parts", **same, trainer__accumulate=4), progress=False)
    one, other = (torch.load(run.last, weights_only=True)["state_dict"] for run in (whole, parts))
    assert all(torch.allclose(one[name].double(), other[name].double(), atol=1e-7) for name in one)
    assert evaluate(whole.last).loss == pytest.approx(evaluate(parts.last).loss, rel=1e-5)

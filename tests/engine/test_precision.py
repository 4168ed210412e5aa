"""`trainer.precision auto`: what is chosen on each side of a measurement, told, kept and resumed with."""

from dataclasses import replace

import pytest
import torch
from engine_runs import FAST
from PIL import Image

from involution.data.scenes import make_digit_scenes
from involution.engine import ClassifyConfig, DetectConfig, SegmentConfig, evaluate, precision, train
from involution.engine.checkpoint import read_checkpoint
from involution.engine.task import get_task
from involution.predict import load_predictor

SCENES = {"data.batch_size": 2, "data.workers": 0, "trainer.epochs": 1, "schedule.warmup_epochs": 0}
# oneDNN's gradient of a 3×3 convolution of a single pixel in bfloat16, which test_resnet has, is at times anything
CLASSIFY = {**FAST, "model.name": "rednet_nano", "trainer.epochs": 1, "data.spec": "imagefolder:PHOTOS"}
TASKS = {
    "classify": (ClassifyConfig, "digits", CLASSIFY),
    "detect": (DetectConfig, "digit-scenes", {**SCENES, "data.spec": "coco:SCENES"}),
    "segment": (SegmentConfig, "digit-scenes", {**SCENES, "data.spec": "masks:SCENES"}),
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make_digit_scenes(tmp_path_factory.mktemp("precision") / "scenes", {"train": 4, "val": 1})


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of grey images, 48 for training: fewer than the digits, that a training is over soon."""
    folder = tmp_path_factory.mktemp("precision") / "photos"
    for i in range(80):
        file = folder / ["dark", "light"][i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), i + 100 * (i % 2)).save(file)
    return folder


@pytest.fixture
def settings(scenes, photos, tmp_path):
    def make(task="classify", **changes):
        cls, recipe, fast = TASKS[task]
        own = {"output": str(tmp_path), "name": "run", "trainer.precision": "auto"}
        own |= {key.replace("__", "."): value for key, value in changes.items()}
        values = {**fast, **own}
        values["data.spec"] = values["data.spec"].replace("SCENES", str(scenes)).replace("PHOTOS", str(photos))
        return cls.load(recipe, values)

    return make


@pytest.fixture
def seconds(monkeypatch):
    """Let steps take these seconds instead of being measured; the precision of each that was to be, in turn."""
    tried = []

    def arm(plain, half):
        def measure(module, batch, plugin):
            tried.append(str(plugin.precision))
            return half if plugin.precision == "bf16-mixed" else plain

        monkeypatch.setattr(precision, "_seconds", measure)
        return tried

    return arm


def recorded(file):
    return read_checkpoint(file)["involution"]["recipe"]["trainer"]["precision"]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("plain", "half", "wanted"), [(0.2, 0.1, "bf16-mixed"), (0.1, 0.2, "32-true")])
def test_the_faster_one_is_told_used_and_kept(task, plain, half, wanted, settings, seconds, capsys):
    tried = seconds(plain, half)
    result = train(settings(task), progress=False)
    assert tried[:4] == ["32-true", "bf16-mixed"] * 2
    images = 2 if task != "classify" else 8
    other = "32-true" if wanted == "bf16-mixed" else "bf16-mixed"
    line = f"precision: {wanted}, 100 ms a step, measured on {images} images without the optimiser; {other} 200 ms"
    assert capsys.readouterr().err.splitlines().count(line) == 1
    assert recorded(result.last) == recorded(result.best) == wanted
    # both read it
    evaluate(result.best, split="val")
    load_predictor(result.best)


def test_a_gain_within_the_noise_is_none(settings, seconds, capsys):
    seconds(0.1, 0.097)
    assert recorded(train(settings(), progress=False).last) == "32-true"
    assert "precision: 32-true, 100 ms" in capsys.readouterr().err


@pytest.mark.parametrize("wanted", ["bf16-mixed", "32-true"])
@pytest.mark.parametrize("resume", ["auto", "last"])
def test_a_resumed_run_keeps_what_was_chosen(wanted, resume, settings, seconds, capsys):
    tried = seconds(*((0.2, 0.1) if wanted == "bf16-mixed" else (0.1, 0.2)))
    first = train(settings(), progress=False)
    del tried[:]
    # another machine would choose otherwise
    seconds(*((0.1, 0.2) if wanted == "bf16-mixed" else (0.2, 0.1)))
    capsys.readouterr()
    result = train(settings(trainer__epochs=2), progress=False, resume=first.last if resume == "last" else resume)
    assert not tried
    assert f"precision: {wanted}, with which this training began\n" in capsys.readouterr().err
    assert [recorded(result.last), len(result.history)] == [wanted, 2]
    # who asks for one gets it
    other = "32-true" if wanted == "bf16-mixed" else "bf16-mixed"
    result = train(settings(trainer__epochs=3, trainer__precision=other), progress=False, resume="auto")
    assert recorded(result.last) == other


def test_a_measurement_leaves_no_trace(settings, monkeypatch, capsys):
    """Network, metrics, random numbers and images are those of a run that was told its precision."""
    monkeypatch.setattr(precision, "_WORTH", 0.0)
    result = train(settings(name="measured"), progress=False)
    assert "precision: 32-true, " in capsys.readouterr().err
    told = train(settings(name="told", trainer__precision="32-true"), progress=False)
    assert "precision: " not in capsys.readouterr().err
    one, other = (read_checkpoint(found.last)["state_dict"] for found in (result, told))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    drop = {"images_per_second", "seconds"}
    rows = [[{k: v for k, v in row.items() if k not in drop} for row in found.history] for found in (result, told)]
    assert rows[0] == rows[1]


def test_what_can_not_be_measured_is_told_and_trained_in_float32(settings, monkeypatch, capsys):
    def fail(*args):
        raise RuntimeError("no such\nkernel")

    monkeypatch.setattr(precision, "_seconds", fail)
    assert recorded(train(settings(), progress=False).last) == "32-true"
    line = "precision: 32-true, as bf16-mixed could not be measured (no such kernel)\n"
    assert line in capsys.readouterr().err


@pytest.mark.parametrize("has", [True, False])
@pytest.mark.parametrize("kind", ["cuda", "cpu", "mps"])
def test_gpus_and_several_processes_go_by_instructions(kind, has, settings, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    found = precision.chosen(settings(), None, None, None, torch.device(kind), 2)
    wanted = "bf16-mixed" if has and kind != "mps" else "32-true"
    assert found == replace(settings(), trainer=replace(settings().trainer, precision=wanted))
    name = {"cuda": "Tesla T4", "cpu": "this processor"}.get(kind)
    why = f"for which {name} has instructions" if has else f"as {name} has no instructions for bfloat16"
    why = "which is sure to work on mps" if kind == "mps" else why
    assert capsys.readouterr().err == f"precision: {wanted}, {why}\n"


def test_recipes_with_a_time_target_leave_it_open():
    assert get_task("segment").config.load("digit-scenes").trainer.precision == "auto"

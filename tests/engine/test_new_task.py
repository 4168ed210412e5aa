"""A task of one's own is one folder and one registration: here it finds the bright point in an image."""

import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from involution.cli import main
from involution.data import registry
from involution.data.findings import Findings
from involution.data.images import read_image
from involution.data.records import DataSet
from involution.data.transforms import to_channels
from involution.engine import ConfigError, TaskSpec, evaluate, get_task, load, register_task, task, task_names
from involution.engine.config import DataConfig, ModelConfig, RunConfig
from involution.engine.figures import Figures
from involution.engine.loader import EvalItems, TrainItems
from involution.engine.module import TaskModule
from involution.engine.predictor import Look, Option, Predictor, Result, SkippedImage
from involution.engine.settings import ranged
from involution.predict import load_predictor

SIDE = 12


@dataclass
class PointModelConfig(ModelConfig):
    """The network.

    Args:
        name: dense.
        weights: not used.
        width: of the hidden layer.
    """

    name: str = "dense"
    width: int = ranged(32, 1)


@dataclass
class PointDataConfig(DataConfig):
    """The images.

    Args:
        spec: points:PATH.
        batch_size: images per step.
    """

    spec: str = "points:."
    batch_size: int = ranged(8, 1)
    workers: int = ranged(0, 0)


@dataclass
class PointConfig(RunConfig):
    """A run.

    Args:
        name: the run's folder below output.
        model: the network.
        data: the images.
    """

    task: ClassVar[str] = "point"
    name: str = "point"
    model: PointModelConfig = field(default_factory=PointModelConfig)
    data: PointDataConfig = field(default_factory=PointDataConfig)


class Points(Dataset):
    def __init__(self, files):
        self.files = files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        file = self.files[index]
        # the place is in the name: 03-07.png
        return read_image(file), torch.tensor([float(part) / SIDE for part in file.stem.split("-")[:2]])


def open_points(spec, path, options):
    from pathlib import Path

    parts = {name: Points(sorted((Path(path) / name).glob("*.png"))) for name in ("train", "val")}
    return DataSet(spec, ["point"], parts, Findings(used={name: len(part) for name, part in parts.items()}))


def as_input(image):
    return to_channels(image, 1).float() / 255


class PointNetwork(nn.Sequential):
    def head_parameters(self):
        return list(self[-1].parameters())


class PointTask(TaskModule):
    monitor = "closeness"

    def _distance(self, batch):
        images, places = batch
        return (self.model(images) - places).square().sum(1)

    def training_step(self, batch, batch_idx):
        loss = self._distance(batch).mean()
        self.last_loss = float(loss.detach())
        return loss

    def validation_step(self, batch, batch_idx):
        self.distances = [*getattr(self, "distances", []), *self._distance(batch).sqrt().tolist()]

    def on_validation_epoch_end(self):
        self.results = {"distance": float(np.mean(self.distances)), "distances": self.distances}
        self.distances = []

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def train_figures(self):
        return {"loss": self.last_loss}

    def val_figures(self):
        return {"closeness": 1 - self.results["distance"]}


@dataclass(frozen=True, kw_only=True)
class PointFigures(Figures):
    distance: float

    @classmethod
    def from_results(cls, results, **common):
        return cls(distance=results["distance"], **common)

    def table(self):
        return ["distance"], [[f"{self.distance:.4f}"]]

    def to_dict(self):
        return {"distance": self.distance}


@dataclass(frozen=True)
class PointResult(Result):
    x: float
    y: float

    def cells(self):
        return [f"{self.x:.1f}, {self.y:.1f}"]


class PointPredictor(Predictor[PointResult]):
    task = "point"
    verb = "searched for points"
    options = (Option("shift", 0.0, "add this to both coordinates", float),)
    output = ("FILE", "write places as JSON lines")
    channels = 1

    def columns(self, **options):
        return ["place"]

    def look(self, image):
        return Look(as_input(image)[None], (image.height, image.width))

    @torch.inference_mode()
    def run(self, names, images, *, shift=0.0):
        found = self.model(torch.cat([self.look(image).input for image in images])) * SIDE + shift if images else []
        return [PointResult(name, 0.0, *place.tolist()) for name, place in zip(names, found, strict=True)]

    @classmethod
    @contextmanager
    def open_output(cls, path, **options):
        with open(path, "w") as file:
            yield (
                lambda result, name: (
                    isinstance(result, SkippedImage)
                    or file.write(json.dumps({"name": name, "x": result.x, "y": result.y}) + "\n")
                )
            )


def check(config):
    if config.model.width > 100:
        raise ConfigError(f"model.width must be at most 100, got {config.model.width}")


SPEC = TaskSpec(
    name="point",
    noun="point finder",
    measure="closeness",
    config=PointConfig,
    check=check,
    build=lambda config, classes, weights: PointNetwork(
        nn.Flatten(), nn.Linear(SIDE**2, config.model.width), nn.ReLU(), nn.Linear(config.model.width, 2)
    ),
    describe=lambda config: {"model_args": {}, "input_size": (1, SIDE, SIDE)},
    module=lambda network, config, card, steps, data: PointTask(network, config, card, steps),
    train_set=lambda config, data: TrainItems(data.train, lambda image, place: (as_input(image), place), config.seed),
    eval_set=lambda config, part: EvalItems(part, lambda image, place: (as_input(image), place)),
    figures=PointFigures,
    predictor=PointPredictor,
)


@pytest.fixture
def points(tmp_path, monkeypatch):
    """The task and its format, registered; a folder of images."""
    monkeypatch.setattr(task, "_SPECS", dict(task._SPECS))
    registry.formats()
    monkeypatch.setattr(registry, "_FORMATS", dict(registry._FORMATS))
    register_task(SPEC)
    registry.register(registry.Format("points", "point", "points:PATH", "a bright point", open_points))
    root = tmp_path / "points"
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        for x in range(1, SIDE - 1):
            for y in range(1 + (split == "val"), SIDE - 1, 2):
                pixels = np.zeros((SIDE, SIDE), np.uint8)
                pixels[y - 1 : y + 2, x - 1 : x + 2] = 255
                PIL.Image.fromarray(pixels).save(root / split / f"{x:02}-{y:02}.png")
    return root


def test_a_new_task_trains_evaluates_and_predicts_through_the_command_line(points, tmp_path, capsys):
    words = ["--data.spec", f"points:{points}", "--output", str(tmp_path / "runs"), "--trainer.epochs", "30"]
    words += ["--optimizer.lr", "0.05", "--data.std", "[1]", "--data.mean", "[0]"]
    assert main(["point", "train", *words]) == 0
    best = tmp_path / "runs" / "point" / "best.ckpt"
    said = capsys.readouterr().out
    assert "best validation closeness" in said
    assert f"involution point eval --checkpoint {best}" in said

    assert main(["point", "eval", "--checkpoint", str(best), "--output", str(tmp_path / "figures.json")]) == 0
    assert "50 images" in capsys.readouterr().out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["distance"] < 0.15
    assert evaluate(best).distance == pytest.approx(figures["distance"])

    output = tmp_path / "places.jsonl"
    argv = ["point", "predict", str(points / "val" / "05-08.png"), "--checkpoint", str(best), "--shift", "100"]
    assert main([*argv, "--output", str(output)]) == 0
    assert "1 searched for points, 0 skipped" in capsys.readouterr().out
    found = json.loads(output.read_text())
    assert (found["x"] - 100, found["y"] - 100) == (pytest.approx(5, abs=2), pytest.approx(8, abs=2))

    assert main(["point", "train", "--resume", str(best.with_name("last.ckpt")), "--trainer.epochs", "31"]) == 0
    network, card = load(best)
    assert (card.task, type(network)) == ("point", PointNetwork)
    assert load_predictor(best, "cpu").predict(points / "val" / "05-08.png").x == pytest.approx(5, abs=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.width", "0"], "model.width must be 1 or more, got 0"),
        (["--model.width", "200"], "model.width must be at most 100, got 200"),
        (["--model.widht", "3"], "unknown option --model.widht; did you mean --model.width?"),
        (["--data.spec", "point"], "no data set named 'point' for point (there are points:PATH)"),
    ],
)
def test_mistakes_with_it_get_one_line(points, tmp_path, capsys, words, message):
    assert main(["point", "train", "--output", str(tmp_path), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_the_help_lists_it(points, capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "train a point finder" in text
    assert "measure a trained point finder" in text
    assert "point" in task_names()


def test_names_are_taken_once(points):
    with pytest.raises(ValueError, match="there is already a task named 'point'"):
        register_task(SPEC)
    with pytest.raises(ConfigError, match=r"no task named 'clasify' \(there are classify, .*\); did you mean classify"):
        get_task("clasify")

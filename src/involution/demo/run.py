"""Train, evaluate and compare RedNet-nano and its convolution twin on the embedded digits."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from involution.demo import EPOCHS

if TYPE_CHECKING:
    from involution.demo.photo import PhotoResult
    from involution.engine import ClassificationFigures, TrainResult
    from involution.predict import ClassificationResult

MODELS = {"involution": "rednet_nano", "convolution": "rednet_nano_conv"}
TITLES = {"involution": "RedNet-nano", "convolution": "convolution twin"}
MARKER = "demo.json"


@dataclass(frozen=True)
class SeedRun:
    """One training run of one model, and its single evaluation on the test split."""

    seed: int
    train: TrainResult
    test: ClassificationFigures


@dataclass(frozen=True)
class ModelRuns:
    """Everything the demo measured of one model.

    Args:
        kind: "involution" or "convolution".
        name: Its name in timm's registry.
        parameters: Number of trainable parameters.
        macs: Multiply-adds for one image.
        runs: One per seed.
    """

    kind: str
    name: str
    parameters: int
    macs: float
    runs: list[SeedRun]

    @property
    def title(self) -> str:
        """Name for tables and charts."""
        return TITLES[self.kind]

    def statistic(self, value: Callable[[SeedRun], float]) -> tuple[float, float | None]:
        """Mean of a figure over the seeds, and its standard deviation (n - 1) where there are several."""
        values = torch.tensor([value(run) for run in self.runs], dtype=torch.float64)
        return values.mean().item(), values.std().item() if len(values) > 1 else None


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured.

    Args:
        folder: The run folder.
        models: RedNet-nano and its twin.
        truth: True class of every written test image, by file.
        predictions: RedNet-nano's answer (first seed) to every written test image, all classes ranked.
        seconds: Time for everything.
        photo: What was measured on a photograph, if it was not skipped.
        jobs: Trainings at a time.
    """

    folder: Path
    models: list[ModelRuns]
    truth: dict[str, str]
    predictions: list[ClassificationResult]
    seconds: float
    photo: PhotoResult | None = None
    jobs: int = 1


class DemoError(ValueError):
    """The demo cannot run as asked."""


def run_demo(
    out: str | Path = "runs/demo",
    *,
    seeds: int = 1,
    epochs: int = EPOCHS,
    photo: bool = True,
    say: Callable[[str], None] = print,
    progress: bool = True,
) -> DemoResult:
    """Train and evaluate both models for each seed, and classify the test images from files.

    Args:
        out: Run folder; an earlier demo there is moved aside.
        seeds: Number of trainings per model, with the seeds 0, 1, ...
        epochs: Passes over the training images.
        photo: Take noise from a photograph, too.
        say: Called with a line about each step.
        progress: Show progress bars.

    Raises:
        DemoError: If `out` holds files that are not a demo's.
    """
    if seeds < 1 or epochs < 1:
        raise DemoError(f"wanted seeds and epochs of 1 or more, got seeds={seeds}, epochs={epochs}")
    start = time.perf_counter()
    folder = Path(out)
    if moved := prepare_folder(folder):
        say(f"The earlier demo is kept in {moved}")
    from involution.demo.photo import run_photo
    from involution.studies import workers

    seen = run_photo(folder / "photo", say) if photo else None
    both = " and ".join(f"{TITLES[kind]} ({name})" for kind, name in MODELS.items())
    say(f"Training {both}, {'seed 0' if seeds == 1 else f'seeds 0 to {seeds - 1}'}, {epochs} epochs")
    # each with one thread takes little longer than with two, and both are done at once
    plan = [(kind, seed) for seed in range(seeds) for kind in MODELS]
    jobs = min(workers.default_jobs(), len(plan))
    work = partial(train_and_test, folder, epochs=epochs, progress=progress, alone=jobs == 1)
    found = {}
    for (kind, seed), run in workers.do_all(work, plan, jobs):
        found[kind, seed] = run
        say(f"{TITLES[kind]}, seed {seed}: {100 * run.test.top1:.2f} % of {run.test.num_images} test images correct")
    models = []
    for kind, name in MODELS.items():
        runs = [found[kind, seed] for seed in range(seeds)]
        parameters, macs = model_cost(runs[0].train.best)
        models.append(ModelRuns(kind, name, parameters, macs, runs))
    say("Classifying the test images")
    truth, predictions = classify_test_images(folder, models[0].runs[0].train.best)
    result = DemoResult(folder, models, truth, predictions, time.perf_counter() - start, seen, jobs)
    write(folder / MARKER, json.dumps(summary(result), indent=2) + "\n")
    return result


def prepare_folder(folder: Path) -> Path | None:
    """Make the run folder; move an earlier demo there to the next free name and return that."""
    from involution.engine.files import make_folder

    moved = None
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / MARKER).is_file():
            raise DemoError(f"{folder} holds files that are not a demo's; choose another folder with --output")
        numbered = (folder.with_name(f"{folder.name}-{number}") for number in count(1))
        moved = folder.rename(next(path for path in numbered if not path.exists()))
    elif folder.exists() and not folder.is_dir():
        raise DemoError(f"{folder} is a file; choose a folder with --output")
    make_folder(folder)
    # from here on the folder counts as a demo's, even if the demo is interrupted
    write(folder / MARKER, "{}\n")
    return moved


def train_and_test(folder: Path, run: tuple[str, int], *, epochs: int, progress: bool, alone: bool) -> SeedRun:
    """Train one model with the digits recipe, choose its checkpoint on the validation split, and test it once.

    Args:
        folder: The demo's.
        run: Kind of model, and seed.
        epochs: Passes over the training images.
        progress: Show how far it is, by a bar where it is alone on a terminal.
        alone: Whether no other training is shown.
    """
    from involution.engine import ClassifyConfig, evaluate, train

    if not alone:
        # rich's variable: two bars would write over each other
        os.environ["TTY_INTERACTIVE"] = "0"
    kind, seed = run
    name = MODELS[kind]
    overrides = {"name": f"{name}-seed{seed}", "output": str(folder), "model.name": name, "seed": seed}
    config = ClassifyConfig.load("digits", {**overrides, "trainer.epochs": epochs})
    trained = train(config, progress=progress)
    return SeedRun(seed, trained, evaluate(trained.best, split="test"))


def model_cost(checkpoint: Path) -> tuple[int, float]:
    """Trainable parameters, and multiply-adds for one image, of a checkpoint's model."""
    from torch.utils.flop_counter import FlopCounterMode

    from involution.engine import load

    model, card = load(checkpoint)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *card.input_size))
    # the counter counts a multiply and an add as two
    return sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops() / 2


def classify_test_images(folder: Path, checkpoint: Path) -> tuple[dict[str, str], list[ClassificationResult]]:
    """Write the test split as PNG files and classify them as a user would."""
    from torchvision.transforms.v2.functional import to_pil_image

    from involution.data.arrays import digits_splits
    from involution.predict import ClassificationPredictor

    classifier = ClassificationPredictor.from_checkpoint(checkpoint)
    classes = classifier.card.classes
    *_, test = digits_splits(classifier.card.recipe["data"]["split_seed"])
    images = folder / "images"
    images.mkdir()
    truth = {}
    for index in range(len(test)):
        image, label = test[index]
        path = images / f"{index:03d}_is_{classes[label]}.png"
        to_pil_image(image).save(path)
        truth[str(path)] = classes[label]
    return truth, classifier.predict(list(truth), topk=len(classes))


def summary(result: DemoResult) -> dict[str, object]:
    """The measured figures as plain types, for other programs."""
    return {
        "seconds": result.seconds,
        "photo": result.photo.rows if result.photo else None,
        "models": {
            model.name: {
                "parameters": model.parameters,
                "macs": model.macs,
                "runs": [
                    {
                        "seed": run.seed,
                        "checkpoint": str(run.train.best),
                        "val_accuracy": run.train.score,
                        "test_top1": run.test.top1,
                        "test_loss": run.test.loss,
                        "train_seconds": run.train.seconds,
                        "train_images_per_second": run.train.images_per_second,
                        "test_images_per_second": run.test.images_per_second,
                    }
                    for run in model.runs
                ],
            }
            for model in result.models
        },
    }


def write(path: Path, text: str) -> None:
    """Write a text file in one step, so that it is never half written."""
    from involution.engine.files import atomic_path

    with atomic_path(path, replace=True) as partial:
        partial.write_text(text, encoding="utf-8")

"""The demo's report: one HTML file with everything in it."""

from __future__ import annotations

import datetime
import math
import platform
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from involution.data.images import read_image
from involution.demo.conclusion import conclusion
from involution.demo.kernels import kernel_pictures
from involution.demo.photo import photo_section
from involution.demo.run import DemoResult, ModelRuns, write
from involution.report import figures
from involution.report.page import device_text, embedded, render

if TYPE_CHECKING:
    from torch import Tensor

    from involution.predict import ClassificationResult

# key, name and unit of each row of the table
MEASURES = (
    ("accuracy", "test accuracy", "%"),
    ("parameters", "parameters", "thousands"),
    ("macs", "multiply-adds", "millions per image"),
    ("seconds", "training time", "s"),
    ("train_speed", "training speed", "images/s"),
    ("eval_speed", "evaluation speed", "images/s"),
)
COLORS = {"involution": figures.INVOLUTION, "convolution": figures.CONVOLUTION}


def write_report(result: DemoResult, command: str = "involution demo") -> Path:
    """Write `report.html` into the demo's folder.

    Args:
        result: What `run_demo` measured.
        command: The command that made it, shown in the footer.

    Returns:
        The path of the report.
    """
    path = result.folder / "report.html"
    write(path, render("report.html.j2", context(result, command), "involution.demo"))
    return path


def context(result: DemoResult, command: str) -> dict[str, Any]:
    """All variables of the template."""
    from involution.data.arrays import digits_splits
    from involution.engine import load

    runs = result.models[0].runs
    _, card = load(runs[0].train.best)
    train, val, _ = digits_splits(card.recipe["data"]["split_seed"])
    versions = {"Python": platform.python_version(), **card.versions}
    return {
        "conclusion": conclusion(result.models),
        "models": [model_row(model) for model in result.models],
        "measures": MEASURES,
        "seeds": len(runs),
        "epochs": len(runs[0].train.history),
        "data": {
            "train": len(train),
            "val": len(val),
            "test": runs[0].test.num_images,
            "side": card.input_size[-1],
        },
        "device": device_text() + (f", {result.jobs} trainings at a time" if result.jobs > 1 else ""),
        "kernel": kernel_pictures(result),
        "photo": photo_section(result.photo) if result.photo else None,
        "curves": learning_curves(result.models),
        "confusions": [confusion(model, card.classes) for model in result.models],
        "examples": first_of_each(result),
        **hardest(result),
        "command": command,
        "date": datetime.date.today().isoformat(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "images": result.folder / "images",
        "predict_command": shlex.join(
            [
                "involution",
                "classify",
                "predict",
                str(result.folder / "images"),
                "--checkpoint",
                str(runs[0].train.best),
            ]
        ),
    }


def model_row(model: ModelRuns) -> dict[str, str]:
    """One model's column of the table, as text."""

    def text(value: float, spread: float | None, digits: int) -> str:
        return f"{value:,.{digits}f}" + ("" if spread is None else f" ± {spread:,.{digits}f}")

    return {
        "kind": model.kind,
        "title": model.title,
        "accuracy": text(*model.statistic(lambda run: 100 * run.test.top1), 2),
        "parameters": f"{model.parameters / 1e3:,.1f}",
        "macs": f"{model.macs / 1e6:,.2f}",
        "seconds": text(*model.statistic(lambda run: run.train.seconds), 1),
        "train_speed": text(*model.statistic(lambda run: run.train.images_per_second), 0),
        "eval_speed": text(*model.statistic(lambda run: run.test.images_per_second), 0),
    }


def learning_curves(models: list[ModelRuns]) -> list[dict[str, Any]]:
    """The charts of loss and accuracy over the epochs."""
    spread = " The band covers all seeds; the line is their mean." if len(models[0].runs) > 1 else ""
    loss = {model.title: history(model, "val_loss") for model in models}
    accuracy = {model.title: history(model, "val_accuracy") for model in models}
    colors = [COLORS[model.kind] for model in models]
    # nearly everything happens near the top
    middle = min(values.median().item() for values in accuracy.values())
    low = max(math.floor(20 * middle) * 5 - 10, 0)
    charts = {
        "accuracy": figures.to_svg(
            lambda: figures.learning_curves(accuracy, colors, "accuracy (%)", percent=True, low=low),
            "Validation accuracy in percent over the epochs",
        ),
        "loss": figures.to_svg(
            lambda: figures.learning_curves(loss, colors, "cross-entropy (nats)", low=0),
            "Validation loss over the epochs",
        ),
    }
    return [
        {
            "title": "Accuracy on the validation images",
            "svg": charts["accuracy"],
            "caption": f"Higher is better.{f' Cut off below {low} %.' if low else ''}{spread}",
        },
        {
            "title": "Loss on the validation images",
            "svg": charts["loss"],
            "caption": f"How surprised the network is by the correct answer; lower is better.{spread}",
        },
    ]


def history(model: ModelRuns, key: str) -> Tensor:
    """One value per epoch for each seed `[seeds, epochs]`."""
    return torch.tensor([[row[key] for row in run.train.history] for run in model.runs], dtype=torch.float64)


def confusion(model: ModelRuns, classes: list[str]) -> dict[str, Any]:
    """A model's confusion matrix, its seeds added up."""
    counts = torch.stack([run.test.confusion for run in model.runs]).sum(0)
    return {
        "kind": model.kind,
        "title": model.title,
        "svg": figures.to_svg(
            lambda: figures.confusion_matrix(counts, classes, COLORS[model.kind], figures.WRONG, what="digit"),
            f"Confusion matrix of {model.title}: true digit by predicted digit",
        ),
    }


def first_of_each(result: DemoResult) -> list[dict[str, Any]]:
    """The first test image of each class with its prediction, right or wrong."""
    firsts: dict[str, ClassificationResult] = {}
    for item in result.predictions:
        firsts.setdefault(result.truth[item.file], item)
    return [example(firsts[label], label) for label in sorted(firsts)]


def hardest(result: DemoResult, count: int = 10) -> dict[str, Any]:
    """The test images whose true class got the lowest probability, and a sentence about them."""

    def truth_score(item: ClassificationResult) -> float:
        return item.scores[item.labels.index(result.truth[item.file])]

    wrong = sum(item.label != result.truth[item.file] for item in result.predictions)
    ranked = sorted(result.predictions, key=truth_score)[:count]
    return {
        "hard_text": f"It misread {wrong} of {len(result.predictions)} test images (first seed). These are "
        f"the {len(ranked)} to whose true digit it gave the lowest probability, hardest first.",
        "hardest": [example(item, result.truth[item.file]) for item in ranked],
    }


def example(item: ClassificationResult, truth: str, bars: int = 3) -> dict[str, Any]:
    """A test image with its likeliest classes as bars."""
    return {
        "truth": truth,
        "said": item.label,
        "right": item.label == truth,
        **embedded(read_image(item.file)),
        "file": "",
        "bars": [
            (label, round(100 * score, 1), f"{100 * score:.1f} %")
            for label, score in list(zip(item.labels, item.scores, strict=True))[:bars]
        ],
    }

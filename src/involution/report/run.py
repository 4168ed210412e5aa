"""The report of a training run or of an evaluation."""

from __future__ import annotations

import datetime
import math
import os
import platform
import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from involution.data.images import ImageError
from involution.engine.evaluation import Measured, measure
from involution.engine.files import atomic_path
from involution.engine.process import alone
from involution.engine.run import TrainResult
from involution.engine.task import get_task, task_noun, with_article
from involution.report import figures
from involution.report.page import device_text, render
from involution.report.sections import confusion_chart, name_of, picture_of, section

if TYPE_CHECKING:
    from PIL.Image import Image

    from involution.engine.config import RunConfig
    from involution.engine.figures import Figures

# what a report needs, asked for before the work
REPORT_NEEDS = ("matplotlib", "jinja2", "markupsafe")
# groups of an involution whose filters are drawn, and pixels of the picture beside them
_GROUPS, _SIDE = 2, 256
_SPLITS = {"train": "training", "val": "validation", "test": "test", "all": "measured"}


def write_run_report(result: TrainResult, config: RunConfig, command: str) -> Path:
    """Write report.html, and confusion.png for classes, into a run's folder.

    The best checkpoint is measured once more on the validation images, on one device.

    Args:
        result: what `train` returned.
        config: its settings.
        command: the command that made it, shown in the footer.

    Returns:
        The path of the report.
    """
    with alone():
        measured = measure(
            result.best,
            split="val",
            accelerator=config.trainer.accelerator,
            on_problem=config.data.on_problem,
            told=True,
        )
    epochs = len(result.history)
    spec, known = get_task(config.task), math.isfinite(result.score)
    tiles = [
        _tile(
            f"validation {spec.measure}",
            f"{100 * result.score:.2f}" if known else "–",
            "%" if known else "",
            f"in epoch {_best_epoch(result)} of {epochs}" if known else f"not a number in any of {epochs} epochs",
        ),
        _tile("images per second", f"{result.images_per_second:,.0f}", "", "in training"),
        _tile("time", *_duration(result.seconds), "of training, without validation"),
    ]
    variables = {
        **_variables(measured, result.best, command),
        "title": f"{config.name}: training {with_article(task_noun(config.task))}",
        "tiles": [*tiles, _size(measured)],
        "curves": _curves(result.history),
    }
    if ending := _ending(result):
        variables["conclusion"] = f"{variables['conclusion']} {ending}".strip()
    path = result.log_dir / "report.html"
    _write(path, render("run.html.j2", variables))
    if hasattr(measured.figures, "confusion"):
        _write_matrix(result.log_dir / "confusion.png", measured)
    return path


def evaluation_page(measured: Measured, checkpoint: str | os.PathLike[str], command: str) -> str:
    """The report of an evaluation, as HTML.

    Args:
        measured: what `measure` returned.
        checkpoint: the file that was measured.
        command: the command that made it, shown in the footer.
    """
    found, card = measured.figures, measured.predictor.card
    tiles = [
        _tile(name, cell.rstrip("%"), "" if cell == "–%" else "%", f"on the {_SPLITS[found.split]} images")
        for name, cell in headline(found, get_task(card.task).measure)
    ]
    tiles.append(_tile("images", f"{found.num_images:,}", "", f"{found.images_per_second:,.0f} images/s"))
    variables = {
        **_variables(measured, checkpoint, command),
        "title": f"{Path(checkpoint).name} on the {_SPLITS[found.split]} images",
        "tiles": [*tiles, _size(measured)],
        "curves": [],
    }
    return render("run.html.j2", variables)


def headline(found: Figures, measure: str) -> list[tuple[str, str]]:
    """Names and texts of the figures at the top of an evaluation's page, which end in %.

    Args:
        found: the figures.
        measure: what the task calls the first of each row.
    """
    header, rows = found.table()
    shares = [(name, cell) for name, cell in zip(header, rows[-1], strict=True) if cell.endswith("%")]
    if shares:
        return shares[:2]
    # of classes, their mean alone
    several = rows[-1:] if header[0] == "class" else rows
    return [(f"{measure} of {row[0]}" if len(several) > 1 else measure, f"{row[1]}%") for row in several]


def _variables(measured: Measured, checkpoint: str | os.PathLike[str], command: str) -> dict[str, Any]:
    found, card = measured.figures, measured.predictor.card
    shown = section(card.task, measured)
    backbone = card.model_args.get("backbone")
    network = f"{card.model} on {backbone}" if backbone else card.model
    spec = card.recipe.get("data", {}).get("spec", "")
    versions = {"Python": platform.python_version(), **card.versions}
    return {
        "lead": f"{network}, {len(card.classes)} class{'' if len(card.classes) == 1 else 'es'}, trained on {spec}.",
        "conclusion": shown.conclusion,
        "warnings": measured.warnings,
        "measured": f"{checkpoint} on the {found.num_images:,} {_SPLITS[found.split]} images.",
        "charts": shown.charts,
        "table": shown.table,
        "hardest": shown.hardest,
        "kernel": _kernels(measured),
        "settings": _yaml(card.recipe),
        "command": command,
        "date": datetime.date.today().isoformat(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "device": device_text(),
        "predict_command": shlex.join(["involution", card.task, "predict", "IMAGE", "--checkpoint", str(checkpoint)]),
    }


def _tile(name: str, value: str, unit: str, note: str) -> dict[str, str]:
    return {"name": name, "value": value, "unit": unit, "note": note}


def _size(measured: Measured) -> dict[str, str]:
    count = sum(parameter.numel() for parameter in measured.predictor.model.parameters())
    value, unit = (f"{count / 1e6:,.2f}", "million") if count >= 1e5 else (f"{count:,}", "")
    return _tile("parameters", value, unit, "that the network learns")


def _duration(seconds: float) -> tuple[str, str]:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f}", unit
    return f"{seconds:,.0f}", "s"


def _best_epoch(result: TrainResult) -> int:
    """The epoch that best.ckpt is of: the last one with its score."""
    figures_of = {int(row["epoch"]): [row[name] for name in row if name.startswith("val_")] for row in result.history}
    epochs = [epoch for epoch, found in figures_of.items() if result.score in found]
    return epochs[-1] if epochs else len(result.history)


def _ending(result: TrainResult) -> str:
    """What the best epoch says of the length of the training."""
    epochs, best = len(result.history), _best_epoch(result)
    if not math.isfinite(result.score) or epochs < 4:
        return ""
    if best == epochs:
        return "Its last epoch was its best: a longer training may do better."
    if best <= epochs // 2:
        return f"It was best in epoch {best} of {epochs} and did not improve after that."
    return ""


_NAMES = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "miou": "mean IoU"}


def _curves(history: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Charts of everything that the history has of training and validation: losses, and shares in %."""
    if not history:
        return []
    colours = (figures.INVOLUTION, figures.CONVOLUTION, figures.MUTED, figures.WRONG)
    lines: dict[str, dict[str, torch.Tensor]] = {"loss": {}, "share": {}}
    # validation first: it is what chooses
    for key in sorted(history[0], key=lambda name: not name.startswith("val_")):
        kind, _, name = key.partition("_")
        if kind in ("train", "val") and len(lines["loss" if name == "loss" else "share"]) < len(colours):
            words = f"{_NAMES.get(name, name.replace('_', ' '))} ({'validation' if kind == 'val' else 'training'})"
            values = torch.tensor([[row[key] for row in history]], dtype=torch.float64)
            lines["loss" if name == "loss" else "share"][words] = values
    charts = []
    if lines["share"]:
        svg = figures.to_svg(
            lambda: figures.learning_curves(
                lines["share"], colours[: len(lines["share"])], "%", percent=True, low=_floor(lines["share"])
            ),
            f"{', '.join(lines['share'])} in percent over the epochs",
        )
        charts.append({"title": "Figures over the epochs", "svg": svg, "caption": "Higher is better."})
    if lines["loss"]:
        svg = figures.to_svg(
            lambda: figures.learning_curves(lines["loss"], colours[: len(lines["loss"])], "loss"),
            f"{', '.join(lines['loss'])} over the epochs",
        )
        charts.append({"title": "Loss over the epochs", "svg": svg, "caption": "Lower is better."})
    return charts


def _floor(lines: dict[str, torch.Tensor]) -> float:
    # the whole scale, unless nearly everything happens near the top
    least = min(100 * values.nan_to_num(0.0).min().item() for values in lines.values())
    return 50.0 if least > 55 else 0.0


def _kernels(measured: Measured) -> dict[str, Any] | None:
    """The filters that an involution in the middle of the network writes for an image of middling difficulty."""
    from markupsafe import Markup

    from involution.explain import layer_map
    from involution.explain.kernels import involution_layers, plot_kernels
    from involution.explain.layer import telling_positions
    from involution.explain.subject import Subject
    from involution.explain.touch import touch_html, touch_layers

    predictor = measured.predictor
    layers = involution_layers(predictor.body)
    if not layers or not len(measured.images):
        return None
    order = sorted(range(len(measured.figures.difficulty)), key=lambda place: measured.figures.difficulty[place])
    place, shown_picture = _first_readable(measured.images, order[len(order) // 2] if order else 0)
    card = predictor.card
    name = name_of(measured.images, place)
    subject = Subject(predictor.body, card.model, predictor.channels, predictor.look, tuple(card.mean), tuple(card.std))
    view = subject.view(shown_picture)
    found = layer_map(view, layers[len(layers) // 2])
    trained, random = (layer_map(one, found.name).kernels[0].sum((0, 1)) for one in (view, view.with_random_weights()))
    picture = _smaller(view.picture)
    groups, k_h, k_w = found.kernels.shape[:3]
    shown = min(groups, _GROUPS)
    caption = (
        f"The {k_h}×{k_w} filters at the lettered positions. A group is a set of channels that share a filter: "
        f"{shown} of the {groups} groups of this layer."
        if groups > shown
        else f"The {k_h}×{k_w} filters at the lettered positions. A group is a set of channels that share a filter."
    )
    return {
        "layer": found.name,
        "file": name,
        "caption": caption,
        "touch": Markup(touch_html([(name, view, None)], touch_layers(predictor.body), found.name)),
        "tiles": figures.on_light_and_dark(
            lambda colors: plot_kernels(picture, found.kernels[:shown], telling_positions(found), colors=colors),
            "The image with lettered positions, and the filters that the involution generates there",
        ),
        "map": figures.on_light_and_dark(
            lambda colors: figures.heat_map(picture, trained, random, colors),
            "The image, the sum of the filter at each of its positions, and the same with random weights",
        ),
    }


def _first_readable(images: Any, first: int) -> tuple[int, Image]:
    """The first image from a place on that can be read, of a split of which some were left out, and its place."""
    for place in range(first, len(images)):
        try:
            return place, picture_of(images, place)
        except ImageError:
            # it was told when the split was measured
            continue
    raise ImageError(f"none of the {len(images)} images can be read")


def _smaller(picture: torch.Tensor) -> torch.Tensor:
    """A picture `[H, W]` or `[H, W, 3]` with a longer side of no more than 256 pixels."""
    factor = _SIDE / max(picture.shape[:2])
    if factor >= 1:
        return picture
    planes = picture[None, None] if picture.ndim == 2 else picture.permute(2, 0, 1)[None]
    made = F.interpolate(planes, scale_factor=factor, mode="area")[0].clamp(0, 1)
    return made[0] if picture.ndim == 2 else made.permute(1, 2, 0)


def _yaml(settings: dict[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100))


def _write(path: Path, text: str) -> None:
    with atomic_path(path, replace=True) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def _write_matrix(path: Path, measured: Measured) -> None:
    draw = confusion_chart(measured.figures, measured.predictor.card.task == "segment")
    with warnings.catch_warnings(), atomic_path(path, replace=True) as partial:
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        draw("#c2570c", "#c62f4b").savefig(partial, format="png", dpi=150)

"""What the report of each task shows: its charts, its table, and the images that it got most wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from involution.data.colours import hexadecimal, is_background, palette
from involution.data.errors import printable
from involution.data.records import item_name
from involution.engine.evaluation import Measured
from involution.report import figures
from involution.report.page import embedded

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from involution.engine.tasks.classify.figures import ClassificationFigures
    from involution.engine.tasks.detect.figures import DetectionFigures
    from involution.engine.tasks.segment.figures import SegmentationFigures

# images, classes in a matrix, and rows of a table; of more, the worst are shown
MOST_CARDS, MOST_PAIRS, MOST_CLASSES, MOST_ROWS = 15, 6, 30, 40


@dataclass(frozen=True)
class Section:
    """How well a network does.

    Attributes:
        charts: title, SVG and caption of each chart.
        table: header, rows, and a note.
        hardest: a sentence and the images that the network got most wrong, None where a task does not tell.
        conclusion: a sentence for the top of the page, perhaps none.
    """

    charts: list[dict[str, Any]]
    table: dict[str, Any]
    hardest: dict[str, Any] | None = None
    conclusion: str = ""


def section(task: str, measured: Measured) -> Section:
    """What is shown of an evaluation; of a task without pictures of its own, the table of its figures."""
    make: dict[str, Callable[[Measured], Section]] = {"classify": _classify, "detect": _detect, "segment": _segment}
    if task in make:
        return make[task](measured)
    header, rows = measured.figures.table()
    return Section([], {"header": header, "rows": rows, "note": measured.figures.summary()})


def confusion_chart(found: Any, pixels: bool) -> Callable[[str, str], Figure]:
    """What draws the confusion matrix of the classes that are mixed up most, in the colours of right and wrong."""
    chosen = _most_mixed_up(found.confusion)
    counts, names = found.confusion[chosen][:, chosen], [found.classes[place] for place in chosen]
    return partial(figures.confusion_matrix, counts, names, shares=pixels)


def _confusion(found: Any, pixels: bool) -> dict[str, Any]:
    shown, total = min(len(found.classes), MOST_CLASSES), len(found.classes)
    unit = "The share of its pixels in %" if pixels else "How many images"
    caption = f"{unit} of each class (row) were taken for each class (column)."
    if shown < total:
        caption += f" These are the {shown} of {total} classes that are mixed up most."
    draw = confusion_chart(found, pixels)
    svg = figures.to_svg(
        lambda: draw(figures.INVOLUTION, figures.WRONG), "Confusion matrix: true class by predicted class"
    )
    return {"title": "What is taken for what", "svg": svg, "caption": caption}


def _most_mixed_up(counts: Tensor) -> list[int]:
    mistakes = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    worst = mistakes.argsort(descending=True, stable=True)[:MOST_CLASSES]
    return sorted(worst.tolist())


def _bars(values: Sequence[float]) -> list[dict[str, Any]]:
    return [
        {"text": "–", "share": 0} if math.isnan(value) else {"text": f"{100 * value:.1f}", "share": round(100 * value)}
        for value in values
    ]


def _rows(header: list[str], rows: list[list[Any]], scores: list[float]) -> dict[str, Any]:
    """A table by class; of very many, the classes that do worst."""
    note = ""
    if len(rows) > MOST_ROWS:
        note = f"The {MOST_ROWS} of {len(rows)} classes that do worst."
        order = sorted(range(len(rows)), key=lambda place: (math.isnan(scores[place]), scores[place]))[:MOST_ROWS]
        rows = [rows[place] for place in order]
    return {"header": header, "rows": rows, "note": note}


def _order(found: Any, most: int) -> list[int]:
    """Places of the hardest images."""
    return sorted(range(len(found.difficulty)), key=lambda place: -found.difficulty[place])[:most]


def _shown(count: int, found: Any) -> str:
    return f"These are {count} of the {found.num_images:,} images, hardest first."


def picture_of(images: Any, place: int) -> Image:
    """An image of a split as a picture in 8 bits."""
    from torchvision.transforms.v2.functional import to_pil_image

    from involution.data.images import to_8_bit

    image = images[place][0]
    return to_8_bit(to_pil_image(image) if isinstance(image, Tensor) else image)


def name_of(images: Any, place: int) -> str:
    """What an image is called on the page: the end of its path."""
    return printable("/".join(item_name(images, place).replace("\\", "/").split("/")[-2:]))


def _classify(measured: Measured) -> Section:
    found: ClassificationFigures = measured.figures
    per_class = found.per_class
    rows = [
        [row["name"], *_bars([row["precision"], row["recall"], row["f1"]]), f"{row['images']:,}"] for row in per_class
    ]
    header = ["class", "precision %", "recall %", "F1 %", "images"]
    table = _rows(header, rows, [row["f1"] for row in per_class])
    order = _order(found, MOST_CARDS)
    cards = [_card(measured, place) for place in order]
    wrong = found.num_images - int(found.confusion.diagonal().sum())
    text = (
        f"It was wrong about {wrong:,} of {found.num_images:,} images. To the true class of these it gave the lowest "
        f"probability. {_shown(len(cards), found)}"
    )
    hardest = {"text": text, "cards": cards} if cards else None
    right = f"It is right about {found.num_images - wrong:,} of {found.num_images:,} images"
    by_class = {row["name"]: row["f1"] for row in per_class}
    return Section(
        [_confusion(found, pixels=False)], table, hardest, f"{right}{_weakest(by_class, 'F1')}{_mixed_up(found)}."
    )


def _weakest(by_class: dict[str, float], measure: str) -> str:
    """The class that a network does worst at, as the end of a sentence; nothing where none stands out."""
    known = {name: value for name, value in by_class.items() if not math.isnan(value)}
    if len(known) < 2 or len(set(known.values())) == 1:
        return ""
    name = min(known, key=lambda name: known[name])
    return f"; it does worst at “{printable(name)}” ({measure} {100 * known[name]:.1f} %)"


def _mixed_up(found: Any) -> str:
    """The mistake that is made most often, as the end of a sentence."""
    mistakes = found.confusion - found.confusion.diagonal().diag()
    most = int(mistakes.max())
    if most < 2:
        return ""
    true, said = divmod(int(mistakes.argmax()), len(found.classes))
    names = [printable(found.classes[place]) for place in (true, said)]
    return f" and most often takes “{names[0]}” for “{names[1]}” ({most:,} times)"


def _card(measured: Measured, place: int) -> dict[str, Any]:
    predictor: Any = measured.predictor
    picture = picture_of(measured.images, place)
    truth = measured.figures.classes[int(measured.images[place][1])]
    (result,) = predictor.run([""], [picture], topk=3)
    bars = [
        (label, round(100 * score, 1), f"{100 * score:.1f} %")
        for label, score in zip(result.labels, result.scores, strict=True)
    ]
    return {
        "truth": truth,
        "said": result.label,
        "right": result.label == truth,
        **embedded(picture),
        "bars": bars,
        "file": name_of(measured.images, place),
    }


def _detect(measured: Measured) -> Section:
    from involution.engine.tasks.detect.predictor import draw_detections

    found: DetectionFigures = measured.figures
    charts = []
    if found.precision:
        svg = figures.to_svg(
            lambda: figures.precision_recall(found.precision, figures.INVOLUTION),
            "Precision of the boxes over their recall, at IoU 0.5",
        )
        caption = (
            "How many of the boxes are right, while more and more of the objects are found; the mean of the classes. "
            f"A box is right if it covers the object with an IoU of 0.5. The area below the line is AP50, "
            f"{100 * found.bbox['ap50']:.1f} %."
        )
        charts.append({"title": "Precision over recall", "svg": svg, "caption": caption})
    header, rows = found.table()
    figures_table = ", ".join(
        f"{row[0]}: " + ", ".join(f"{name} {cell}" for name, cell in zip(header[1:], row[1:], strict=True))
        for row in rows
    )
    by_class = [[name, *_bars([ap])] for name, ap in zip(found.classes, found.class_ap, strict=True)]
    table = _rows(["class", "AP %"], by_class, found.class_ap)
    table["note"] = f"{table['note']} In %, {figures_table}.".strip()
    predictor: Any = measured.predictor
    pairs = []
    for place in _order(found, MOST_PAIRS):
        picture = picture_of(measured.images, place)
        scene = measured.images.record.scenes[place]
        truth = _true_boxes(predictor, scene, picture)
        (result,) = predictor.run([""], [picture], score=0.5)
        mistakes = int(found.difficulty[place])
        pairs.append(
            {
                "truth": embedded(draw_detections(picture, truth, scores=False))["picture"],
                "truth_text": f"{truth.found} objects",
                "found": embedded(draw_detections(picture, result))["picture"],
                "found_text": f"{result.found} detections",
                "verdict": f"{mistakes} mistake{'' if mistakes == 1 else 's'}",
                "file": name_of(measured.images, place),
            }
        )
    text = (
        "A mistake is an object that was missed, or a detection with a score of 50 % or more where there is no such "
        f"object. {_shown(len(pairs), found)}"
    )
    weakest = _weakest(dict(zip(found.classes, found.class_ap, strict=True)), "AP")
    conclusion = (
        "There are no objects in these images, so that there is no AP."
        if math.isnan(found.bbox["ap"])
        else f"AP is {100 * found.bbox['ap']:.1f} %, AP50 {100 * found.bbox['ap50']:.1f} %{weakest}."
    )
    hardest = {"text": text, "pairs": pairs, "cards": [], "legend": []} if pairs else None
    return Section(charts, table, hardest, conclusion)


def _true_boxes(predictor: Any, scene: Any, picture: Image) -> Any:
    from involution.engine.tasks.detect.predictor import DetectionResult

    boxes = [box for box in scene.boxes if not box.crowd]
    edges = [(x, y, x + max(width, 1), y + max(height, 1)) for x, y, width, height in (box.xywh for box in boxes)]
    return DetectionResult(
        file="",
        seconds=0.0,
        size=(picture.height, picture.width),
        labels=tuple(predictor.card.classes[box.label] for box in boxes),
        category_ids=tuple(predictor.card.category_ids[box.label] for box in boxes),
        scores=(1.0,) * len(boxes),
        boxes=tuple(edges),
    )


def _segment(measured: Measured) -> Section:
    from involution.data.label_code import IGNORED
    from involution.engine.tasks.segment.predictor import SegmentationResult, draw_segmentation

    found: SegmentationFigures = measured.figures
    pixels = found.confusion.sum(1)
    share = (pixels / pixels.sum().clamp(min=1)).tolist()
    rows = [
        [name, *_bars([iou]), f"{100 * part:.1f}"]
        for name, iou, part in zip(found.classes, found.iou, share, strict=True)
    ]
    table = _rows(["class", "IoU %", "share of pixels %"], rows, found.iou)
    predictor: Any = measured.predictor
    pairs, seen = [], set()
    for place in _order(found, MOST_PAIRS):
        picture, labels = picture_of(measured.images, place), torch.as_tensor(measured.images[place][1])
        (result,) = predictor.run([""], [picture])
        # what does not count is of no class, and shown as the picture is
        truth = SegmentationResult("", 0.0, tuple(found.classes), {}, labels.to(torch.uint8))
        seen |= {*labels.unique().tolist(), *result.labels.unique().tolist()} - {IGNORED}
        pairs.append(
            {
                "truth": embedded(draw_segmentation(picture, truth))["picture"],
                "truth_text": "the true classes of the pixels",
                "found": embedded(draw_segmentation(picture, result))["picture"],
                "found_text": "the classes that were found",
                "verdict": f"mean IoU {1 - found.difficulty[place]:.1%}",
                "file": name_of(measured.images, place),
            }
        )
    colours = palette(found.classes)
    legend = [
        (f"{name} (not coloured)", "transparent") if is_background(name) else (name, hexadecimal(colours[label]))
        for label, name in enumerate(found.classes)
        if label in seen
    ]
    text = f"The images with the lowest mean IoU of their classes. {_shown(len(pairs), found)}"
    hardest = {"text": text, "pairs": pairs, "cards": [], "legend": legend[:MOST_ROWS]}
    weakest = _weakest(dict(zip(found.classes, found.iou, strict=True)), "IoU")
    known = not math.isnan(found.accuracy)
    conclusion = (
        f"It gives {found.accuracy:.1%} of the pixels their class, at a mean IoU of {found.miou:.1%}{weakest}."
        if known
        else "No pixel of these images counts."
    )
    return Section([_confusion(found, pixels=True)], table, hardest if pairs else None, conclusion)

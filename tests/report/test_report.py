"""The page of a run and of an evaluation: it stands alone, is bounded and tells what was measured, for every task."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch

from involution.cli import main
from involution.data.folders import FileDataset
from involution.data.scenes import make_digit_scenes
from involution.engine.evaluation import Measured
from involution.engine.tasks.classify.figures import ClassificationFigures
from involution.engine.tasks.detect.coco_metrics import FIGURES, judge
from involution.engine.tasks.detect.figures import DetectionFigures
from involution.explain.touch import touch_script
from involution.predict import ClassificationResult
from involution.report import figures, page, sections
from involution.report.run import headline

NASTY = '<img src=x onerror=alert(1)> $x^2$ "&'


class Page(HTMLParser):
    """What a page shows and would fetch."""

    def __init__(self, text):
        super().__init__()
        self.words, self.tags, self.fetched, self.touched = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.touched += [json.loads(value) for name, value in attributes if name == "data-touch"]
        self.fetched += [value for name, value in attributes if name in ("src", "href", "xlink:href", "srcset")]

    def handle_data(self, data):
        self.words.append(data)


def read(path):
    """The words of a page that fetches nothing, runs nothing and is small."""
    text = path.read_text(encoding="utf-8")
    found = Page(text)
    assert all(value.startswith(("data:", "#")) for value in found.fetched)
    # the one script of this package, which the page's policy names
    assert found.tags.count("script") == 1
    digest = base64.b64encode(hashlib.sha256(touch_script().encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text
    assert f"<script>{touch_script()}</script>" in text
    assert not re.search(r"@import|url\((?!#|&quot;data:|data:)", text)
    assert len(text) < 3_000_000
    return " ".join(" ".join(found.words).split()), found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short training by the command line, whose classes and files have names that HTML must quote."""
    root = tmp_path_factory.mktemp("report")
    random = np.random.default_rng(0)
    for label, name in enumerate(("a <b> & $x$", "bee")):
        folder = root / "pictures" / name
        folder.mkdir(parents=True)
        for number in range(10):
            pixels = random.integers(100 * label, 100 * label + 120, (80, 90, 3), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(folder / f"<i>{number}.png")
    words = ["--data.spec", f"imagefolder:{root / 'pictures'}", "--data.image_size", "32", "--data.batch_size", "4"]
    words += ["--model.name", "rednet_nano", "--data.workers", "0", "--trainer.epochs", "2", "--output", str(root)]
    assert main(["classify", "train", *words, "--name", "run"]) == 0
    return root / "run"


def test_a_run_leaves_a_report_and_its_matrix(run):
    words, found = read(run / "report.html")
    # curves of figures and of loss, matrix; filters and their sums on light and on dark
    assert found.tags.count("svg") == 7
    # each layer can be touched
    assert len(found.touched) == 1
    assert len(found.touched[0]["scenes"][0]["layers"]) >= 2
    # the validation images, hardest first
    count = json.loads((run / "data.json").read_text())["splits"]["val"]["images"]
    assert found.tags.count("img") == count
    for text in ("accuracy (validation)", "in epoch", "a <b> & $x$", "a <b> & $x$/<i>", f"the {count} images", "%"):
        assert text in words
    assert "learning_rate" not in words
    assert "batch_size: 4" in words
    assert f"--checkpoint {run / 'best.ckpt'}" in words
    with PIL.Image.open(run / "confusion.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 300


def test_an_evaluation_writes_a_report_beside_its_figures(run, tmp_path, capsys):
    output, report = tmp_path / "figures.json", tmp_path / "page.html"
    words = ["classify", "eval", "--checkpoint", str(run / "best.ckpt"), "--output", str(output)]
    assert main([*words, "--report", str(report)]) == 0
    shown = capsys.readouterr().out
    assert "top-1" in shown
    assert "top-5" not in shown
    found = json.loads(output.read_text())
    assert [row["name"] for row in found["per_class"]] == found["classes"]
    text, _ = read(report)
    assert "best.ckpt on the test images" in text
    assert f"{100 * found['top1']:.2f}" in text
    assert "over the epochs" not in text
    # somebody else's file is not overwritten
    report.write_text("mine")
    assert main([*words, "--report", str(report)]) == 2
    assert "not overwritten" in capsys.readouterr().err
    assert report.read_text() == "mine"


@pytest.mark.parametrize(("task", "kind"), [("detect", "coco"), ("segment", "masks")])
def test_reports_of_boxes_and_maps(task, kind, tmp_path):
    root = make_digit_scenes(tmp_path / "scenes", {"train": 4, "val": 8})
    words = ["--recipe", "digit-scenes", "--data.spec", f"{kind}:{root}", "--data.batch_size", "4"]
    words += ["--data.workers", "0", "--trainer.epochs", "1", "--trainer.precision", "32-true"]
    words += ["--output", str(tmp_path), "--name", "run"]
    assert main([task, "train", *words]) == 0
    text, found = read(tmp_path / "run" / "report.html")
    # of each of the six hardest images the truth and what was found
    assert found.tags.count("img") == 12
    assert "These are 6 of the 8 images, hardest first." in text
    assert {"detect": "AP50", "segment": "share of pixels"}[task] in text
    assert (tmp_path / "run" / "confusion.png").is_file() == (task == "segment")
    assert "The filters it makes" in text


def measured(classes, images, tmp_path):
    """An evaluation of a classifier that always says the first class."""
    labels = [place % classes for place in range(images)]
    files = []
    for place in range(images):
        files.append(tmp_path / f"{place}.png")
        PIL.Image.new("RGB", (1500, 900), (place % 255, 0, 0)).save(files[-1])
    names = [f"{NASTY} {place}" for place in range(classes)]
    confusion = torch.zeros(classes, classes, dtype=torch.long)
    confusion[:, 0] = torch.tensor(labels).bincount(minlength=classes)
    found = ClassificationFigures(
        top1=0.5,
        top5=None,
        loss=1.0,
        confusion=confusion,
        num_images=images,
        images_per_second=1.0,
        classes=names,
        split="val",
        difficulty=[float(place) for place in range(images)],
    )
    answer = ClassificationResult("", 0.0, tuple(names[:3]), (0.5, 0.3, 0.2))
    predictor = SimpleNamespace(run=lambda names, images, topk: [answer])
    return Measured(found, FileDataset(files, labels), predictor)


def test_many_classes_and_large_images_are_bounded_and_said_so(tmp_path):
    shown = sections.section("classify", measured(50, 60, tmp_path))
    assert len(shown.table["rows"]) == sections.MOST_ROWS
    assert shown.table["note"] == "The 40 of 50 classes that do worst."
    (matrix,) = shown.charts
    assert "These are the 30 of 50 classes that are mixed up most." in matrix["caption"]
    assert len(matrix["svg"]) < 300_000
    assert "<img" not in matrix["svg"]
    cards = shown.hardest["cards"]
    assert [card["file"].rpartition("/")[2] for card in cards[:2]] == ["59.png", "58.png"]
    assert len(cards) == sections.MOST_CARDS
    assert "These are 15 of the 60 images, hardest first." in shown.hardest["text"]
    assert all(len(card["picture"]) < 40_000 for card in cards)
    assert (cards[0]["truth"], cards[0]["said"], cards[0]["right"]) == (f"{NASTY} 9", f"{NASTY} 0", False)


def test_names_are_quoted_in_the_template():
    tile = {"name": NASTY, "value": NASTY, "unit": NASTY, "note": NASTY}
    variables = dict.fromkeys(("title", "lead", "measured", "settings", "command", "date", "versions"), NASTY)
    variables |= {
        "device": NASTY,
        "predict_command": NASTY,
        "tiles": [tile],
        "curves": [],
        "charts": [],
        "kernel": None,
        "warnings": [NASTY],
        "conclusion": NASTY,
    }
    variables |= {"table": {"header": [NASTY], "rows": [[NASTY, {"text": NASTY, "share": 3}]], "note": NASTY}}
    card = {"truth": NASTY, "said": NASTY, "right": False, "small": True, "picture": "data:,", "file": NASTY}
    variables["hardest"] = {"text": NASTY, "cards": [{**card, "bars": [(NASTY, 1, NASTY)]}]}
    text = page.render("run.html.j2", variables)
    assert "<img src=x" not in text
    assert text.count("&lt;img src=x onerror=alert(1)&gt;") == 27


def test_pictures_are_made_smaller_and_keep_their_shape():
    large = page.embedded(PIL.Image.new("RGB", (4000, 1000)))
    assert large["picture"].startswith("data:image/jpeg;base64,")
    assert not large["small"]
    tiny = page.embedded(PIL.Image.new("L", (8, 8)))
    assert tiny["picture"].startswith("data:image/png;base64,")
    assert tiny["small"]


def test_a_task_without_pictures_shows_its_figures():
    found = SimpleNamespace(table=lambda: (["images", "distance"], [["7", "0.1"]]), summary=lambda: "seven")
    shown = sections.section("point", Measured(found, [], None))
    assert shown.table == {"header": ["images", "distance"], "rows": [["7", "0.1"]], "note": "seven"}
    assert (shown.charts, shown.hardest) == ([], None)


def test_precision_over_recall_is_drawn_from_every_recall():
    axes = figures.precision_recall([1.0, 0.5, 0.0], "blue").axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[0, 100], [50, 50], [100, 0]]


def test_mistakes_are_the_objects_missed_and_the_false_detections(tmp_path):
    from involution.data.boxes import Box, BoxRecord, Scene

    def scene(key, *boxes):
        return Scene(key, tmp_path / f"{key}.png", 100, 100, tuple(boxes))

    def box(label, left, key):
        return Box(label, (left, 10.0, 20.0, 20.0), id=key)

    record = BoxRecord(
        tmp_path,
        ["a", "b", "c"],
        [7, 9, 11],
        [scene(1, box(0, 10.0, 1), box(1, 50.0, 2)), scene(2), scene(3, box(0, 5.0, 3))],
    )

    def detection(image, category, left, score):
        return {"image_id": image, "category_id": category, "bbox": [left, 10.0, 20.0, 20.0], "score": score}

    found = judge(
        record,
        [
            # right; unsure, so the object counts as missed; false; false but unsure
            *(detection(1, 7, 10.0, 0.9), detection(1, 9, 50.0, 0.3)),
            *(detection(2, 7, 40.0, 0.8), detection(2, 9, 40.0, 0.2)),
        ],
    )
    assert found.mistakes == [1.0, 1.0, 1.0]
    assert found.class_ap[0] == pytest.approx(0.5, abs=0.01)
    assert found.class_ap[1] == pytest.approx(1.0)
    assert np.isnan(found.class_ap[2])
    assert np.mean(found.class_ap[:2]) == pytest.approx(found.figures["ap"])
    assert len(found.precision) == 101
    assert np.mean(found.precision) == pytest.approx(found.figures["ap50"])
    nothing = judge(record, [])
    assert (nothing.mistakes, nothing.class_ap[:2]) == ([2.0, 0.0, 1.0], [0.0, 0.0])


def test_masks_and_boxes_are_named_on_top():
    boxes, masks = (dict.fromkeys(FIGURES, value) for value in (0.5, 0.25))
    common = {"class_ap": [], "precision": [], "results": [], "num_images": 1, "images_per_second": 1.0}
    common |= {"classes": [], "split": "val"}
    found = DetectionFigures(bbox=boxes, segm=masks, **common)
    assert headline(found, "AP") == [("AP of boxes", "50.0%"), ("AP of masks", "25.0%")]
    assert headline(replace(found, segm=None), "AP") == [("AP", "50.0%")]

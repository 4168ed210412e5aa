import base64
import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from involution.cli import main
from involution.demo.conclusion import conclusion
from involution.demo.kernels import notable_positions
from involution.demo.report import hardest, model_row
from involution.demo.run import MARKER, DemoError, DemoResult, ModelRuns, SeedRun, prepare_folder
from involution.engine import ClassificationFigures, TrainResult
from involution.engine.callbacks import TrainingInterrupted
from involution.predict import ClassificationResult
from involution.report import figures


class Page(HTMLParser):
    """Collects what a page would fetch, and sees that its tags are closed."""

    VOID = ("meta", "img", "br", "use", "path", "image", "rect", "stop")

    def __init__(self, text):
        super().__init__()
        self.open, self.fetched, self.text, self.tags = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "srcset", "action"):
                self.fetched.append(value)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A demo of one epoch by the command line, in a folder whose name HTML and shells must quote."""
    folder = tmp_path_factory.mktemp("demo") / "a <b> & c"
    capture = pytest.MonkeyPatch()
    capture.setenv("COLUMNS", "120")
    capture.setattr("involution.demo.photo.SECONDS", 0.05)
    # both networks at once
    capture.setattr("involution.studies.workers.default_jobs", lambda: 2)
    code = main(["demo", "--epochs", "1", "--output", str(folder)])
    capture.undo()
    assert code == 0
    return folder


@pytest.fixture(scope="module")
def summary(demo):
    return json.loads((demo / MARKER).read_text())


def test_demo_measures_both_models(summary):
    rednet, twin = summary["models"]["rednet_nano"], summary["models"]["rednet_nano_conv"]
    assert rednet["parameters"] < twin["parameters"]
    assert rednet["macs"] < twin["macs"]
    for model in (rednet, twin):
        (run,) = model["runs"]
        assert run["seed"] == 0
        assert 0 <= run["test_top1"] <= 1
        assert min(run["train_seconds"], run["train_images_per_second"], run["test_images_per_second"]) > 0


def test_demo_counts_convolution_multiply_adds_by_hand(summary):
    # one 3x3 or 1x1 convolution at a time: input channels x output channels x taps x places
    stem = [(1, 16, 9, 256), (16, 16, 9, 256), (16, 32, 9, 256)]
    macs, width = sum(a * b * taps * places for a, b, taps, places in stem), 32
    for inner, places, before in ((16, 256, 256), (32, 64, 256), (64, 16, 64)):
        for block in range(2):
            macs += width * inner * (before if block == 0 else places)
            macs += inner * inner * 9 * places + inner * 4 * inner * places
            macs += width * 4 * inner * places if block == 0 else 0
            width = 4 * inner
    assert summary["models"]["rednet_nano_conv"]["macs"] == macs + 256 * 10


def test_demo_classifies_the_test_images_as_the_evaluation_does(demo, summary, tmp_path):
    images = sorted((demo / "images").glob("*.png"))
    assert len(images) == 360
    with Image.open(images[0]) as image:
        assert image.size == (8, 8)
    (run,) = summary["models"]["rednet_nano"]["runs"]
    output = tmp_path / "out.json"
    argv = ["classify", "predict", str(demo / "images"), "--checkpoint", run["checkpoint"]]
    assert main([*argv, "--output", str(output), "--device", "cpu"]) == 0
    results = json.loads(output.read_text())["results"]
    right = sum(result["labels"][0] == result["file"][-5] for result in results)
    assert right / len(results) == pytest.approx(run["test_top1"], abs=1e-6)


def test_report_stands_alone(demo):
    text = (demo / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert page.fetched
    assert all(value.startswith(("data:", "#")) for value in page.fetched)
    assert not re.search(r"@import|url\((?!#|&quot;data:|data:)", text)
    # one script, of this package, and what it needs is in the page
    assert page.tags.count("script") == 1
    assert text.count("data-touch=") == 1
    assert len(text) < 2_000_000


def test_report_tells_what_was_measured(demo, summary):
    page = Page((demo / "report.html").read_text(encoding="utf-8"))
    words = " ".join(" ".join(page.text).split())
    for model in summary["models"].values():
        assert f"{100 * model['runs'][0]['test_top1']:.2f}" in words
        assert f"{model['parameters'] / 1e3:.1f}" in words
        assert f"{model['macs'] / 1e6:.2f}" in words
    # charts: two of tiles and three mosaics on light and on dark, two curves, two confusion matrices
    assert page.tags.count("svg") == 14
    assert words.index("Filters made for a 0") < words.index("A 3, random weights")
    for label in ("accuracy (%)", "epoch", "true digit", "predicted digit", "kernel weight", "group 2"):
        assert label in words
    assert "2 trainings at a time" in words
    # the folder's name came through quoted, for HTML and for the shell
    assert f"predict '{demo}/images'" in words


def test_report_shows_the_photograph(demo, summary):
    rows = {row["network"]: row for row in summary["photo"]}
    assert len(rows) == 5
    text = (demo / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    words = " ".join(" ".join(page.text).split())
    for row in rows.values():
        assert row["seconds"] == pytest.approx(0.05, abs=0.5)
        assert f"{row['psnr_mean']:.2f}" in words
    assert "A kernel for each pixel of a photograph" in words
    crops = re.findall(r'<img class="small" src="data:image/png;base64,([^"]+)" alt="kernels made here', text)
    with Image.open(io.BytesIO(base64.b64decode(crops[0]))) as image:
        assert (image.size, image.mode) == ((64, 64), "RGBA")
        # between the windows nothing covers the page
        assert image.getpixel((0, 0))[3] == 0 < image.getpixel((4, 4))[3]


def test_training_history_is_kept_beside_the_report(demo):
    with open(demo / "rednet_nano-seed0" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1


def test_an_earlier_demo_is_moved_aside(tmp_path):
    folder = tmp_path / "demo"
    assert prepare_folder(folder) is None
    (folder / "report.html").write_text("first")
    assert prepare_folder(folder) == tmp_path / "demo-1"
    (folder / "report.html").write_text("second")
    assert prepare_folder(folder) == tmp_path / "demo-2"
    assert [(tmp_path / name / "report.html").read_text() for name in ("demo-1", "demo-2")] == ["first", "second"]
    assert [path.name for path in folder.iterdir()] == [MARKER]


def test_files_of_something_else_are_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(DemoError, match="holds files that are not a demo's"):
        prepare_folder(tmp_path)
    with pytest.raises(DemoError, match="is a file"):
        prepare_folder(tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert main(["demo", "--output", str(tmp_path)]) == 2
    assert main(["demo", "--seeds", "0", "--output", str(tmp_path / "new")]) == 2
    assert main(["demo", "--output", str(tmp_path / "thesis.txt" / "new")]) == 2
    assert "wanted seeds and epochs of 1 or more" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_an_interrupted_demo_says_where_it_is_and_can_be_started_anew(tmp_path, monkeypatch, capsys):
    def stopped(*args, **kwargs):
        raise TrainingInterrupted(None)

    monkeypatch.setattr("involution.engine.run.train", stopped)
    monkeypatch.setattr("involution.studies.workers.default_jobs", lambda: 1)
    folder = tmp_path / "demo"
    assert main(["demo", "--skip-photo", "--output", str(folder)]) == 130
    assert f"interrupted; finished runs are in {folder}" in capsys.readouterr().err
    assert prepare_folder(folder) == tmp_path / "demo-1"


def seed_run(tmp_path, seed, top1):
    train = TrainResult(tmp_path, tmp_path, tmp_path, 10.0 + seed, 100.0, 0.5, [], True)
    test = ClassificationFigures(
        top1=top1,
        top5=1.0,
        loss=0.1,
        confusion=torch.eye(2),
        num_images=4,
        images_per_second=50.0,
        classes=["a", "b"],
        split="test",
    )
    return SeedRun(seed, train, test)


def test_several_seeds_give_mean_and_standard_deviation(tmp_path):
    runs = [seed_run(tmp_path, seed, top1) for seed, top1 in enumerate((0.97, 0.98, 0.99))]
    row = model_row(ModelRuns("involution", "rednet_nano", 12_345, 7.5e6, runs))
    assert row["accuracy"] == "98.00 ± 1.00"
    assert row["seconds"] == "11.0 ± 1.0"
    assert (row["parameters"], row["macs"]) == ("12.3", "7.50")
    assert model_row(ModelRuns("involution", "rednet_nano", 1, 1.0, runs[:1]))["accuracy"] == "97.00"


def test_the_conclusion_says_who_wins_and_what_may_be_chance(tmp_path):
    def models(ours, twin, parameters=(60, 100)):
        pairs = zip(("involution", "convolution"), (ours, twin), parameters, strict=True)
        made = [ModelRuns(kind, kind, size, 1.0, [seed_run(tmp_path, i, top) for i, top in enumerate(tops)])
                for kind, tops, size in pairs]  # fmt: skip
        for model in made:
            for run in model.runs:
                object.__setattr__(run.test, "num_images", 400)
        return made

    same = conclusion(models([0.99], [0.99]))
    assert same.startswith("RedNet-nano reads as many of the 400 test images as its convolution twin, 99.00 %, and has")
    assert "40 % fewer parameters and as many multiply-adds" in same
    assert "equally fast" in same
    chance = conclusion(models([0.99], [0.985]))
    assert "2 more of the 400 test images" in chance
    assert "99.00 % against 98.50 % (which may be chance: one seed)" in chance
    clear = conclusion(models([0.90], [0.99], (100, 60)))
    assert "36 fewer of the 400 test images than its convolution twin, 90.00 % against 99.00 %, and" in clear
    assert "67 % more parameters" in clear
    seeds = conclusion(models([0.97, 0.99], [0.96, 0.98]))
    assert "(which is within what 2 seeds differ by)" in seeds
    assert "seeds" not in conclusion(models([0.99, 0.991], [0.95, 0.951]))
    ours, twin = models([0.99], [0.99])
    object.__setattr__(twin.runs[0].train, "images_per_second", 160.0)
    object.__setattr__(twin.runs[0].test, "images_per_second", 40.0)
    told = conclusion([ours, twin])
    assert told.endswith("It answered 1.2 times as fast. On this machine the twin trained 1.6 times as fast.")


def test_hardest_are_those_with_the_least_probability_of_the_truth(tmp_path):
    files = {}
    for name in "xyz":
        Image.new("L", (2, 2)).save(tmp_path / f"{name}.png")
        files[name] = str(tmp_path / f"{name}.png")
    predictions = [
        ClassificationResult(files["x"], 0.0, ("a", "b"), (0.9, 0.1)),
        ClassificationResult(files["y"], 0.0, ("a", "b"), (0.6, 0.4)),
        ClassificationResult(files["z"], 0.0, ("b", "a"), (0.8, 0.2)),
    ]
    result = DemoResult(tmp_path, [], dict.fromkeys(files.values(), "a"), predictions, 0.0)
    found = hardest(result, count=2)
    assert [(item["said"], item["right"]) for item in found["hardest"]] == [("b", False), ("a", True)]
    assert found["hard_text"].startswith("It misread 1 of 3 test images")


def test_notable_positions_lie_on_stroke_edge_and_ground():
    picture = torch.zeros(16, 16)
    picture[2:14, 2:6] = 1.0
    first, second, edge, empty = notable_positions(picture, (8, 8))
    ink = torch.nn.functional.avg_pool2d(picture[None], 2)[0]
    assert ink[first] == 1
    assert ink[second] == 1
    assert abs(first[0] - second[0]) >= 4
    assert torch.stack(torch.gradient(ink)).norm(dim=0)[edge] > 0
    assert ink[empty] == 0
    assert empty[1] == 7


def test_svg_follows_the_colours_of_the_page_and_is_quoted():
    curves = {"<b>": torch.tensor([[0.5, 0.6], [0.7, 0.8]])}
    svg = figures.to_svg(
        lambda: figures.learning_curves(curves, [figures.INVOLUTION], "accuracy (%)", percent=True), 'a "<b>"'
    )
    assert svg.startswith("<svg ")
    assert "var(--ink)" in svg
    assert "var(--involution)" in svg
    assert "#0102" not in svg
    assert 'aria-label="a &#34;&lt;b&gt;&#34;"' in svg
    assert "<b>" not in svg


def test_confusion_matrix_writes_each_count_that_is_not_zero():
    counts = torch.tensor([[3, 0], [1, 2]])
    axes = figures.confusion_matrix(counts, ["a", "b"], "blue", "red").axes[0]
    assert {(*text.get_position(), text.get_text()) for text in axes.texts} == {(0, 0, "3"), (0, 1, "1"), (1, 1, "2")}
    colors = {(patch.get_x(), patch.get_y()): patch.get_facecolor()[:3] for patch in axes.patches}
    assert len(set(colors.values())) == 2


@pytest.mark.slow
def test_rednet_reaches_98_percent(tmp_path):
    assert main(["demo", "--skip-photo", "--output", str(tmp_path / "demo")]) == 0
    summary = json.loads((tmp_path / "demo" / MARKER).read_text())
    assert summary["models"]["rednet_nano"]["runs"][0]["test_top1"] >= 0.98

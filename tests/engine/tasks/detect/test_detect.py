"""Training, evaluating and predicting detectors on a small data set in COCO's format."""

import contextlib
import io
import json
import math
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import timm
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import involution.models  # noqa: F401
from involution.cli import main
from involution.data.errors import DataError
from involution.data.registry import Options, open_data
from involution.data.scenes import make_digit_scenes
from involution.detection import first_label
from involution.engine import evaluate, load, train
from involution.engine.callbacks import TrainingInterrupted
from involution.engine.checkpoint import CheckpointError, network_weights, read_checkpoint
from involution.engine.config import ConfigError
from involution.engine.loading import make_card
from involution.engine.tasks.detect.coco_metrics import FIGURES, average_precision
from involution.engine.tasks.detect.config import DetectConfig
from involution.engine.tasks.detect.module import DetectionTask
from involution.engine.tasks.detect.network import create_detector
from involution.predict import DetectionPredictor

GAP = 5


SMALL_DETR = {
    "d_model": 32,
    "num_queries": 8,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "auxiliary_loss": True,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Scenes whose category ids have gaps and are not in the order of their names, as COCO's."""
    folder = make_digit_scenes(tmp_path_factory.mktemp("coco") / "scenes", {"train": 24, "val": 8})
    for split in ("train", "val"):
        file = folder / "annotations" / f"instances_{split}.json"
        content = json.loads(file.read_text())
        for item in content["annotations"]:
            item["category_id"] = item["category_id"] * GAP
        for item in content["categories"]:
            item["id"] = item["id"] * GAP
        content["categories"].reverse()
        file.write_text(json.dumps(content))
    return folder


@pytest.fixture
def make_config(root, tmp_path):
    def make(name="run", recipe="digit-scenes", **changes):
        overrides = {key.replace("__", "."): value for key, value in changes.items()}
        fast = {"output": str(tmp_path), "name": name, "data.spec": f"coco:{root}", "trainer.epochs": 2}
        return DetectConfig.load(recipe, {**fast, **overrides})

    return make


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """A Mask R-CNN after a few steps."""
    out = tmp_path_factory.mktemp("runs")
    changes = {
        "output": str(out),
        "name": "mask",
        "data.spec": f"coco:{root}",
        "model.name": "mask_rcnn",
        "trainer.epochs": 3,
        "optimizer.lr": 0.003,
        "schedule.warmup_epochs": 0,
    }
    return train(DetectConfig.load("digit-scenes", changes), progress=False)


def by_hand(root, results, kind):
    """COCO's figures as pycocotools gives them from files."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(root / "annotations" / "instances_val.json")
        if kind == "segm":
            results = [{key: value for key, value in item.items() if key != "bbox"} for item in results]
        judge = COCOeval(truth, truth.loadRes(results), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return dict(zip(FIGURES, judge.stats, strict=True))


def test_eval_agrees_with_pycocotools_on_what_it_wrote(trained, root, tmp_path, capsys):
    written = [str(tmp_path / name) for name in ("figures.json", "results.json")]
    code = main(["detect", "eval", "--checkpoint", str(trained.best), "--output", written[0], "--results", written[1]])
    assert code == 0
    assert "AP50" in capsys.readouterr().out
    figures, results = (json.loads(Path(path).read_text()) for path in written)
    assert results
    assert {item["category_id"] for item in results} <= {GAP * digit for digit in range(1, 11)}
    assert {item["image_id"] for item in results} <= set(range(1, 9))
    for kind in ("bbox", "segm"):
        for name, value in by_hand(root, results, kind).items():
            assert figures[kind][name] == (None if value < 0 else pytest.approx(value)), name
    assert figures["num_images"] == 8


class Answers(torch.nn.Module):
    """A detector that always finds the same."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def forward(self, images):
        return [self.found]


@pytest.mark.parametrize("name", ["retinanet", "faster_rcnn", "mask_rcnn", "detr", "conditional_detr"])
def test_category_ids_survive_the_round_trip(name, make_config, root):
    """Perfect detections of each detector's own labels get an AP of 1 from the ids that are written."""
    own = {} if name.endswith("rcnn") else {"model__args": {}}
    if name.endswith("detr"):
        own["model__levels"] = [3]
    config = make_config(model__name=name, **own)
    data = open_data("detect", config.data.spec, Options(masks=True)).val
    model = create_detector(config, 10, False)
    results = []
    card = make_card(config, data.record.classes, data.record.category_ids)
    task = DetectionTask(model, config, card, 1, data)
    for _, target in data:
        found = {
            "boxes": torch.as_tensor(target["boxes"]),
            "labels": target["labels"] + first_label(model),
            "scores": torch.ones(len(target["labels"])),
            "masks": torch.as_tensor(target["masks"])[:, None].float(),
        }
        task.model = Answers(found)
        task.validation_step(([None], [target]), 0)
    results = json.loads(json.dumps(task.detections))
    data = data.record
    assert by_hand(root, results, "bbox")["ap"] == pytest.approx(1)
    assert average_precision(data, results)["ap"] == pytest.approx(1)
    assert average_precision(data, results, "segm")["ap"] == pytest.approx(1)
    wrong = [{**item, "category_id": item["category_id"] % (10 * GAP) + GAP} for item in results]
    assert average_precision(data, wrong)["ap"] < 0.2
    assert average_precision(data, [])["ap"] == 0


def test_history_and_figures(trained):
    assert len(trained.history) == 3
    assert set(trained.history[0]) >= {"train_loss", "val_ap", "val_ap50", "val_mask_ap", "seconds"}
    assert trained.history[-1]["train_loss"] < trained.history[0]["train_loss"]
    assert trained.score == max(row["val_ap"] for row in trained.history)
    assert evaluate(trained.best).bbox["ap"] == pytest.approx(trained.score)


def test_same_seed_same_weights_and_a_resumed_run_too(make_config, monkeypatch):
    whole = train(make_config("whole"), progress=False)
    original, calls = DetectionTask.training_step, []

    def stopping(self, *args):
        calls.append(1)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        return original(self, *args)

    monkeypatch.setattr(DetectionTask, "training_step", stopping)
    with pytest.raises(TrainingInterrupted) as stop:
        train(make_config("cut"), progress=False)
    monkeypatch.setattr(DetectionTask, "training_step", original)
    resumed = train(make_config("cut"), progress=False, resume=stop.value.checkpoint)
    weights = [read_checkpoint(result.last)["state_dict"] for result in (whole, resumed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_learns_a_few_scenes_by_heart(make_config, tmp_path):
    few = make_digit_scenes(tmp_path / "few", {"train": 12, "val": 2})
    changes = {"data__spec": f"coco:{few}", "data__batch_size": 4, "trainer__epochs": 16, "model__norm": "group"}
    config = make_config(**changes, optimizer__lr=0.003, schedule__warmup_epochs=0)
    result = train(config, progress=False)
    assert result.history[-1]["train_loss"] < 0.6 * result.history[0]["train_loss"]
    assert evaluate(result.last, split="train").bbox["ap50"] > 0.1


def test_weights_of_a_classifier_freeze_stem_and_first_stage(make_config, tmp_path):
    file = tmp_path / "nano.pth"
    torch.save(timm.create_model("rednet_nano", in_chans=3).state_dict(), file)
    config = make_config(model__weights=str(file), trainer__epochs=1)
    result = train(config, progress=False)
    before = torch.load(file, weights_only=True)
    after = load(result.last)[0].state_dict()
    inside = {name.removeprefix("backbone.backbone.body."): value for name, value in after.items()}
    for name, value in before.items():
        frozen = name.startswith(("conv1", "bn1", "layer1")) or "running" in name
        if not name.startswith("fc") and "num_batches" not in name:
            assert torch.equal(inside[name], value) == frozen, name


def test_detr_trains_evaluates_and_predicts(make_config, root, tmp_path, capsys):
    file = tmp_path / "nano.pth"
    torch.save(timm.create_model("rednet_nano", in_chans=3).state_dict(), file)
    config = make_config(
        recipe="digit-scenes-detr", model__weights=str(file), model__freeze=None, model__args=SMALL_DETR
    )
    result = train(config, progress=False)
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    # the weights that the training began with are not needed any more
    file.unlink()
    model, card = load(result.last)
    saved = network_weights(read_checkpoint(result.last))
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    assert card.category_ids == [GAP * digit for digit in range(1, 11)]
    figures = evaluate(result.best)
    assert figures.bbox["ap"] == pytest.approx(result.score)
    assert figures.results
    assert {item["category_id"] for item in figures.results} <= set(card.category_ids)
    out = tmp_path / "found.json"
    scene = str(root / "val" / "000000.png")
    assert (
        main(["detect", "predict", scene, "--checkpoint", str(result.best), "--score", "0", "--output", str(out)]) == 0
    )
    capsys.readouterr()
    found = json.loads(out.read_text())
    first = [item for item in figures.results if item["image_id"] == 1]
    assert len(found) == len(first)
    assert {item["category_id"] for item in found} <= set(card.category_ids)
    assert np.allclose(sorted(item["score"] for item in found), sorted(item["score"] for item in first), atol=1e-4)


def test_predict(trained, root, tmp_path, capsys):
    (tmp_path / "notes.png").write_text("no image")
    grey = tmp_path / "grey.png"
    PIL.Image.fromarray(np.full((40, 90), 99, np.uint8)).save(grey)
    out, pictures = tmp_path / "found.json", tmp_path / "pictures"
    scenes = sorted((root / "val").glob("*.png"))[:2]
    arguments = [*map(str, scenes), str(grey), str(tmp_path / "notes.png"), "--checkpoint", str(trained.best)]
    words = ["detect", "predict", *arguments, "--score", "0", "--output", str(out)]
    assert main([*words, "--format", "dataset", "--pictures", str(pictures)]) == 1
    captured = capsys.readouterr()
    assert "notes.png" in captured.err
    assert "1 skipped" in captured.out
    content = json.loads(out.read_text())
    assert [image["file_name"] for image in content["images"]] == [str(path) for path in (*scenes, grey)]
    assert (content["images"][2]["width"], content["images"][2]["height"]) == (90, 40)
    names = {item["id"]: item["name"] for item in content["categories"]}
    assert names == {GAP * (digit + 1): str(digit) for digit in range(10)}
    assert content["annotations"]
    sizes = {image["id"]: [image["height"], image["width"]] for image in content["images"]}
    for item in content["annotations"]:
        assert item["category_id"] in names
        assert item["segmentation"]["size"] == sizes[item["image_id"]]
    with contextlib.redirect_stdout(io.StringIO()):
        assert len(COCO(out).getImgIds()) == 3
    assert sorted(path.name for path in pictures.glob("*.png")) == ["000000.png", "000001.png", "grey.png"]
    index = [json.loads(line) for line in (pictures / "index.jsonl").read_text().splitlines()]
    assert {"input": str(scenes[0]), "outputs": ["000000.png"]}.items() <= index[0].items()
    assert {"input", "error"} <= index[3].keys()
    with PIL.Image.open(pictures / "000000.png") as picture:
        assert picture.size == (512, 512)
    # what eval finds in the same image
    first = [item for item in evaluate(trained.best).results if item["image_id"] == 1]
    boxes = [item["bbox"] for item in content["annotations"] if item["image_id"] == 1]
    assert np.allclose(sorted(boxes), sorted(item["bbox"] for item in first), atol=1e-3)


def test_predicted_results_are_measured_by_pycocotools_with_the_users_own_ids(trained, root, tmp_path, capsys):
    """What predict writes gets the figures that eval gives."""
    truth = root / "annotations" / "instances_val.json"
    out = tmp_path / "found.json"
    words = ["detect", "predict", str(root / "val"), "--checkpoint", str(trained.best), "--score", "0"]
    assert main([*words, "--output", str(out), "--annotations", str(truth)]) == 0
    assert "not predicted" not in capsys.readouterr().err
    figures = evaluate(trained.best).bbox
    for name, value in by_hand(root, json.loads(out.read_text()), "bbox").items():
        assert value == (-1 if np.isnan(figures[name]) else pytest.approx(figures[name], abs=1e-4)), name
    # the ids of the user's own categories, by name
    content = json.loads(truth.read_text())
    names = {item["id"]: item["name"] for item in content["categories"]}
    found = [names[item["category_id"]] for item in json.loads(out.read_text())]
    for number, item in enumerate(content["categories"]):
        item["id"] = 1000 + number
    other = tmp_path / "others.json"
    other.write_text(json.dumps(content))
    assert main([*words, "--output", str(tmp_path / "again.json"), "--annotations", str(other)]) == 0
    names = {item["id"]: item["name"] for item in content["categories"]}
    again = json.loads((tmp_path / "again.json").read_text())
    assert [names[item["category_id"]] for item in again] == found
    content["images"].append({"id": 12345, "file_name": "more.png"})
    other.write_text(json.dumps(content))
    capsys.readouterr()
    assert main([*words, "--output", str(tmp_path / "more.json"), "--annotations", str(other)]) == 0
    assert "images of --annotations that are not predicted: 1 (more.png)" in capsys.readouterr().err
    content["images"].pop()
    for change, message in (
        ({"categories": [{"id": 1, "name": "cat"}]}, "no category 0, 1, 2, 3, 4; it has cat, the checkpoint 0, 1"),
        (
            {"images": [{"id": "one", "file_name": "000000.png"}]},
            "wanted images with a whole number as id",
        ),
        ({"images": content["images"] * 2}, "2 images have the id "),
        (
            {"images": [*content["images"], {**content["images"][0], "id": 99}]},
            f"{content['images'][0]['file_name']}: 2 images of this name in ",
        ),
        ({"categories": [*content["categories"], {"id": 99, "name": "0"}]}, "2 categories of the name 0; wanted one"),
        (
            {"images": [{**image, "width": 999} for image in content["images"]]},
            "others.json: 000000.png has ",
        ),
    ):
        other.write_text(json.dumps({**content, **change}))
        capsys.readouterr()
        assert main([*words, "--output", str(tmp_path / "no.json"), "--annotations", str(other)]) == 2
        assert message in capsys.readouterr().err
    # a folder with an image of the same name
    (tmp_path / "copy").mkdir()
    shutil.copy(root / "val" / "000000.png", tmp_path / "copy")
    capsys.readouterr()
    both = [
        *words[:3],
        str(tmp_path / "copy"),
        *words[3:],
        "--output",
        str(tmp_path / "no.json"),
        "--annotations",
        str(truth),
    ]
    assert main(both) == 2
    assert "000000.png are both image " in capsys.readouterr().err
    PIL.Image.new("RGB", (40, 40)).save(tmp_path / "other.png")
    words[2] = str(tmp_path / "other.png")
    capsys.readouterr()
    assert main([*words, "--output", str(tmp_path / "no.json"), "--annotations", str(truth)]) == 2
    assert f"other.png: no images of this name in {truth}" in capsys.readouterr().err
    assert not (tmp_path / "no.json").exists()


def test_images_with_as_many_objects_as_can_be_found_are_told(trained, root, tmp_path, capsys, monkeypatch):
    predictor = DetectionPredictor.from_checkpoint(trained.best)
    image = root / "val" / "000000.png"
    assert predictor.most == 100
    monkeypatch.setattr("involution.detection.detectors.most_objects", lambda model: 1)
    words = ["detect", "predict", str(image), "--checkpoint", str(trained.best), "--score", "0"]
    for more in ([], ["--parts", str(tmp_path / "parts")]):
        capsys.readouterr()
        assert main([*words, *more]) == 0
        assert "images with as many objects as the detector finds in one at most" in capsys.readouterr().err


def test_the_limits_of_a_detector_are_told_by_eval_as_by_predict(trained, tmp_path, capsys, monkeypatch):
    found = tmp_path / "found.json"
    words = ["detect", "eval", "--checkpoint", str(trained.best), "--output", str(found)]
    monkeypatch.setattr("involution.engine.tasks.detect.module.most_objects", lambda model: 1)
    monkeypatch.setattr("involution.engine.tasks.detect.module.least_score", lambda model: 0.3)
    assert main(words) == 0
    full, least = json.loads(found.read_text())["warnings"]
    assert re.match(r"val: images with as many objects as the detector finds in one at most, .*: 8 \(0", full)
    assert least.startswith("val: the figures count objects of a score of 0.3 and more: the detector itself leaves out")
    said = " ".join(capsys.readouterr().err.split())
    assert f"warning: {full} warning: {least}" in said


@pytest.mark.parametrize(
    ("most", "within", "name", "scores", "full"),
    [
        (100, None, "retinanet", (0.1, 100), False),
        (100, None, "retinanet", (0.6, 100), True),
        (100, None, "retinanet", (0.6, 99), False),
        (100, [0, 3], "retinanet", (0.1, 100), True),
        (300, [0, 3], "retinanet", (0.1, 100), False),
        (10, None, "faster_rcnn", (0.1, 10), True),
        # a detr answers as often as it asks
        (10, [0, 3], "detr", (0.1, 10), False),
        (None, [0, 3], "detr", (0.9, 10), False),
    ],
)
def test_when_objects_may_be_missing_that_count(most, within, name, scores, full, monkeypatch):
    monkeypatch.setattr("involution.engine.tasks.detect.module.most_objects", lambda model: most)
    config = DetectConfig.load(overrides={"model.name": name})
    record = SimpleNamespace(record=None)
    task = DetectionTask(torch.nn.Identity(), config, make_card(config, list("abcd"), [1, 2, 3, 4]), 1, record)
    task.within = within
    least, count = scores
    assert task._is_full(torch.linspace(1, least, count)) == full


@pytest.mark.parametrize(("min_size", "told"), [(800, True), (64, False)])
def test_levels_that_are_too_fine_for_large_images_are_told(capsys, min_size, told):
    changes = {"model.backbone": "rednet_nano", "model.levels": [0, 1, 2, 3], "data.batch_size": 2}
    config = DetectConfig.load(overrides={**changes, "data.min_size": [min_size]})
    create_detector(config, 3, weights=True)
    line = capsys.readouterr().err
    assert ("warning: the finest of the levels has a position for every" in line) == told
    assert ("--model.levels, smaller --data.min_size" in line) == told


def test_predictor_leaves_out_uncertain_objects(trained, root):
    predictor = DetectionPredictor.from_checkpoint(trained.best, "cpu")
    file = root / "val" / "000000.png"
    everything, certain = predictor.predict(file, score=0.0), predictor.predict(file, score=0.3)
    assert certain.scores == tuple(score for score in everything.scores if score >= 0.3)
    assert len(certain.masks) == len(certain.labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__name": "yolo"}, "no detector named 'yolo'"),
        ({"model__backbone": "rednet_nanno"}, "did you mean rednet_nano"),
        ({"model__neck": "attention"}, "model.neck must be convolution or involution, got 'attention'"),
        ({"model__name": "retinanet", "model__head": "involution"}, "retinanet's head has no involutions"),
        ({"model__name": "detr", "model__neck": "involution"}, "detr has no pyramid"),
        ({"model__name": "detr", "model__levels": [2, 3]}, "must be one stage for detr"),
        ({"model__name": "detr", "model__levels": [3], "model__args": {"colour": 3}}, "Detr has no argument .colour."),
        ({"model__args": {"colour": 3}}, "can't be built"),
        ({"model__args": {"anchor_sizes": [8]}}, "one size for each of the 4 levels, got 1"),
        ({"model__norm": "group", "model__freeze": True}, "for training from scratch"),
        ({"data__min_size": []}, "data.min_size"),
        ({"data__min_size": [300], "data__max_size": 200}, "sizes from 1 to data.max_size"),
        ({"data__on_problem": "ignore"}, "data.on_problem must be refuse or skip, got 'ignore'"),
        ({"augment__flip": 2.0}, "augment.flip must be from 0 to 1"),
        ({"trainer__label_smoothing": 0.1}, "label_smoothing is for classification"),
        ({"schedule__decay": "step"}, "needs schedule.milestones"),
    ],
)
def test_refuses(make_config, changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train(make_config(**changes), progress=False)
    assert not (tmp_path / "run").exists()


def test_other_checkpoints_and_data_are_refused(trained, tmp_path):
    with pytest.raises(CheckpointError, match="made for the task 'detect', wanted classify"):
        load(trained.best, task="classify")
    with pytest.raises(DataError, match="no such folder"):
        evaluate(trained.best, "coco:/no/such")
    make_digit_scenes(tmp_path / "scenes", {"train": 1, "val": 1})
    file = tmp_path / "scenes" / "annotations" / "instances_val.json"
    file.write_text(file.read_text().replace('"name": "9"', '"name": "nine"'))
    with pytest.raises(ConfigError, match=r"was trained on other classes .*nine"):
        evaluate(trained.best, f"coco:{tmp_path / 'scenes'}")
    assert main(["detect", "predict", "x.png", "--checkpoint", str(trained.best), "--output", "x.txt"]) == 2


def test_malformed_annotations_are_skipped_where_allowed(root, make_config, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    file = copy / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"][2] = 0
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="annotation 1: box of zero area"):
        train(make_config(data__spec=f"coco:{copy}"), progress=False)
    train(make_config(data__spec=f"coco:{copy}", data__on_problem="skip", trainer__epochs=1), progress=False)
    assert "left out, 1 problem: train annotation 1: box of zero area" in capsys.readouterr().err


def test_results_are_told_by_the_ids_of_the_data(trained, root, tmp_path):
    """The same scenes under other ids and fewer categories: the same boxes, and figures among these."""
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    file = copy / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    content["categories"] = [item for item in content["categories"] if item["name"] in "0123"]
    kept = {item["id"]: 100 + item["id"] for item in content["categories"]}
    content["annotations"] = [item for item in content["annotations"] if item["category_id"] in kept]
    for item in (*content["annotations"], *content["categories"]):
        key = "category_id" if "category_id" in item else "id"
        item[key] = kept[item[key]]
    file.write_text(json.dumps(content))
    whole, part = evaluate(trained.best), evaluate(trained.best, f"coco:{copy}")
    assert len(whole.results) > len(part.results) > 0
    assert {item["category_id"] for item in part.results} <= set(kept.values())
    wanted = [
        {**item, "category_id": kept[item["category_id"]]} for item in whole.results if item["category_id"] in kept
    ]
    assert part.results == wanted


@pytest.mark.parametrize("name", ["retinanet", "faster_rcnn", "mask_rcnn", "detr", "conditional_detr"])
def test_images_without_objects_are_trained_on_by_every_detector(root, make_config, tmp_path, name):
    """A batch may have nothing but background."""
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    file = copy / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    first = content["images"][0]["id"]
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] == first]
    file.write_text(json.dumps(content))
    recipe = "digit-scenes-detr" if "detr" in name else "digit-scenes"
    changes = {"model__args": SMALL_DETR, "model__weights": None, "model__freeze": None} if "detr" in name else {}
    changes |= {"model__args": {"out_channels": 32}} if name == "retinanet" else {}
    changes |= {"data__spec": f"coco:{copy}", "data__batch_size": 2, "trainer__epochs": 1, "model__name": name}
    result = train(make_config(recipe=recipe, **changes), progress=False)
    assert math.isfinite(result.history[0]["train_loss"])
    assert result.history[0]["images_per_second"] > 0
    with pytest.raises(ConfigError, match="has only 1 training images"):
        train(make_config("other", recipe=recipe, **changes, data__background=False), progress=False)

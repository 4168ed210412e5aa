"""Training, evaluating and predicting segmenters on small label maps."""

import json
import math
import shutil

import numpy as np
import PIL.Image
import pytest
import timm
import torch

import involution.models  # noqa: F401
from involution.cli import main
from involution.data.errors import DataError
from involution.data.label_code import LabelCode, by_value
from involution.data.label_maps import LabelMaps
from involution.data.registry import Options
from involution.data.scenes import make_digit_scenes
from involution.engine import evaluate, load, train
from involution.engine.checkpoint import CheckpointError, read_checkpoint
from involution.engine.config import ConfigError, recipe_names
from involution.engine.loading import make_card
from involution.engine.optimizer import param_groups
from involution.engine.schedule import lr_factor
from involution.engine.tasks.segment.config import SEGMENTERS, SegmentConfig
from involution.engine.tasks.segment.figures import SegmentationFigures
from involution.engine.tasks.segment.module import SegmentationTask, intersection_over_union
from involution.engine.tasks.segment.network import create_segmenter
from involution.engine.tasks.segment.spec import make_module

# smp's parameters are its own: less than the published layouts' (no 3×3 output convolutions, no auxiliary head)
SMP = {
    "smp_fpn": ({}, 16_102_849),
    "smp_upernet": ({"decoder_channels": 512}, 54_023_489),
    "smp_deeplabv3plus": ({}, 16_666_705),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_digit_scenes(tmp_path_factory.mktemp("masks") / "scenes", {"train": 16, "val": 6})


@pytest.fixture
def make_config(root, tmp_path):
    def make(name="run", recipe="digit-scenes", **changes):
        overrides = {key.replace("__", "."): value for key, value in changes.items()}
        fast = {"output": str(tmp_path), "name": name, "data.spec": f"masks:{root}", "trainer.epochs": 2}
        return SegmentConfig.load(recipe, {**fast, **overrides})

    return make


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    changes = {
        "output": str(tmp_path_factory.mktemp("runs")),
        "data.spec": f"masks:{root}",
        "trainer.epochs": 6,
        "data.batch_size": 4,
        "trainer.channels_last": False,
        # as exact as prediction is
        "trainer.precision": "32-true",
        "schedule.warmup_epochs": 0,
    }
    return train(SegmentConfig.load("digit-scenes", changes), progress=False)


def labels_of(root, split="val"):
    files = sorted((root / "labels" / split).glob("*.png"))
    return [np.array(PIL.Image.open(file)) for file in files]


def test_eval_agrees_with_a_direct_count_of_what_predict_writes(trained, root, tmp_path, capsys):
    out, maps, pictures = tmp_path / "figures.json", tmp_path / "maps", tmp_path / "pictures"
    assert main(["segment", "eval", "--checkpoint", str(trained.best), "--output", str(out)]) == 0
    assert "mean" in capsys.readouterr().out
    folders = ["--output", str(maps), "--pictures", str(pictures)]
    assert main(["segment", "predict", str(root / "val"), "--checkpoint", str(trained.best), *folders]) == 0
    assert "6 segmented, 0 skipped" in capsys.readouterr().out
    figures = json.loads(out.read_text())
    predicted = [np.array(PIL.Image.open(file)) for file in sorted(maps.glob("*.png"))]
    truth = labels_of(root)
    assert len(predicted) == len(truth) == 6
    ious = []
    for label, name in enumerate(["background", *map(str, range(10))]):
        both = sum(int(((p == label) & (t == label)).sum()) for p, t in zip(predicted, truth, strict=True))
        either = sum(int(((p == label) | (t == label)).sum()) for p, t in zip(predicted, truth, strict=True))
        if either:
            ious.append(both / either)
            assert figures["iou"][name] == pytest.approx(ious[-1]), name
        else:
            assert figures["iou"][name] is None
    assert figures["miou"] == pytest.approx(np.mean(ious))
    right = np.mean([(p == t).mean() for p, t in zip(predicted, truth, strict=True)])
    assert figures["accuracy"] == pytest.approx(right)
    assert len(list(pictures.glob("*.png"))) == 6
    with PIL.Image.open(maps / "000000.png") as image:
        assert image.mode == "P"
        assert image.getpalette()[:9] == [0, 0, 0, 230, 159, 0, 86, 180, 233]
    with PIL.Image.open(next(iter(pictures.glob("*.png")))) as image:
        # a legend below
        assert image.height > image.width


def test_intersection_over_union():
    counts = torch.tensor([[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    iou = intersection_over_union(counts)
    assert iou[:2].tolist() == pytest.approx([3 / 6, 4 / 7])
    assert math.isnan(iou[2])


def test_nothing_that_counts_is_not_all_wrong(make_config):
    config = make_config()
    network = torch.nn.Conv2d(3, 2, 1)
    task = SegmentationTask(network, config, make_card(config, ["a", "b"]), 1)
    task.from_all_devices = lambda values: [values]
    task.validation_step(([torch.zeros(3, 4, 4)], [torch.full((4, 4), 255)]), 0)
    task.on_validation_epoch_end()
    found = SegmentationFigures.from_results(
        task.results, num_images=1, images_per_second=1.0, classes=["a", "b"], split="val"
    )
    assert found.to_dict()["accuracy"] is None
    assert found.table()[1] == [["a", "–"], ["b", "–"], ["mean", "–"]]
    assert found.summary() == "no pixel that counts, 1 images, 1.0 images/s"


def test_a_class_whose_value_is_ignored_has_no_part_in_the_mean(make_config):
    config = make_config()
    code = by_value(["a", "b", "c"], Options(ignore_index=0))
    assert code.void == [0]
    assert LabelCode(["a", "b"], colours={(0, 0, 0): 255, (1, 1, 1): 1}).void == [0]
    # says a and b, where b alone is true
    network = torch.nn.Identity()
    card = make_card(config, ["a", "b", "c"])
    task = make_module(network, config, card, 1, LabelMaps([], code))
    task.from_all_devices = lambda values: [values]
    logits = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 0.0]]])
    task.validation_step(([logits], [torch.tensor([[1, 1]])]), 0)
    task.on_validation_epoch_end()
    assert task.results["iou"].tolist() == pytest.approx([math.nan, 0.5, math.nan], nan_ok=True)
    assert float(task.results["miou"]) == 0.5


def test_ignored_pixels_neither_train_nor_count(root, make_config, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    for split in ("train", "val"):
        for file in (copy / "labels" / split).glob("*.png"):
            values = np.array(PIL.Image.open(file))
            # half of each image has no labels, and the first image none at all
            values[:, :64] = 255
            PIL.Image.fromarray(values if file.stem != "000000" else np.full_like(values, 255)).save(file)
    result = train(make_config(data__spec=f"masks:{copy}", data__batch_size=1, trainer__epochs=1), progress=False)
    assert math.isfinite(result.history[0]["train_loss"])
    confusion = evaluate(result.best).confusion
    assert confusion.sum() == 5 * 64 * 128


def test_dice_loss_is_added_to_the_cross_entropy(make_config):
    config = make_config(model__dice_weight=0.5)
    classes = ["a", "b", "c"]
    task = SegmentationTask(torch.nn.Identity(), config, make_card(config, classes), 1)
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 2, (2, 4, 5))
    labels[0, 0] = 255
    known = labels != 255
    shares = logits.softmax(1).movedim(1, -1)[known]
    truth = torch.nn.functional.one_hot(labels[known], 3)
    overlap = 2 * (shares * truth).sum(0) / (shares.sum(0) + truth.sum(0))
    # class c is nowhere to be seen: nothing to overlap with, but it counts as one of three
    dice = (1 - overlap)[:2].sum() / 3
    entropy = -shares.log()[truth.bool()].mean()
    torch.testing.assert_close(task._loss(logits, labels), entropy + 0.5 * dice)


def test_broken_files_are_skipped_where_allowed(root, make_config, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    (copy / "labels" / "train" / "000003.png").unlink()
    with pytest.raises(DataError, match=r"1 problem: train/000003\.png: no label map"):
        train(make_config(data__spec=f"masks:{copy}"), progress=False)
    train(make_config(data__spec=f"masks:{copy}", data__on_problem="skip", trainer__epochs=1), progress=False)
    assert "left out" in (said := capsys.readouterr().err)
    assert "000003.png: no label map" in said


def test_history_and_best(trained):
    assert set(trained.history[0]) >= {"train_loss", "val_miou", "val_accuracy"}
    assert trained.history[-1]["train_loss"] < 0.7 * trained.history[0]["train_loss"]
    assert trained.score == max(row["val_miou"] for row in trained.history)
    assert evaluate(trained.best).miou == pytest.approx(trained.score)


def test_images_of_several_sizes(root, make_config, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    for split in ("train", "val"):
        for folder in (copy / split, copy / "labels" / split):
            file = folder / "000001.png"
            PIL.Image.open(file).crop((0, 0, 100, 90)).save(file)
    with pytest.raises(ConfigError, match=r"differ in size: set augment\.crop"):
        train(make_config("whole", data__spec=f"masks:{copy}"), progress=False)
    changes = {"augment__crop": (64, 96), "data__min_size": 128, "augment__scale": (0.5, 2.0), "augment__flip": 0.5}
    config = make_config("cropped", data__spec=f"masks:{copy}", **changes, augment__photometric=True)
    result = train(config, progress=False)
    assert evaluate(result.best).confusion.sum() == 5 * 128 * 128 + 100 * 90


def test_same_seed_same_weights(make_config):
    one, other = (train(make_config(name, trainer__epochs=1), progress=False) for name in ("one", "other"))
    weights = [read_checkpoint(result.last)["state_dict"] for result in (one, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("name", SEGMENTERS)
def test_every_segmenter_trains_and_comes_back(name, make_config):
    smp = name.startswith("smp_")
    # another memory order would round otherwise where the checkpoint is read
    changes = {"model__name": name, "trainer__epochs": 1, "model__args": {}, "trainer__channels_last": False}
    changes["data__min_size"] = 64
    if smp:
        # the recipe's nmuon multiplies large matrices in bfloat16, for which some processors take minutes
        changes |= {"model__backbone": "rednet26", "model__backbone_args": {}, "model__levels": None}
        changes["optimizer__name"] = "adamw"
    else:
        changes["model__args"] = {"head_channels": 16}
    result = train(make_config(**changes), progress=False)
    figures = evaluate(result.best)
    assert figures.confusion.sum() == 6 * 128 * 128
    assert figures.miou == pytest.approx(result.score)


@pytest.mark.parametrize("name", SMP)
def test_smp_has_counts_of_its_own(name):
    args, parameters = SMP[name]
    config = SegmentConfig.load(None, {"model.name": name, "model.args": args})
    assert sum(p.numel() for p in create_segmenter(config, 19, False).parameters()) == parameters


def test_weights_of_the_backbone_train_on(make_config, tmp_path):
    file = tmp_path / "nano.pth"
    torch.save(timm.create_model("rednet_nano", in_chans=3).state_dict(), file)
    widths = {"small_input": False, "channels": [16, 32, 64]}
    config = make_config(model__weights=str(file), model__backbone_args=widths, optimizer__head_lr_factor=10.0)
    model = create_segmenter(config, 11, weights=True)
    state = model.backbone.backbone.body.state_dict()
    before = torch.load(file, weights_only=True)
    assert all(torch.equal(value, before[name]) for name, value in state.items())
    assert all(p.requires_grad for p in model.parameters())
    body = {id(p) for p in model.backbone.backbone.parameters()}
    for group in param_groups(model, config.optimizer):
        assert len({id(p) in body for p in group["params"]}) == 1
        factor = 1 if id(group["params"][0]) in body else 10
        assert group["lr"] == pytest.approx(config.optimizer.lr * factor)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__name": "unet"}, "no segmenter named 'unet'"),
        ({"model__backbone": "rednet500"}, "did you mean rednet50"),
        ({"model__name": "upernet", "model__neck": "involution"}, "neck is for semantic_fpn"),
        ({"model__name": "smp_fpn"}, "are not for smp_fpn"),
        ({"model__args": {"colour": 3}}, "can't be built"),
        ({"augment__scale": (0.5, 2.0)}, "augment.scale needs data.min_size"),
        ({"augment__scale": (2.0, 1.0)}, "two factors, the smaller one first"),
        ({"model__dice_weight": -1.0}, "model.dice_weight must be 0 or more"),
        ({"augment__zoom": (0.0, 1.0)}, "augment.zoom must be greater than 0"),
        ({"augment__shear": 90.0}, "augment.shear must be from 0 to 89"),
        ({"augment__class_limit": 0.0}, "augment.class_limit must be greater than 0"),
        ({"augment__crop": (0, 5)}, "augment.crop must be"),
    ],
)
def test_refuses(make_config, changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train(make_config(**changes), progress=False)
    assert not (tmp_path / "run").exists()


def test_other_checkpoints_and_data_are_refused(trained, root, tmp_path):
    with pytest.raises(CheckpointError, match="made for the task 'segment', wanted detect"):
        load(trained.best, task="detect")
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    names = (copy / "classes.txt").read_text().split()
    (copy / "classes.txt").write_text("\n".join([*names[:-1], "ten"]))
    with pytest.raises(ConfigError, match="was trained on other classes"):
        evaluate(trained.best, f"masks:{copy}")
    with pytest.raises(DataError, match="no such folder"):
        evaluate(trained.best, "masks:/no/such")


def test_predict_sets_unreadable_files_aside(trained, root, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"x")
    PIL.Image.fromarray(np.zeros((33, 50), np.uint8)).save(tmp_path / "grey.png")
    files = [str(tmp_path / name) for name in ("broken.png", "grey.png")]
    code = main(["segment", "predict", *files, "--checkpoint", str(trained.best), "--output", str(tmp_path / "out")])
    assert code == 1
    assert "broken.png" in capsys.readouterr().err
    with PIL.Image.open(tmp_path / "out" / "grey.png") as image:
        assert image.size == (50, 33)


PUBLISHED = {
    "cityscapes-semantic-fpn": 18_463_169,
    "cityscapes-semantic-fpn-involution-neck": 16_372_737,
    "cityscapes-upernet": 56_380_500,
}


def test_there_are_no_other_recipes():
    assert recipe_names("segment") == sorted([*PUBLISHED, "digit-scenes", "finetune"])


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_published_recipe(recipe):
    config = SegmentConfig.load(recipe)
    assert (config.optimizer.name, config.optimizer.lr, config.optimizer.momentum) == ("momentum", 0.01, 0.9)
    assert (config.trainer.steps, config.data.batch_size, config.trainer.sync_batchnorm) == (80_000, 8, True)
    augment = config.augment
    assert (augment.scale, augment.crop, augment.class_limit) == ((0.5, 2.0), (512, 1024), 0.75)
    assert (augment.flip, augment.photometric, config.data.min_size) == (0.5, True, 1024)
    model = create_segmenter(config, 19, False)
    groups = param_groups(model, config.optimizer)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.01, 5e-4)]
    assert sum(p.numel() for p in groups[0]["params"]) == PUBLISHED[recipe]
    # 2,975 images, 8 a step; poly of power 0.9 from 0.01 to 0.0001
    for step in (0, 1, 40_000, 79_999, 80_000, 80_100):
        left = max(0.0, 1 - step / 80_000)
        rate = 0.01 * lr_factor(step, 371, 80_000 / 371, config.schedule)
        assert rate == pytest.approx((0.01 - 1e-4) * left**0.9 + 1e-4), step


def test_steps_become_whole_epochs(make_config):
    result = train(make_config(trainer__steps=3, trainer__epochs=50, data__batch_size=8), progress=False)
    # two steps an epoch
    assert len(result.history) == 2


@pytest.mark.slow
@pytest.mark.parametrize("recipe", PUBLISHED)
def test_published_recipe_takes_two_steps(recipe, root, tmp_path):
    changes = {
        "data.spec": f"masks:{root}",
        "data.workers": 0,
        "data.min_size": 96,
        "augment.crop": [64, 96],
        "trainer.steps": 2,
        "output": str(tmp_path),
    }
    result = train(SegmentConfig.load(recipe, changes), progress=False)
    assert math.isfinite(result.history[0]["train_loss"])
    assert load(result.last)[1].task == "segment"


def test_masks_of_0_and_255_are_learnt_and_measured(tmp_path):
    """A lesion on dark ground, as tools for pictures draw it: 255 is a class where the user says so."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for i in range(8):
            labels = np.zeros((32, 32), np.uint8)
            top, left = rng.integers(0, 16, 2)
            labels[top : top + 16, left : left + 16] = 255
            image = np.where(labels[..., None] > 0, [230, 60, 60], [40, 40, 40]) + rng.integers(0, 20, (32, 32, 3))
            for folder, pixels in ((split, image), (f"labels/{split}", labels)):
                (tmp_path / folder).mkdir(parents=True, exist_ok=True)
                PIL.Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / folder / f"{i}.png")
    (tmp_path / "classes.txt").write_text("background\nlesion\n")
    fast = {"output": str(tmp_path), "data.spec": f"masks:{tmp_path}", "data.batch_size": 4, "data.workers": 0}
    fast |= {"trainer.epochs": 6, "optimizer.lr": 0.01, "data.min_size": None, "augment.crop": None}
    with pytest.raises(DataError, match=r"the value 255, meaning ignored, covers 2\d\.\d+% of the pixels, and lesion"):
        train(SegmentConfig.load("digit-scenes", fast), progress=False)
    assert not (tmp_path / "digit-scenes").exists()
    told = SegmentConfig.load("digit-scenes", {**fast, "data.values": {0: "background", 255: "lesion"}})
    best = train(told, progress=False).best
    figures = evaluate(best)
    assert figures.confusion.sum(1).tolist() == [8 * (32 * 32 - 256), 8 * 256]
    assert figures.iou[1] > 0.5
    assert json.loads((best.parent / "data.json").read_text())["classes"] == ["background", "lesion"]


def test_an_evaluation_on_masks_of_0_and_255_is_refused_too(tmp_path, trained):
    """Where 255 is ignored every pixel that counts is background: the figure would be perfect."""
    classes = ["background", *map(str, range(10))]
    (tmp_path / "classes.txt").write_text("\n".join(classes) + "\n")
    for folder in ("train", "val", "labels/train", "labels/val"):
        (tmp_path / folder).mkdir(parents=True)
    for split in ("train", "val"):
        labels = np.zeros((32, 32), np.uint8)
        labels[:10] = 255
        PIL.Image.fromarray(labels).save(tmp_path / "labels" / split / "0.png")
        PIL.Image.new("RGB", (32, 32)).save(tmp_path / split / "0.png")
    with pytest.raises(DataError, match=r"in val the value 255, meaning ignored, covers 31\.25% of the pixels"):
        evaluate(trained.best, f"masks:{tmp_path}")

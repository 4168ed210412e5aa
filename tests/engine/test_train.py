import csv
import shutil

import PIL.Image
import pytest
import torch
from engine_runs import FAST
from generated import image_folder

from involution.data.images import ImageError
from involution.engine import evaluate, load, train
from involution.engine.callbacks import TrainingDiverged, TrainingInterrupted
from involution.engine.checkpoint import CheckpointError
from involution.engine.config import ConfigError
from involution.engine.files import RECORD
from involution.engine.tasks.classify.config import ClassifyConfig

# whatever could break an exact resumption: averaging, dropout, mixing, accumulation, momentum
EVERYTHING = {
    "trainer__ema_decay": 0.9,
    "trainer__accumulate": 2,
    "model__args": {"drop_rate": 0.2},
    "augment__mixup": 0.2,
    "augment__cutmix": 1.0,
    "trainer__clip_grad_norm": 1.0,
}


def weights(path):
    found = torch.load(path, weights_only=True)
    return {**found["state_dict"], **{f"current.{k}": v for k, v in found.get("current_model_state", {}).items()}}


def assert_same(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_the_same_seed_gives_the_same_bits(make_config):
    runs = [train(make_config(name, trainer__epochs=1), progress=False) for name in ("one", "two")]
    assert_same(runs[0].last, runs[1].last)
    other = train(make_config("three", trainer__epochs=1, seed=1), progress=False)
    name = "model.layer1.0.conv1.weight"
    assert not torch.equal(weights(runs[0].last)[name], weights(other.last)[name])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    torch.set_num_threads(1)
    settings = {**FAST, **{key.replace("__", "."): value for key, value in EVERYTHING.items()}}
    settings |= {"trainer.epochs": 3, "output": str(tmp_path_factory.mktemp("uninterrupted")), "name": "whole"}
    return train(ClassifyConfig.load("digits", settings), progress=False)


@pytest.mark.parametrize(
    ("method", "call", "position"),
    # 8 loader batches an epoch; one validation batch of 256 images and one of the rest
    [
        ("training_step", 11, [1, 4]),
        ("training_step", 16, [1, 8]),
        ("validation_step", 3, [1, 8]),
    ],
    ids=["within an epoch", "at its last step", "in validation"],
)
def test_interrupted_and_resumed_is_as_uninterrupted(uninterrupted, make_config, press_ctrl_c, method, call, position):
    config = make_config("parts", trainer__epochs=3, **EVERYTHING)
    press_ctrl_c(method, call)
    with pytest.raises(TrainingInterrupted, match="interrupted") as stop:
        train(config, progress=False)
    assert stop.value.checkpoint == config.run_dir / "last.ckpt"
    assert torch.load(stop.value.checkpoint, weights_only=True)["involution"]["position"] == position
    resumed = train(config, progress=False, resume=stop.value.checkpoint)
    assert_same(uninterrupted.last, resumed.last)
    assert_same(uninterrupted.best, resumed.best)
    # the figures of the training images are those since the resumption
    left_out = ("second", "train") if position == [1, 4] else ("second",)
    timeless = [
        [{k: v for k, v in row.items() if not any(part in k for part in left_out)} for row in run.history]
        for run in (uninterrupted, resumed)
    ]
    assert timeless[0] == timeless[1]


def test_a_run_leaves_checkpoints_and_logs(make_config):
    result = train(make_config(), progress=False)
    assert result.log_dir.name == "run"
    assert {file.name for file in result.log_dir.iterdir()} == {
        "best.ckpt",
        "last.ckpt",
        "last.1.ckpt",
        "metrics.csv",
        "data.json",
        "tensorboard",
        RECORD,
    }
    assert list((result.log_dir / "tensorboard").glob("events.out.tfevents.*"))
    with (result.log_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    assert float(rows[1]["val_accuracy"]) == pytest.approx(result.history[1]["val_accuracy"])
    assert result.score == max(row["val_accuracy"] for row in result.history)
    assert result.seconds > 0
    assert result.images_per_second == pytest.approx(2 * 1024 / result.seconds)
    # the figure of the checkpoint chosen is that of the validation images
    assert evaluate(result.best, split="val").top1 == pytest.approx(result.score)


def test_the_checkpoint_tells_all_that_its_use_needs(make_config):
    result = train(make_config(trainer__epochs=1, data__crop_pct=0.9), progress=False)
    model, card = load(result.best)
    assert not model.training
    assert (card.task, card.model, card.model_args) == ("classify", "test_resnet", {})
    assert card.classes == [str(i) for i in range(10)]
    assert (card.input_size, card.mean, card.std) == ((1, 8, 8), (0.5,), (0.5,))
    assert (card.interpolation, card.crop_pct) == ("bilinear", 0.9)
    assert card.recipe["trainer"]["epochs"] == 1
    assert card.versions["torch"] == torch.__version__
    assert model(torch.zeros(2, *card.input_size)).shape == (2, 10)


def test_moving_average_is_what_is_kept_and_evaluated(make_config):
    result = train(make_config(trainer__ema_decay=0.5, trainer__epochs=1), progress=False)
    found = torch.load(result.last, weights_only=True)
    model, _ = load(result.best)
    name = "layer1.0.conv1.weight"
    assert torch.equal(model.state_dict()[name], found["state_dict"][f"model.{name}"])
    assert not torch.equal(model.state_dict()[name], found["current_model_state"][f"model.{name}"])
    assert evaluate(result.best, split="val").top1 == pytest.approx(result.score)


def test_evaluation_counts_each_image_once(make_config):
    result = train(make_config(trainer__epochs=1), progress=False)
    found = evaluate(result.best, batch_size=50)
    assert (found.num_images, found.split, len(found.classes)) == (360, "test", 10)
    assert found.confusion.shape == (10, 10)
    # the test split holds 35 to 37 images of each class
    assert found.confusion.sum(1).min() >= 35
    assert found.top1 == pytest.approx(found.confusion.diagonal().sum().item() / 360)
    assert found.top1 <= found.top5 <= 1
    other = evaluate(result.best, batch_size=360)
    assert torch.equal(found.confusion, other.confusion)
    assert found.loss == pytest.approx(other.loss, rel=1e-5)


def test_an_existing_run_is_never_overwritten(make_config):
    config = make_config(trainer__epochs=1)
    result = train(config, progress=False)
    before = result.last.read_bytes()
    with pytest.raises(ConfigError, match=r"already has a run; choose another --name, or resume it with --resume"):
        train(config, progress=False)
    with pytest.raises(ConfigError, match=r"is finished \(1 of 1 epochs\); raise --trainer\.epochs"):
        train(config, progress=False, resume=result.last)
    assert result.last.read_bytes() == before


def test_a_finished_run_of_steps_is_prolonged_by_steps(make_config):
    result = train(make_config(trainer__steps=1), progress=False)
    said = (
        r"is finished \(1 of 1 epochs, set by trainer\.steps 1\); raise --trainer\.steps to train longer, which holds"
    )
    with pytest.raises(ConfigError, match=said):
        train(make_config(trainer__steps=1, trainer__epochs=2), progress=False, resume=result.last)


def test_divergence_is_told(make_config):
    with pytest.raises(TrainingDiverged, match=r"in epoch 1, step 2: .*; lower optimizer\.lr.*; nothing was saved"):
        train(make_config(optimizer__lr=1e30, optimizer__name="sgd"), progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__batch_size": 30, "trainer__accumulate": 4}, "must be a multiple of devices x trainer.accumulate"),
        ({"data__channels": 3}, r"data\.channels must be 1 or 3 with as many data\.mean"),
        ({"data__interpolation": "nearest"}, "must be bilinear or bicubic"),
        ({"trainer__epochs": 0}, r"trainer\.epochs must be from 1 to 1000000"),
        ({"trainer__ema_decay": 1.5}, "must be between 0 and 1"),
        ({"trainer__precision": "8"}, r"trainer\.precision must be one of"),
        ({"name": "a/b"}, "must be the name of a folder"),
        ({"model__name": "test_resnett"}, "no model named 'test_resnett'; did you mean test_resnet"),
        ({"model__args": {"nonsense": 1}}, "test_resnet can't be made with.*nonsense"),
        ({"optimizer__name": "sgdd"}, "no optimizer named 'sgdd'; did you mean sgd"),
        ({"schedule__decay": "steps"}, r"schedule\.decay must be one of"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_settings(make_config, changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train(make_config(**{"name": "run", **changes}), progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__name": "test_resnett"}, "no model named 'test_resnett'"),
        ({"model__weights": "nowhere.ckpt"}, "no such checkpoint: nowhere.ckpt"),
        ({"trainer__accelerator": "foo"}, r"can't run on devices=1, trainer\.accelerator=foo"),
        ({"trainer__precision": "16-mixed"}, r"trainer\.precision 16-mixed does not work on this device"),
        ({"trainer__strategy": "fsdp"}, r"trainer\.strategy fsdp shares the weights out among several devices"),
    ],
)
def test_what_can_be_known_before_is_told_before_the_data_is_read(make_config, changes, message):
    changes = {"trainer__accelerator": "cpu", **changes}
    with pytest.raises((ConfigError, CheckpointError), match=message):
        train(make_config(data__spec="imagefolder:nowhere", **changes), progress=False)


def test_an_evaluation_tells_of_its_device_before_the_data_is_read(make_config):
    result = train(make_config(trainer__epochs=1), progress=False)
    with pytest.raises(ConfigError, match=r"can't run on devices=1, trainer\.accelerator=foo"):
        evaluate(result.best, "imagefolder:nowhere", accelerator="foo")


def test_a_batch_of_one_and_batch_norm_end_in_one_line(make_config, capsys):
    """A network whose last map is one pixel has one value per channel and image."""
    config = make_config(data__batch_size=1, trainer__epochs=1, data__image_size=2, model__name="rednet_nano")
    with pytest.raises(ConfigError, match=r"batch norm can't train on 1 image at a time .* raise data\.batch_size"):
        train(config, progress=False)
    # nothing was trained: the mended command is not refused
    capsys.readouterr()
    small = make_config(data__batch_size=512, trainer__epochs=1)
    assert small.run_dir == config.run_dir
    train(small, progress=False)
    assert "ended before its first checkpoint; it starts over" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="already has a run"):
        train(small, progress=False)


@pytest.mark.parametrize("name", ["thesis.txt", "data.json", "tensorboard/events"])
def test_files_of_others_in_a_runs_folder_are_refused(make_config, name):
    config = make_config(trainer__epochs=1)
    file = config.run_dir / name
    file.parent.mkdir(parents=True)
    file.write_text("precious")
    with pytest.raises(ConfigError, match="already has files; choose another --name"):
        train(config, progress=False)
    assert file.read_text() == "precious"


def test_a_resumed_run_tells_that_its_images_are_read_otherwise(make_config, capsys):
    last = train(make_config(trainer__epochs=1), progress=False).last
    told = []
    for changes in ({}, {"data__crop_pct": 0.5}):
        capsys.readouterr()
        epochs = 2 + len(changes)
        train(make_config(trainer__epochs=epochs, **changes), progress=False, resume=last)
        told += [line for line in capsys.readouterr().err.splitlines() if "from here on" in line]
    (line,) = told
    assert line.startswith("warning: from here on with data.crop_pct 0.5 instead of ")


def test_a_resumed_run_replaces_nothing_of_another_training(make_config, tmp_path):
    config = make_config(trainer__epochs=1)
    run = train(config, progress=False)
    alone = tmp_path / "downloads"
    alone.mkdir()
    shutil.copy(run.last, alone / "last.ckpt")
    found = torch.load(run.best, weights_only=True)
    other = {**found, "involution": {**found["involution"], "model": "another"}}
    more = make_config(trainer__epochs=2)
    for name, content in (("best.ckpt", {"state_dict": {}}), ("best.ckpt", other), ("metrics.csv", "step,loss\n1,2\n")):
        if isinstance(content, str):
            (alone / name).write_text(content)
        else:
            torch.save(content, alone / name)
        before = (alone / name).read_bytes()
        with pytest.raises(
            ConfigError, match=rf"{name} would be replaced, but is not of this training; put last\.ckpt"
        ):
            train(more, progress=False, resume=alone / "last.ckpt")
        assert (alone / name).read_bytes() == before
        (alone / name).unlink()


def test_a_broken_image_is_told_in_one_line_by_loader_processes_too(make_config, tmp_path):
    root = image_folder(tmp_path / "pictures", classes=("ant", "bee"), per_class=8)
    config = make_config(data__spec=f"imagefolder:{root}", data__batch_size=8, trainer__epochs=1, data__workers=1)
    best = train(config, progress=False).best
    for file in root.rglob("*.jpg"):
        PIL.Image.effect_noise((64, 64), 90).save(file)
        # the header is whole
        file.write_bytes(file.read_bytes()[:500])
    config = make_config("other", **{"data.spec": f"imagefolder:{root}", "data.batch_size": 8, "data.workers": 1})
    for call in (lambda: train(config, progress=False), lambda: evaluate(best, workers=1)):
        with pytest.raises(ImageError, match=r"\.jpg: broken or truncated image") as told:
            call()
        assert "Traceback" not in str(told.value)
        assert len(str(told.value)) < 300


def test_the_same_data_under_another_spelling_keeps_its_split(make_config, tmp_path):
    root = image_folder(tmp_path / "pictures", splits=("plain",), classes=("ant", "bee"), per_class=10) / "plain"
    config = make_config(data__spec=f"imagefolder:{root}", data__batch_size=8, data__split_by="draw", trainer__epochs=1)
    best = train(config, progress=False).best
    for spec in (None, f"imagefolder:{root}", f"imagefolder:{root}/", f"imagefolder:{root}/../plain", str(root)):
        assert (spec, evaluate(best, spec).num_images) == (spec, 4)


def test_metrics_are_written_where_a_checkpoint_finds_no_room(make_config, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    config = make_config(trainer__epochs=1)
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"No space left on device; nothing was saved before: '.*last\.ckpt'"):
        train(config, progress=False)
    with (config.run_dir / "metrics.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1"]

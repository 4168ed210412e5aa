import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from involution.engine import evaluate, load, run, train
from involution.engine.checkpoint import CheckpointError
from involution.engine.config import ConfigError
from involution.engine.task import get_task
from involution.engine.tasks.classify.config import ClassifyConfig
from involution.engine.tasks.classify.network import create_classifier
from involution.engine.tasks.detect.config import DetectConfig
from involution.engine.tasks.detect.network import create_detector
from involution.engine.tasks.segment.config import SegmentConfig
from involution.engine.tasks.segment.network import create_segmenter
from involution.engine.weights import load_weights, order_head


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.fixture
def trained(make_config):
    return train(make_config(trainer__epochs=1), progress=False).best


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    file, trace = tmp_path / "evil.ckpt", tmp_path / "ran"
    for old_format in (False, True):
        torch.save({"involution": Evil(trace)}, file, _use_new_zipfile_serialization=not old_format)
        with pytest.raises(CheckpointError, match=r"evil\.ckpt is refused, nothing of it was run"):
            load(file)
    assert not trace.exists()


def test_what_is_no_checkpoint(tmp_path, trained):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load(tmp_path / "none.ckpt")
    file = tmp_path / "other.ckpt"
    for content in (b"", b"some words", trained.read_bytes()[:5000]):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"other\.ckpt is (not a checkpoint|damaged)"):
            load(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "words")
    with pytest.raises(CheckpointError, match="is damaged"):
        load(file)
    torch.save({"state_dict": {}}, file)
    with pytest.raises(CheckpointError, match="not a checkpoint of a training by `involution`"):
        load(file)


def changed(trained, tmp_path, change):
    found = torch.load(trained, weights_only=True)
    change(found)
    file = tmp_path / "changed.ckpt"
    torch.save(found, file)
    return file


def test_cards_that_do_not_fit(tmp_path, trained):
    file = changed(trained, tmp_path, lambda found: found["involution"].pop("classes"))
    with pytest.raises(CheckpointError, match=r"changed\.ckpt: its card is incomplete: classes missing"):
        load(file)
    file = changed(trained, tmp_path, lambda found: found["involution"].update(task="detect"))
    with pytest.raises(CheckpointError, match="made for the task 'detect', wanted classify"):
        load(file, task="classify")
    file = changed(trained, tmp_path, lambda found: found["involution"].update(classes=["a", "b"]))
    with pytest.raises(
        CheckpointError, match=r"weights don't fit .*: 2 of another shape .*fc\.weight \(2, 96\) float wanted"
    ):
        load(file)
    file = changed(trained, tmp_path, lambda found: found["involution"]["recipe"]["model"].update(name="rednet5"))
    with pytest.raises(
        CheckpointError, match=r"its recipe can't be used: no model named 'rednet5'; did you mean rednet"
    ):
        load(file)


def test_evaluation_on_other_data(tmp_path, trained):
    from generated import image_folder

    root = image_folder(tmp_path / "pictures")
    with pytest.raises(
        ConfigError,
        match=r"was trained on other classes .* than imagefolder:.*: ant, bee, cat not among them",
    ):
        evaluate(trained, f"imagefolder:{root}")


def test_weights_of_safetensors_and_their_head(tmp_path, capsys):
    source = timm.create_model("test_resnet", num_classes=10)
    file = tmp_path / "weights.safetensors"
    save_file(source.state_dict(), file)
    same = timm.create_model("test_resnet", num_classes=10)
    load_weights(same, file)
    assert capsys.readouterr().err == ""
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in same.state_dict().items())
    load_weights(timm.create_model("test_resnet", num_classes=3, in_chans=1), file)
    assert capsys.readouterr().err == (
        f"{file}: the first convolution (conv1.0.weight) was adapted from 3 channels to 1\n"
        f"{file}: the head starts from scratch (fc.weight, fc.bias), the file's is for other classes\n"
    )
    small = timm.create_model("test_efficientnet", num_classes=10)
    before = {name: value.clone() for name, value in small.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"does not fit the model test_efficientnet: .* missing .* unexpected"):
        load_weights(small, file)
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_weights(small, tmp_path / "none.safetensors")
    file.write_bytes(b"words")
    with pytest.raises(CheckpointError, match="is damaged"):
        load_weights(small, file)


def test_a_head_of_some_of_the_classes_keeps_these_by_name(tmp_path, capsys):
    source, network = (timm.create_model("test_resnet", num_classes=3) for _ in range(2))
    torch.save({"state_dict": source.state_dict(), "classes": ["cat", "dog", "horse"]}, tmp_path / "a.pth")
    order_head(network, "a.pth", load_weights(network, tmp_path / "a.pth"), ["dog", "horse", "zebra"])
    for kept, was in zip(network.fc.parameters(), source.fc.parameters(), strict=True):
        assert torch.equal(kept[:2], was[1:])
        assert not any(torch.equal(kept[2], row) for row in was)
        assert kept.requires_grad
    said = "its head has dog, horse of the 3 classes by name, which are kept; from scratch: zebra"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("classes", "places", "said"),
    [
        (["ant", "bee", "cat"], [0, 1, 2], ""),
        (
            ["cat", "ant", "bee"],
            [2, 0, 1],
            "its head has the same classes in another order, and was put",
        ),
        (
            ["x", "y", "z"],
            [0, 1, 2],
            "its head is taken as it is, a class for a class: ant, bee, cat become x, y, z",
        ),
    ],
)
def test_a_head_of_as_many_classes_goes_by_their_names(tmp_path, capsys, classes, places, said):
    source, network = (timm.create_model("test_resnet", num_classes=3) for _ in range(2))
    torch.save({"state_dict": source.state_dict(), "classes": ["ant", "bee", "cat"]}, tmp_path / "a.pth")
    order_head(network, "a.pth", load_weights(network, tmp_path / "a.pth"), classes)
    assert torch.equal(network.fc.weight, source.fc.weight[places])
    assert torch.equal(network.fc.bias, source.fc.bias[places])
    told = capsys.readouterr().err
    assert told.startswith(f"a.pth: {said}") if said else told == ""


def test_a_training_orders_the_head_of_the_one_before(tmp_path, capsys):
    first = make_module_of(tmp_path / "one", ("ant", "bee"), None)
    card = replace(first.card, classes=["bee", "ant"])
    weights = {f"model.{name}": value for name, value in first.model.state_dict().items()}
    torch.save({"involution": card.to_dict(), "state_dict": weights}, tmp_path / "one.ckpt")
    again = make_module_of(tmp_path / "two", ("ant", "bee"), str(tmp_path / "one.ckpt"))
    assert torch.equal(again.model.fc.weight, first.model.fc.weight[[1, 0]])
    assert "one.ckpt: its head has the same classes in another order" in capsys.readouterr().err


def make_module_of(root, classes, weights):
    from generated import image_folder

    spec = f"imagefolder:{image_folder(root, classes=classes, per_class=2)}"
    changes = {"model.name": "test_resnet", "model.weights": weights, "data.spec": spec, "data.image_size": 32}
    config, task = ClassifyConfig.load(None, changes), get_task("classify")
    return run.make_module(task, config, run.open_data(task, config), 1, fresh=True)


def test_what_was_read_is_told_for_every_task(tmp_path, capsys):
    source = timm.create_model("rednet26")
    content = {"state_dict": source.state_dict(), "state_dict_ema": source.state_dict()}
    torch.save(content, tmp_path / "timm.pth.tar")
    changes = {"model.backbone": "rednet26", "model.weights": str(tmp_path / "timm.pth.tar")}
    changes["model.backbone_args"], changes["model.levels"] = {}, [1, 2, 3, 4]
    create_detector(DetectConfig.load("digit-scenes", {**changes, "model.args": {}}), 3, True)
    segment = SegmentConfig.load("digit-scenes", {**changes, "model.args": {}})
    create_segmenter(segment, 3, True)
    create_segmenter(replace(segment, model=replace(segment.model, name="smp_fpn")), 3, True)
    create_classifier(
        ClassifyConfig.load(None, {"model.name": "rednet26", **dict(list(changes.items())[1:2])}), 3, True
    )
    lines = capsys.readouterr().err.splitlines()
    said = f"{tmp_path / 'timm.pth.tar'}: used the moving average of the weights"
    assert [line.startswith(said) for line in lines] == [True, True, True, True, False]

"""A network is not measured on what it was trained on without a word."""

import shutil

import pytest
import torch
from generated import image_folder

from involution.engine import evaluate, train
from involution.engine.callbacks import TrainingInterrupted
from involution.engine.config import ConfigError
from involution.engine.split_record import differences, recorded


def warnings(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]


@pytest.fixture
def pictures(tmp_path):
    return image_folder(tmp_path / "pictures", splits=("train", "val", "test"), classes=("ant", "bee"), per_class=8)


@pytest.fixture
def config(make_config, pictures):
    changes = {"data.spec": f"imagefolder:{pictures}", "data.batch_size": 4, "trainer.epochs": 1}
    return lambda **more: make_config(**changes, **more)


def test_files_gone_and_added_are_told_by_evaluation_and_resumption(config, pictures, tmp_path, capsys):
    result = train(config(), progress=False)
    evaluate(result.best)
    assert warnings(capsys) == []
    images = sorted((pictures / "test" / "ant").iterdir())
    images[0].unlink()
    shutil.copyfile(images[1], images[1].with_name("new.jpg"))
    (pictures / "train" / "bee" / "more.jpg").write_bytes(images[1].read_bytes())
    # it is the same data elsewhere
    evaluate(result.best)
    told = ["warning: the test split changed since the training began: 1 image gone, 1 image new"]
    assert warnings(capsys) == told
    train(config(trainer__epochs=2), progress=False, resume=result.last)
    assert warnings(capsys) == [
        "warning: the train split changed since the training began: 1 image new",
        *told,
    ]


def test_a_split_that_moved_is_told(config, pictures, capsys):
    result = train(config(), progress=False)
    found = torch.load(result.best, weights_only=True)
    found["split"]["train"] = torch.cat([found["split"]["train"], found["split"]["test"][:3]])
    torch.save(found, result.best)
    evaluate(result.best)
    assert warnings(capsys) == [
        f"warning: 3 of the {len(found['split']['test'])} images of the test split were trained on"
    ]


def test_arrays_are_known_by_their_pixels(make_config, capsys):
    result = train(make_config(trainer__epochs=1), progress=False)
    split = recorded(torch.load(result.best, weights_only=True))
    assert {name: len(part) for name, part in split.items()} == {"train": 1077, "val": 360, "test": 360}
    assert recorded({"split": {"train": 3, "val": torch.zeros(2)}}) == recorded({"split": None}) == {}
    assert differences({}, split, split) == []


def test_an_epoch_that_became_too_short(config, pictures, press_ctrl_c):
    press_ctrl_c("training_step", 3)
    with pytest.raises(TrainingInterrupted, match="interrupted") as stop:
        train(config(), progress=False)
    for name in ("ant", "bee"):
        for file in sorted((pictures / "train" / name).iterdir())[3:]:
            file.unlink()
    with pytest.raises(ConfigError, match=r"after 3 batches of an epoch, and .* has only 1 now: bring the images back"):
        train(config(), progress=False, resume=stop.value.checkpoint)

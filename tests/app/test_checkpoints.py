import pytest
from app_checkpoints import save_detector, save_runs
from explain_checkpoint import save_checkpoint

from involution.app.checkpoints import Checkpoint, find_checkpoints, twin_of
from involution.app.errors import AppError
from involution.engine.checkpoint import CheckpointError


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_of_runs_by_default(here):
    save_runs(here / "runs")
    (here / "runs/broken").mkdir()
    (here / "runs/broken/best.ckpt").write_text("no checkpoint")
    told = []
    found = find_checkpoints([], tell=told.append)
    assert [item.label for item in found] == [
        "rednet_nano · demo/rednet",
        "rednet_nano_conv · demo/twin",
        "mask_rcnn on rednet_nano · scenes",
        "semantic_fpn on rednet_nano · segments",
    ]
    assert [item.task for item in found] == ["classify", "classify", "detect", "segment"]
    assert len(told) == 1
    assert told[0].startswith("left out: runs/broken/best.ckpt is not a checkpoint")


def test_links_to_runs_are_followed_and_each_is_offered_once(here):
    (here / "elsewhere").mkdir()
    (here / "runs").mkdir()
    save_checkpoint(here / "elsewhere/best.ckpt")
    for name in ("a", "b"):
        (here / "runs" / name).symlink_to(here / "elsewhere")
    (here / "elsewhere/back").symlink_to(here / "runs")
    assert [item.label for item in find_checkpoints([])] == ["rednet_nano · a"]


def test_those_given_and_no_others(here):
    save_checkpoint(here / "a.ckpt")
    (here / "b").mkdir()
    save_checkpoint(here / "b/best.ckpt")
    found = find_checkpoints(["a.ckpt", "b/best.ckpt", "a.ckpt"])
    assert [item.label for item in found] == ["rednet_nano · a.ckpt", "rednet_nano · b"]


def test_a_label_tells_little_of_where_it_is(here):
    save_checkpoint(here / "a.ckpt")
    assert Checkpoint.read(here / "a.ckpt").label == f"rednet_nano · {here.name}/a.ckpt"


def test_nothing_to_offer(here):
    with pytest.raises(AppError, match=r"no best\.ckpt in runs/: train first, `involution demo` \(or `make demo`\)"):
        find_checkpoints([])
    with pytest.raises(CheckpointError, match=r"no such checkpoint: a\.ckpt"):
        find_checkpoints(["a.ckpt"])


def test_twins_differ_in_their_operator_alone(here):
    save_checkpoint(here / "rednet.ckpt")
    save_checkpoint(here / "twin.ckpt", "rednet_nano_conv")
    save_checkpoint(here / "micro.ckpt", "rednet_micro_conv")
    save_detector(here / "detector.ckpt")
    rednet, twin, micro, detector = (
        Checkpoint.read(here / f"{name}.ckpt") for name in ("rednet", "twin", "micro", "detector")
    )
    assert twin_of(rednet, [rednet, micro, detector, twin]) == twin
    assert twin_of(twin, [rednet, twin]) == rednet
    assert twin_of(detector, [rednet, twin, micro, detector]) is None

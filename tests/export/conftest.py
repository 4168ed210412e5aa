"""Checkpoints for exports, made once: tiny networks with weights and statistics that are no defaults."""

import pytest
from app_checkpoints import save_detector, save_segmenter
from explain_checkpoint import save_checkpoint
from export_networks import enliven
from pictures import picture


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        "classify": enliven(save_checkpoint(folder / "colour.ckpt", channels=3, side=24, crop_pct=0.8)),
        "grey": enliven(save_checkpoint(folder / "grey.ckpt")),
        "detect": save_detector(folder / "detector.ckpt", "faster_rcnn"),
        "segment": enliven(save_segmenter(folder / "segmenter.ckpt")),
    }


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(2):
        picture(number).save(folder / f"{number}.png")
    return folder

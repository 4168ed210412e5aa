"""Checkpoints for exports, made once: tiny networks with weights and statistics that are no defaults."""

import pytest
import torch
from app_checkpoints import save_detector, save_segmenter
from explain_checkpoint import save_checkpoint
from pictures import picture


def enliven(path):
    """Give a checkpoint's norms statistics whose folding changes something."""
    content = torch.load(path)
    torch.manual_seed(5)
    for name, value in content["state_dict"].items():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1)
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
        if name.endswith("bn3.weight"):
            # zero in a fresh network, which hides the branch
            value.fill_(0.5)
    torch.save(content, path)
    return path


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

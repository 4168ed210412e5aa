"""Checkpoints for the page, weights being random: a RedNet, its twin, a detector that finds much, a segmenter."""

import torch
from explain_checkpoint import save_checkpoint

from involution.app.reader import Upload
from involution.data.images import Reading
from involution.engine.loading import make_card
from involution.engine.tasks.detect.config import DetectConfig
from involution.engine.tasks.detect.network import create_detector
from involution.engine.tasks.segment.config import SegmentConfig
from involution.engine.tasks.segment.network import create_segmenter

CLASSES = ["one", "<b>two</b>", "three"]


def save_detector(path, name="mask_rcnn"):
    torch.manual_seed(2)
    config = DetectConfig.load("digit-scenes", {"model.name": name})
    model = create_detector(config, len(CLASSES), False)
    with torch.no_grad():
        # sure of the second class everywhere
        model.roi_heads.box_predictor.cls_score.bias[2] += 5
    return _save(path, model, make_card(config, CLASSES, [1, 2, 3]))


def save_segmenter(path):
    torch.manual_seed(3)
    config = SegmentConfig.load("digit-scenes", {})
    return _save(path, create_segmenter(config, len(CLASSES), False), make_card(config, CLASSES))


def _save(path, model, card):
    weights = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"involution": card.to_dict(), "state_dict": weights, "global_step": 5}, path)
    return path


def save_runs(folder):
    """Return a folder of runs, as trainings leave it."""
    for name in ("demo/rednet", "demo/twin", "scenes", "segments"):
        (folder / name).mkdir(parents=True)
    save_checkpoint(folder / "demo/rednet/best.ckpt")
    save_checkpoint(folder / "demo/twin/best.ckpt", "rednet_nano_conv")
    save_detector(folder / "scenes/best.ckpt")
    save_segmenter(folder / "segments/best.ckpt")
    return folder


def uploaded(image, *readings):
    """Return an image as the page holds it."""
    return Upload(dict.fromkeys(readings or [Reading()], image))

"""Images for large predictions: in files, Parquet tables and WebDataset shards; networks for all tasks; rows."""

import io
import json
import tarfile

import pyarrow.parquet
import torch
from explain_checkpoint import save_checkpoint
from pictures import picture

from involution.engine.loading import make_card
from involution.engine.tasks.detect.config import DetectConfig
from involution.engine.tasks.detect.network import create_detector
from involution.engine.tasks.segment.config import SegmentConfig
from involution.engine.tasks.segment.network import create_segmenter

CLASSES = ["one", "two", "three"]
SMALL = {
    "data.min_size": [32],
    "data.max_size": 64,
    "model.args": {
        "out_channels": 16,
        "box_channels": 16,
        "anchor_sizes": [8, 16, 32, 64],
        "rpn_post_nms_top_n_test": 20,
        "box_detections_per_img": 5,
    },
}


def png(seed, size=(16, 16)):
    file = io.BytesIO()
    picture(seed, size).save(file, "PNG")
    return file.getvalue()


def table(path, columns, **options):
    pyarrow.parquet.write_table(pyarrow.table(columns), path, **options)
    return path


def shard(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def checkpoint(task, path):
    """One whose detector finds something everywhere."""
    torch.manual_seed(2)
    if task == "classify":
        return save_checkpoint(path, channels=3)
    if task == "segment":
        config = SegmentConfig.load("digit-scenes", {"data.min_size": 32})
        return _save(path, create_segmenter(config, len(CLASSES), False), make_card(config, CLASSES))
    config = DetectConfig.load("digit-scenes", {"model.name": "mask_rcnn", **SMALL})
    model = create_detector(config, len(CLASSES), False)
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias[2] += 5
    return _save(path, model, make_card(config, CLASSES, [1, 2, 3]))


def _save(path, model, card):
    weights = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"involution": card.to_dict(), "state_dict": weights, "global_step": 5}, path)
    return path


def rows(folder):
    """Every row in the parts of a folder, in the order of the images."""
    found = [row for file in sorted(folder.glob("part-*.jsonl")) for row in _json_lines(file)]
    for file in sorted(folder.glob("part-*.parquet")):
        found += pyarrow.parquet.read_table(file).to_pylist()
    assert [row["index"] for row in found] == list(range(len(found)))
    return found


def lines(folder):
    """The record of a folder: what its parts are of, and the line of each."""
    first, *others = _json_lines(folder / "_manifest.jsonl")
    return first, others


def _json_lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]

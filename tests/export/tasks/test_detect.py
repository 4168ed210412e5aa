"""Detectors as graphs: the same boxes as torchvision's own code, for images of any size."""

import pytest
import torch

from involution.detection import faster_rcnn, first_label, mask_rcnn, retinanet
from involution.engine.loading import load_predictor
from involution.export import ExportError, export_checkpoint, load_exported
from involution.export.detectors import DetectorGraph
from involution.export.tasks.detect import _agreement

SMALL = {"out_channels": 32, "min_size": 96, "max_size": 160, "neck": "involution"}
STAGES = {**SMALL, "box_channels": 32, "head": "involution", "box_score_thresh": 0.2, "rpn_post_nms_top_n_test": 60}
KINDS = {
    "retinanet": (retinanet, {**SMALL, "score_thresh": 0.005, "topk_candidates": 40}),
    "faster_rcnn": (faster_rcnn, STAGES),
    "mask_rcnn": (mask_rcnn, STAGES),
    "exact": (faster_rcnn, {**STAGES, "conventions": "mmdetection"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_finds_what_the_detector_finds(kind):
    build, options = KINDS[kind]
    network = build(3, "rednet26", **options).eval()
    if kind != "retinanet":
        # sure of a class everywhere
        network.roi_heads.box_predictor.cls_score.bias.data[2] += 5
    graph = DetectorGraph(network)
    for shape in ((3, 60, 90), (3, 100, 70)):
        image = torch.rand(shape)
        with torch.no_grad():
            (wanted,) = network([image])
            prepared, _ = network.transform([image])
            found = graph(prepared.tensors, torch.tensor(prepared.image_sizes[0]))
        names = ("boxes", "scores", "labels", "masks")
        found = dict(zip(names, found, strict=False))
        found["labels"] = found["labels"] + first_label(network)
        if "masks" in found:
            found["masks"] = found["masks"][:, None]
        (found,) = network.transform.postprocess([found], prepared.image_sizes, [shape[1:]])
        assert len(wanted["boxes"]) > 3
        assert set(found) == set(wanted)
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-3)


def test_an_exported_detector_gives_the_results_of_the_checkpoint(checkpoints, photos, tmp_path):
    file = tmp_path / "d.onnx"
    written = export_checkpoint(checkpoints["detect"], "onnx", file)
    assert written.metadata.inputs[0]["shape"] == [1, 3, "height", "width"]
    assert written.metadata.outputs == ["boxes", "scores", "labels"]
    assert (written.metadata.category_ids, written.metadata.preprocessing["multiple_of"]) == ([1, 2, 3], 32)
    ours = load_predictor(checkpoints["detect"], "cpu").predict(sorted(photos.iterdir()), score=0.3)
    theirs = load_exported(file, "onnx", task="detect").predict(sorted(photos.iterdir()), score=0.3)
    for one, other in zip(ours, theirs, strict=True):
        assert one.found > 0
        assert one.labels == other.labels
        assert one.category_ids == other.category_ids
        assert one.scores == pytest.approx(other.scores, abs=1e-4)
        torch.testing.assert_close(torch.tensor(one.boxes), torch.tensor(other.boxes), rtol=1e-4, atol=1e-2)


def test_what_is_wrong_is_told_before_the_work(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr("involution.export.write.real_images", None)
    with pytest.raises(ExportError, match="wanted a --size of multiples of 32 for this detector, got 100x128"):
        export_checkpoint(checkpoints["detect"], "pt2", tmp_path / "a.pt2", size=(100, 128))


def boxes(*rows):
    return tuple(torch.tensor([row[i] for row in rows]) for i in range(3))


def test_boxes_agree_in_any_order_and_differ_by_class_and_place():
    ours = boxes(([0.0, 0, 4, 4], 0.9, 1), ([2.0, 2, 8, 8], 0.8, 2))
    moved = boxes(([2.0, 2, 8, 8.2], 0.8, 2), ([0.0, 0, 4, 4], 0.9, 1))
    difference, most, words = _agreement([ours], [moved])
    assert difference == pytest.approx(0.2)
    assert (difference <= most, words) == (True, "2 of 2 boxes")
    for other in (
        boxes(([0.0, 0, 4, 4], 0.9, 1), ([2.0, 2, 8, 8], 0.8, 1)),
        boxes(([0.0, 0, 4, 4], 0.9, 1), ([2.0, 2, 8, 9], 0.8, 2)),
        boxes(([0.0, 0, 4, 4], 0.9, 1), ([2.0, 2, 8, 8], 0.7, 2)),
        boxes(([0.0, 0, 4, 4], 0.9, 1)),
    ):
        difference, most, words = _agreement([ours], [other])
        assert (difference <= most, words) == (False, "1 of 2 boxes")

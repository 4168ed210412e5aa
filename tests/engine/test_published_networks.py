"""The authors' detectors and segmenters: converted, they compute what an independent replica of theirs does."""

import mmlab_replica as authors
import PIL.Image
import pytest
import torch
from mmlab_replica import CLASSES, HEAD, WIDTH, Network
from tolerances import NETWORK

from involution.cli import main
from involution.data.formats.cityscapes import cityscapes_classes
from involution.data.scenes import make_digit_scenes
from involution.engine import load
from involution.engine.published_networks import convert_network
from involution.models import CheckpointError
from involution.models.pyramid import Backbone

CONV, INV = "convolution", "involution"


def saved(state, path, classes=tuple("abcde")):
    # as mmcv writes it
    meta = {"mmdet_version": "2.8.0", "epoch": 12, "CLASSES": classes, "PALETTE": None, "config": "model = dict()"}
    torch.save({"meta": meta if classes else {}, "state_dict": state, "optimizer": {"state": {}}}, path)
    return path


def converted(shapes, folder, load, classes=tuple("abcde")):
    """The converted network in float64, the replica, and the report."""
    state = authors.fill(shapes)
    report = convert_network(saved(state, folder / "in.pth", classes), folder / "out.ckpt")
    model, card = load(folder / "out.ckpt")
    assert card == report.card
    return model.double(), Network(state), report


def image(height=64, width=96):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, **{**NETWORK[torch.float64], "atol": 1e-9 * float(theirs.abs().max())})


@pytest.mark.parametrize("neck", [CONV, INV])
def test_retinanet(neck, tmp_path):
    model, theirs, report = converted(authors.retinanet(neck), tmp_path, load)
    assert (report.network.kind, report.network.backbone, report.network.neck) == ("retinanet", "rednet26_stem7", neck)
    assert not report.network.left_out
    assert not report.network.filled
    x = image()
    with torch.no_grad():
        found = model.head(list(model.backbone(x).values()))
        logits, boxes = theirs.retinanet(x)
    same(found["cls_logits"], logits)
    same(found["bbox_regression"], boxes)


@pytest.mark.parametrize(("neck", "head", "masks"), [(CONV, CONV, True), (INV, CONV, False), (INV, INV, True)])
def test_two_stages(neck, head, masks, tmp_path):
    model, theirs, report = converted(authors.mask_rcnn(neck, head, masks), tmp_path, load)
    kind = "mask_rcnn" if masks else "faster_rcnn"
    assert (report.network.kind, report.network.neck, report.network.head) == (kind, neck, head)
    assert not report.network.left_out
    assert len(report.network.filled) == (4 if masks else 2)
    assert report.card.recipe["name"].startswith(f"coco-{kind.replace('_', '-')}")
    generator = torch.Generator().manual_seed(2)
    regions = torch.randn(3, WIDTH, 14, 14, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        ours, wanted = model.rpn.head(list(model.backbone(x := image()).values())), theirs.proposals(x)
        for mine, other in zip([*ours[0], *ours[1]], [*wanted[0], *wanted[1]], strict=True):
            same(mine, other)
        scores, boxes = theirs.boxes(regions[:, :, :7, :7])
        our_scores, our_boxes = model.roi_heads.box_predictor(model.roi_heads.box_head(regions[:, :, :7, :7]))
        # mmdetection's background is the last class, torchvision's the first, with boxes that are never read
        same(our_scores, scores[:, [CLASSES, *range(CLASSES)]])
        same(our_boxes[:, 4:], boxes)
        assert not our_boxes[:, :4].any()
        if masks:
            found = model.roi_heads.mask_predictor(model.roi_heads.mask_head(regions))
            same(found[:, 1:], theirs.masks(regions))


@pytest.mark.parametrize("neck", [CONV, INV])
def test_semantic_fpn(neck, tmp_path):
    model, theirs, report = converted(authors.semantic_fpn(neck), tmp_path, load)
    assert (report.task, report.network.kind, report.network.neck) == ("segment", "semantic_fpn", neck)
    with torch.no_grad():
        same(model(x := image()), theirs.semantic_fpn(x))


def test_upernet(tmp_path):
    model, theirs, report = converted(authors.upernet(), tmp_path, load)
    assert report.network.widths == {"head_channels": HEAD, "auxiliary_channels": HEAD}
    model.eval()
    with torch.no_grad():
        x = image(96, 128)
        logits, auxiliary = theirs.upernet(x)
        same(model(x), logits)
        same(authors.resize(model.auxiliary(model.backbone(x)), x), auxiliary)


def test_names_and_category_ids(tmp_path, monkeypatch):
    monkeypatch.setattr(authors, "CLASSES", 80)
    state = authors.fill(authors.retinanet(CONV))
    report = convert_network(saved(state, tmp_path / "in.pth", None), tmp_path / "coco.ckpt")
    ids = report.card.category_ids
    # COCO's ids have gaps
    assert (len(ids), ids[0], ids[11], ids[-1]) == (80, 1, 13, 90)
    assert report.card.classes[11:13] == ["stop sign", "parking meter"]
    assert "COCO's" in report.names_from
    names = tuple(f"thing {i}" for i in range(80))
    report = convert_network(saved(state, tmp_path / "in.pth", names), tmp_path / "own.ckpt")
    assert (report.card.classes, report.card.category_ids) == (list(names), list(range(1, 81)))
    assert report.card.recipe["model"]["args"]["conventions"] == "mmdetection"
    monkeypatch.setattr(authors, "CLASSES", 19)
    state = authors.fill(authors.semantic_fpn(CONV))
    report = convert_network(saved(state, tmp_path / "in.pth", None), tmp_path / "cityscapes.ckpt")
    assert report.card.classes == cityscapes_classes()
    assert report.card.classes[::18] == ["road", "bicycle"]


def test_what_has_no_counterpart_is_listed(tmp_path, capsys):
    state = authors.fill(authors.mask_rcnn(INV, INV))
    state["roi_head.mask_iou_head.convs.0.conv.weight"] = torch.zeros(1)
    saved({f"module.{name}": value for name, value in state.items()}, tmp_path / "in.pth")
    assert main(["convert", str(tmp_path / "in.pth"), str(tmp_path / "out.ckpt")]) == 0
    said = capsys.readouterr().out
    assert "found     mask_rcnn on rednet26_stem7, neck of involutions, head of involutions, 5 classes" in said
    assert "left out  module.roi_head.mask_iou_head.convs.0.conv.weight: mask_rcnn has no such part here" in said
    assert "filled    roi_heads.box_predictor.bbox_pred.bias: 4 rows of the background: zeros, never read" in said
    assert "involution detect predict --checkpoint" in said
    # a training starts from its backbone, but can't go on with it
    trained = Backbone("rednet26_stem7", weights=tmp_path / "out.ckpt").body.state_dict()
    assert torch.equal(trained["conv1.6.weight"], state["backbone.stem.4.conv.weight"])
    root = str(make_digit_scenes(tmp_path / "scenes", {"train": 1, "val": 1}))
    given = ["--resume", str(tmp_path / "out.ckpt"), "--data.spec", f"coco:{root}"]
    assert main(["detect", "train", *given]) == 2
    assert "was converted and can't be resumed" in capsys.readouterr().err
    given = ["--data.spec", f"coco:{root}", "--data.batch_size", "1", "--output", str(tmp_path / "runs")]
    assert main(["detect", "train", *given, "--model.weights", str(tmp_path / "none.ckpt")]) == 2
    assert "no such checkpoint" in capsys.readouterr().err
    # the backbone alone goes into a file for timm, and says what stays behind
    assert main(["convert", str(tmp_path / "in.pth"), str(tmp_path / "out.safetensors")]) == 0
    said = capsys.readouterr().out
    assert "found     rednet26_stem7: stem kernel 7, no classifier" in said
    assert "to convert a whole detector or segmenter, end the output in .ckpt" in said


def test_other_weights_beside_those_taken_are_told(tmp_path):
    # as MMEngine keeps the plain weights where it has put the moving average in their place
    state = authors.fill(authors.semantic_fpn(INV))
    content = {"state_dict": state, "ema_state_dict": state}
    torch.save(content, tmp_path / "in.pth")
    report = convert_network(tmp_path / "in.pth", tmp_path / "out.ckpt")
    assert report.notes == ["used the weights under state_dict, not those under 'ema_state_dict'"]


def test_what_is_refused(tmp_path, capsys):
    shapes = authors.mask_rcnn(INV, INV)
    state = authors.fill(shapes)
    path = saved(state, tmp_path / "whole.pth")
    for out, reason in (("out.pth", "ends in .safetensors or .ckpt"), ("none/out.ckpt", "no folder")):
        assert main(["convert", str(path), str(tmp_path / out)]) == 2
        assert reason in capsys.readouterr().err
    (tmp_path / "there.ckpt").write_text("mine")
    assert main(["convert", str(path), str(tmp_path / "there.ckpt")]) == 2
    assert "exists" in capsys.readouterr().err
    assert (tmp_path / "there.ckpt").read_text() == "mine"
    out = tmp_path / "out.ckpt"

    def refused(state, match, classes=tuple("abcde")):
        with pytest.raises(CheckpointError, match=match):
            convert_network(saved(state, tmp_path / "in.pth", classes), out)
        assert not out.exists()

    some = {name: value for name, value in state.items() if "rpn_cls" not in name}
    refused(some, r"not a whole mask_rcnn: 2 missing \(rpn\.head\.cls_logits\.weight, rpn\.head\.cls_logits\.bias\)")
    refused(
        {**state, "roi_head.bbox_head.fc_reg.weight": torch.zeros(4, 24)}, r"bbox_pred\.weight \(24, 24\) float wanted"
    )
    refused(state, "5 outputs for 2 classes", ("a", "b"))
    refused({k: v for k, v in state.items() if k.startswith("backbone.")}, "no detector or segmenter in this file")
    mixed = authors.fill(authors.mask_rcnn(INV, CONV) | {k: v for k, v in shapes.items() if k.startswith("rpn_head")})
    refused(mixed, "here both must be of one kind")


@pytest.mark.slow
def test_converted_files_evaluate_and_predict(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(authors, "CLASSES", 10)
    root = make_digit_scenes(tmp_path / "scenes", {"train": 1, "val": 2})
    PIL.Image.new("RGB", (100, 80), "gray").save(tmp_path / "picture.png")
    for shapes in (authors.retinanet(INV), authors.mask_rcnn(INV, INV)):
        state = authors.fill(shapes)
        saved(state, tmp_path / "in.pth", tuple("0123456789"))
        out = str(tmp_path / "out.ckpt")
        assert main(["convert", str(tmp_path / "in.pth"), out, "--force"]) == 0
        assert main(["detect", "eval", "--checkpoint", out, "--data", f"coco:{root}"]) == 0
        assert "2 images" in capsys.readouterr().out
        picture = str(tmp_path / "picture.png")
        assert main(["detect", "predict", picture, "--checkpoint", out, "--output", str(tmp_path / "out.json")]) == 0
    saved(authors.fill(authors.semantic_fpn(INV)), tmp_path / "in.pth", tuple("0123456789"))
    assert main(["convert", str(tmp_path / "in.pth"), out, "--force"]) == 0
    assert main(["segment", "predict", picture, "--checkpoint", out, "--output", str(tmp_path / "maps")]) == 0
    assert (tmp_path / "maps" / "picture.png").exists()

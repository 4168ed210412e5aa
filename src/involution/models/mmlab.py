"""Key layouts of the authors' detectors and segmenters: mmdetection 2 and mmsegmentation 0.

Differences of meaning, beside the names: in a box head mmdetection's background is the last class, torchvision's the
first; torchvision has boxes and masks of the background, too, which it never reads. All else agrees: the order of
anchors (ratios, within a ratio scales) and of a region's features (channels, rows, columns), box deltas (divided by
0.1, 0.1, 0.2, 0.2 or times 10, 10, 5, 5), images as RGB.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from involution.models.checkpoint import identify
from involution.models.errors import CheckpointError, shorten
from involution.models.keys import timm_name

# an entry that only this kind of network has
_KINDS = {
    "retinanet": "bbox_head.retina_cls.weight",
    "mask_rcnn": "roi_head.mask_head.conv_logits.weight",
    "faster_rcnn": "roi_head.bbox_head.fc_cls.weight",
    "semantic_fpn": "decode_head.scale_heads.0.0.conv.weight",
    "upernet": "decode_head.psp_modules.0.1.conv.weight",
}
_CLASSIFIER = {
    "retinanet": "bbox_head.retina_cls.weight",
    "mask_rcnn": "roi_head.bbox_head.fc_cls.weight",
    "faster_rcnn": "roi_head.bbox_head.fc_cls.weight",
    "semantic_fpn": "decode_head.conv_seg.weight",
    "upernet": "decode_head.conv_seg.weight",
}
_INVOLUTION = r"(?:conv1\.(?:conv|bn)|conv2\.conv)\.\w+"
_END = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_PYRAMID = [
    (r"neck\.lateral_convs\.(\d)\.conv\." + _END, r"backbone.fpn.inner_blocks.\1.0.\2"),
    (r"neck\.fpn_convs\.(\d)\.conv\." + _END, r"backbone.fpn.layer_blocks.\1.0.\2"),
    (rf"neck\.fpn_convs\.(\d)\.({_INVOLUTION})", r"backbone.fpn.layer_blocks.\1.\2"),
]
_RETINANET = [
    (r"bbox_head\.cls_convs\.(\d)\.conv\." + _END, r"head.classification_head.conv.\1.0.\2"),
    (r"bbox_head\.reg_convs\.(\d)\.conv\." + _END, r"head.regression_head.conv.\1.0.\2"),
    (r"bbox_head\.retina_cls\." + _END, r"head.classification_head.cls_logits.\1"),
    (r"bbox_head\.retina_reg\." + _END, r"head.regression_head.bbox_reg.\1"),
]
_TWO_STAGES = [
    (r"rpn_head\.rpn_conv\." + _END, r"rpn.head.conv.0.0.\1"),
    (rf"rpn_head\.rpn_conv\.({_INVOLUTION})", r"rpn.head.conv.0.\1"),
    (r"rpn_head\.rpn_cls\." + _END, r"rpn.head.cls_logits.\1"),
    (r"rpn_head\.rpn_reg\." + _END, r"rpn.head.bbox_pred.\1"),
    (r"roi_head\.bbox_head\.shared_fcs\.0\." + _END, r"roi_heads.box_head.fc6.\1"),
    (r"roi_head\.bbox_head\.shared_fcs\.1\." + _END, r"roi_heads.box_head.fc7.\1"),
    (r"roi_head\.bbox_head\.fc_cls\." + _END, r"roi_heads.box_predictor.cls_score.\1"),
    (r"roi_head\.bbox_head\.fc_reg\." + _END, r"roi_heads.box_predictor.bbox_pred.\1"),
]
_MASKS = [
    (r"roi_head\.mask_head\.convs\.(\d)\.conv\." + _END, r"roi_heads.mask_head.\1.0.\2"),
    (rf"roi_head\.mask_head\.convs\.(\d)\.0\.({_INVOLUTION})", r"roi_heads.mask_head.\1.0.\2"),
    (r"roi_head\.mask_head\.upsample\." + _END, r"roi_heads.mask_predictor.conv5_mask.\1"),
    (r"roi_head\.mask_head\.conv_logits\." + _END, r"roi_heads.mask_predictor.mask_fcn_logits.\1"),
]
# mmcv's layer has its convolution as `conv` and its norm as `bn`; `#conv` and `#bn` become 0 and 1
_SEMANTIC_FPN = [
    (r"decode_head\.scale_heads\.(\d)\.(\d)\.(conv|bn)\." + _END, r"head.scales.\1.\2.#\3.\4"),
    (r"decode_head\.conv_seg\." + _END, r"head.classifier.\1"),
]
_UPERNET = [
    (r"decode_head\.psp_modules\.(\d)\.1\.(conv|bn)\." + _END, r"head.pools.\1.1.#\2.\3"),
    (r"decode_head\.bottleneck\.(conv|bn)\." + _END, r"head.bottleneck.#\1.\2"),
    (r"decode_head\.lateral_convs\.(\d)\.(conv|bn)\." + _END, r"head.laterals.\1.#\2.\3"),
    (r"decode_head\.fpn_convs\.(\d)\.(conv|bn)\." + _END, r"head.outputs.\1.#\2.\3"),
    (r"decode_head\.fpn_bottleneck\.(conv|bn)\." + _END, r"head.fuse.#\1.\2"),
    (r"decode_head\.conv_seg\." + _END, r"head.classifier.\1"),
    (r"auxiliary_head\.convs\.0\.(conv|bn)\." + _END, r"auxiliary.layer.#\1.\2"),
    (r"auxiliary_head\.conv_seg\." + _END, r"auxiliary.classifier.\1"),
]
_RULES = {
    "retinanet": [*_PYRAMID, *_RETINANET],
    "faster_rcnn": [*_PYRAMID, *_TWO_STAGES],
    "mask_rcnn": [*_PYRAMID, *_TWO_STAGES, *_MASKS],
    "semantic_fpn": [*_PYRAMID, *_SEMANTIC_FPN],
    "upernet": _UPERNET,
}
_GENERATOR = {"conv1.conv.": "generator.reduce.", "conv1.bn.": "generator.norm.", "conv2.conv.": "generator.span."}


@dataclass(frozen=True)
class MappedNetwork:
    """A detector or segmenter under this package's names.

    Attributes:
        kind: retinanet, faster_rcnn, mask_rcnn, semantic_fpn or upernet.
        backbone: Registered name of its backbone.
        neck: Of its pyramid, convolution or involution.
        head: Of its proposal network and mask head, convolution or involution.
        num_classes: Classes, without a background.
        widths: Channels that the network's constructor is told: out_channels, box_channels, …
        tensors: Entries by the network's state dict keys.
        left_out: Entries that have no counterpart, each with the reason.
        filled: Entries of which a part is not in the file, each with what was put there.
    """

    kind: str
    backbone: str
    neck: str
    head: str
    num_classes: int
    widths: dict[str, int]
    tensors: dict[str, Tensor]
    left_out: dict[str, str] = field(default_factory=dict)
    filled: dict[str, str] = field(default_factory=dict)


def map_network(state_dict: Mapping[str, Tensor]) -> MappedNetwork:
    """Return an authors' detector or segmenter under this package's names.

    Args:
        state_dict: Entries as mmdetection or mmsegmentation name them, under any prefix.

    Raises:
        CheckpointError: No network of a known kind, or one that mixes convolutions and involutions where this package's
            does not.
    """
    prefix = next((m[1] for key in state_dict if (m := re.match(r"((?:.*\.)?)backbone\.layer1\.", key))), "")
    entries = {key.removeprefix(prefix): value for key, value in state_dict.items()}
    kind = next((kind for kind, entry in _KINDS.items() if entry in entries), None)
    if kind is None:
        raise CheckpointError(
            f"no detector or segmenter in this file: wanted one of {', '.join(_KINDS.values())}; got "
            f"{shorten([key for key in entries if not key.startswith('backbone.')], 5) or 'a backbone alone'}"
        )
    body = "backbone.body." if kind == "upernet" else "backbone.backbone.body."
    backbone = {timm_name(k.removeprefix("backbone.")): v for k, v in entries.items() if k.startswith("backbone.")}
    tensors = {body + name: value for name, value in backbone.items()}
    left_out: dict[str, str] = {}
    laterals = sum(bool(re.fullmatch(r"neck\.lateral_convs\.\d\.conv\.weight", key)) for key in entries)
    for key, value in entries.items():
        if key.startswith("backbone."):
            continue
        name = _renamed(key, kind, laterals)
        if name is None:
            left_out[prefix + key] = f"{kind} has no such part here"
        else:
            tensors[name] = value
    kinds = {
        part: "involution" if any(re.fullmatch(pattern, key) for key in entries) else "convolution"
        for part, pattern in (
            ("neck", rf"neck\.fpn_convs\.\d\.{_INVOLUTION}"),
            ("rpn", rf"rpn_head\.rpn_conv\.{_INVOLUTION}"),
            ("mask", rf"roi_head\.mask_head\.convs\.\d\.0\.{_INVOLUTION}"),
        )
    }
    if kind == "mask_rcnn" and kinds["rpn"] != kinds["mask"]:
        raise CheckpointError(
            f"a proposal network of {kinds['rpn']}s and a mask head of {kinds['mask']}s: here both must be of one kind"
        )
    filled = _settle_background(tensors)
    return MappedNetwork(
        kind=kind,
        backbone=identify(backbone),
        neck=kinds["neck"],
        head=kinds["rpn"],
        num_classes=_num_classes(kind, entries),
        widths=_widths(kind, entries),
        tensors=tensors,
        left_out=left_out,
        filled=filled,
    )


def _renamed(key: str, kind: str, laterals: int) -> str | None:
    for pattern, template in _RULES[kind]:
        if not (match := re.fullmatch(pattern, key)):
            continue
        name = match.expand(template).replace("#conv", "0").replace("#bn", "1")
        level = re.match(r"backbone\.fpn\.layer_blocks\.(\d)\.0\.", name)
        if level and int(level[1]) >= laterals:
            # RetinaNet's two levels that strided convolutions add
            added = 6 + int(level[1]) - laterals
            return f"backbone.fpn.extra_blocks.p{added}.{name.removeprefix(level[0])}" if kind == "retinanet" else None
        for theirs, ours in _GENERATOR.items():
            name = name.replace(f".{theirs}", f".{ours}")
        return name
    return None


def _settle_background(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Move the background's row of an R-CNN to the front, and add rows for its boxes and masks."""
    filled: dict[str, str] = {}
    for name, tensor in tensors.items():
        layer, _, _ = name.rpartition(".")
        if layer.endswith("box_predictor.cls_score"):
            tensors[name] = tensor.roll(1, 0)
        elif layer.endswith(("box_predictor.bbox_pred", "mask_predictor.mask_fcn_logits")):
            rows = 4 if layer.endswith("bbox_pred") else 1
            tensors[name] = torch.cat([tensor.new_zeros(rows, *tensor.shape[1:]), tensor])
            filled[name] = f"{rows} rows of the background: zeros, never read"
    return filled


def _num_classes(kind: str, entries: Mapping[str, Tensor]) -> int:
    rows = len(entries[_CLASSIFIER[kind]]) if _CLASSIFIER[kind] in entries else 0
    if kind == "retinanet" and "bbox_head.retina_reg.weight" in entries:
        # a row for each anchor and class; four for each anchor's box
        return rows // max(1, len(entries["bbox_head.retina_reg.weight"]) // 4)
    return rows - 1 if kind in ("faster_rcnn", "mask_rcnn") else rows


def _widths(kind: str, entries: Mapping[str, Tensor]) -> dict[str, int]:
    layers = {
        "out_channels": "neck.lateral_convs.0.conv.weight",
        "box_channels": "roi_head.bbox_head.shared_fcs.0.weight",
        "head_channels": "decode_head.scale_heads.0.0.conv.weight",
    }
    if kind == "upernet":
        layers = {"head_channels": "decode_head.bottleneck.conv.weight"}
    found = {width: len(entries[entry]) for width, entry in layers.items() if entry in entries}
    if kind == "upernet":
        auxiliary = entries.get("auxiliary_head.convs.0.conv.weight")
        found["auxiliary_channels"] = 0 if auxiliary is None else len(auxiliary)
    return found

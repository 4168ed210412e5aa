"""RetinaNet, Faster R-CNN and Mask R-CNN by torchvision, on any backbone, with convolutions or involutions.

Their arguments cover the eight combinations published by involution's authors: ``neck`` is the kind of the feature
pyramid's output layers, ``head`` that of the region proposal network and the mask head. RetinaNet's head and the box
head stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

from torch import nn
from torchvision.models import detection as torchvision_detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7
from torchvision.ops.poolers import initLevelMapper

from involution.detection.mmdetection import ExactAnchors, HalfPixelRoIAlign, LinearP6P7, octaves
from involution.models.arguments import check_arguments, named_arguments
from involution.models.pyramid import Backbone, FeaturePyramid, Kind, check_kind, parameters_outside
from involution.nn import Involution2d

__all__ = ["Conventions", "faster_rcnn", "first_label", "least_score", "mask_rcnn", "most_objects", "retinanet"]

# whose rules for anchors and sampling a detector follows
Conventions = Literal["torchvision", "mmdetection"]

_RATIOS = (0.5, 1.0, 2.0)
_SIZES = (32, 64, 128, 256, 512)
_BOX_SIZE, _MASK_SIZE = 7, 14
# torchvision's arguments that are layers, which the functions below make
_PARTS = {"backbone", "head", "anchor_generator", "proposal_matcher", "rpn_anchor_generator", "rpn_head"}
_PARTS |= {f"{part}_{kind}" for part in ("box", "mask") for kind in ("roi_pool", "head", "predictor")}


class _OnPyramid:
    """What our detectors add to torchvision's."""

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of everything but the backbone: pyramid, proposals and heads."""
        network: Any = self
        return parameters_outside(network, network.backbone.backbone)


class RetinaNet(_OnPyramid, torchvision_detection.RetinaNet):
    """torchvision's RetinaNet on a `FeaturePyramid`."""


class FasterRCNN(_OnPyramid, torchvision_detection.FasterRCNN):
    """torchvision's Faster R-CNN on a `FeaturePyramid`."""


class MaskRCNN(_OnPyramid, torchvision_detection.MaskRCNN):
    """torchvision's Mask R-CNN on a `FeaturePyramid`."""


def retinanet(
    num_classes: int,
    backbone: str | Backbone = "rednet50_stem7",
    *,
    neck: Kind = "convolution",
    out_channels: int = 256,
    anchor_sizes: Sequence[int] = _SIZES,
    conventions: Conventions = "torchvision",
    **kwargs: Any,
) -> RetinaNet:
    """RetinaNet ("Focal Loss for Dense Object Detection", ICCV 2017).

    Args:
        num_classes: Categories; labels are 0 to ``num_classes`` − 1.
        backbone: A backbone, or a name in timm's registry for an untrained one, of which stages 2 to 4 are used; the
            published detectors have a 7×7 stem.
        neck: Kind of the feature pyramid's output layers.
        out_channels: Channels of the pyramid.
        anchor_sizes: Side in pixels of the smallest anchor of each level, including the two levels added by strided
            convolutions; each level has two larger anchors within the octave.
        conventions: ``torchvision``, or ``mmdetection`` for weights trained in that library: exact anchors and
            no ReLU before P7.
        **kwargs: Of torchvision's ``RetinaNet``: min_size, max_size, image_mean, image_std, score_thresh, …

    Raises:
        ValueError: An argument is wrong, or two do not go together.

    Example:
        >>> model = retinanet(80, "rednet26_stem7", min_size=64).eval()
        >>> sorted(model([torch.rand(3, 64, 96)])[0])
        ['boxes', 'labels', 'scores']
    """
    body = backbone if isinstance(backbone, Backbone) else Backbone(backbone, (2, 3, 4))
    added = (LinearP6P7 if _exact(conventions) else LastLevelP6P7)(body.channels[-1], out_channels)
    pyramid = FeaturePyramid(body, out_channels, neck=neck, extra_blocks=added)
    _check_further("retinanet", RetinaNet, kwargs)
    anchors = _anchors([octaves(size) for size in anchor_sizes], body, 2, conventions)
    return RetinaNet(pyramid, _checked(num_classes), anchor_generator=anchors, **kwargs)


def faster_rcnn(
    num_classes: int,
    backbone: str | Backbone = "rednet50_stem7",
    *,
    neck: Kind = "convolution",
    head: Kind = "convolution",
    out_channels: int = 256,
    box_channels: int = 1024,
    anchor_sizes: Sequence[int] = _SIZES,
    conventions: Conventions = "torchvision",
    **kwargs: Any,
) -> FasterRCNN:
    """Faster R-CNN (NeurIPS 2015) with a feature pyramid.

    Args:
        num_classes: Categories; labels are 1 to ``num_classes``, 0 is the background.
        backbone: A backbone, or a name in timm's registry for an untrained one, of which all four stages are used;
            the published detectors have a 7×7 stem.
        neck: Kind of the feature pyramid's output layers.
        head: Kind of the region proposal network's layer; the box head stays two linear layers.
        out_channels: Channels of the pyramid.
        box_channels: Width of the box head.
        anchor_sizes: Side in pixels of the anchors of each level, including the level added by pooling.
        conventions: ``torchvision``, or ``mmdetection`` for weights trained in that library: exact anchors and
            RoIAlign with a half-pixel offset.
        **kwargs: Of torchvision's ``FasterRCNN``: min_size, max_size, image_mean, box_score_thresh, …

    Raises:
        ValueError: An argument is wrong, or two do not go together.

    Example:
        >>> model = faster_rcnn(80, "rednet26_stem7", neck="involution", head="involution", min_size=64).eval()
        >>> sorted(model([torch.rand(3, 64, 96)])[0])
        ['boxes', 'labels', 'scores']
    """
    _check_further("faster_rcnn", FasterRCNN, kwargs)
    parts = _two_stages(num_classes, backbone, neck, head, out_channels, box_channels, anchor_sizes, conventions)
    return FasterRCNN(**parts, **kwargs)


def mask_rcnn(
    num_classes: int,
    backbone: str | Backbone = "rednet50_stem7",
    *,
    neck: Kind = "convolution",
    head: Kind = "convolution",
    out_channels: int = 256,
    box_channels: int = 1024,
    anchor_sizes: Sequence[int] = _SIZES,
    conventions: Conventions = "torchvision",
    **kwargs: Any,
) -> MaskRCNN:
    """Mask R-CNN (ICCV 2017) with a feature pyramid.

    Args:
        num_classes: Categories; labels are 1 to ``num_classes``, 0 is the background.
        backbone: A backbone, or a name in timm's registry for an untrained one, of which all four stages are used;
            the published detectors have a 7×7 stem.
        neck: Kind of the feature pyramid's output layers.
        head: Kind of the layers of the region proposal network and the mask head; the box head stays two linear
            layers.
        out_channels: Channels of the pyramid and of the mask head.
        box_channels: Width of the box head.
        anchor_sizes: Side in pixels of the anchors of each level, including the level added by pooling.
        conventions: ``torchvision``, or ``mmdetection`` for weights trained in that library: exact anchors and
            RoIAlign with a half-pixel offset.
        **kwargs: Of torchvision's ``MaskRCNN``: min_size, max_size, image_mean, box_score_thresh, …

    Raises:
        ValueError: An argument is wrong, or two do not go together.

    Example:
        >>> model = mask_rcnn(80, "rednet26_stem7", neck="involution", head="involution", min_size=64).eval()
        >>> sorted(model([torch.rand(3, 64, 96)])[0])
        ['boxes', 'labels', 'masks', 'scores']
    """
    _check_further("mask_rcnn", MaskRCNN, kwargs)
    parts = _two_stages(num_classes, backbone, neck, head, out_channels, box_channels, anchor_sizes, conventions)
    layers: nn.Module = MaskRCNNHeads(out_channels, (out_channels,) * 4, 1)
    if head == "involution":
        layers = nn.Sequential(*(_involution_layer(out_channels) for _ in range(4)))
    return MaskRCNN(
        **parts,
        mask_roi_pool=_roi_align(parts["backbone"].backbone, _MASK_SIZE, conventions),
        mask_head=layers,
        mask_predictor=MaskRCNNPredictor(out_channels, out_channels, num_classes + 1),
        **kwargs,
    )


def first_label(model: nn.Module) -> int:
    """Return the label of a detector's first category: 1 for the R-CNNs, where 0 is the background, otherwise 0.

    Example:
        >>> first_label(retinanet(3, "rednet26"))
        0
    """
    return 1 if isinstance(model, torchvision_detection.FasterRCNN) else 0


def most_objects(model: nn.Module) -> int | None:
    """Return how many objects a detector finds in an image at most; None where it does not say.

    Example:
        >>> most_objects(retinanet(3, "rednet26", detections_per_img=7))
        7
    """
    found: Any = model
    if isinstance(model, torchvision_detection.FasterRCNN):
        found = model.roi_heads
    most = getattr(found, "detections_per_img", None)
    return most if isinstance(most, int) else None


def least_score(model: nn.Module) -> float | None:
    """Return the score below which a detector leaves out what it finds; None where it leaves out nothing.

    Example:
        >>> least_score(retinanet(3, "rednet26", score_thresh=0.3))
        0.3
    """
    found = getattr(getattr(model, "roi_heads", model), "score_thresh", None)
    return None if found is None else float(found)


def _check_further(what: str, cls: type[nn.Module], given: dict[str, Any]) -> None:
    """Raise ``ValueError`` for arguments that torchvision's detector does not take, which it would ignore."""
    check_arguments(what, given, (named_arguments(cls) - _PARTS) | {"size_divisible", "fixed_size"})


def _two_stages(
    num_classes: int,
    backbone: str | Backbone,
    neck: Kind,
    head: Kind,
    out_channels: int,
    box_channels: int,
    anchor_sizes: Sequence[int],
    conventions: Conventions,
) -> dict[str, Any]:
    """Return the torchvision arguments that Faster and Mask R-CNN share."""
    check_kind("head", head)
    body = backbone if isinstance(backbone, Backbone) else Backbone(backbone)
    anchors = _anchors([(size,) for size in anchor_sizes], body, 1, conventions)
    rpn_head = RPNHead(out_channels, anchors.num_anchors_per_location()[0])
    if head == "involution":
        rpn_head.conv = _involution_layer(out_channels)
    return {
        "backbone": FeaturePyramid(body, out_channels, neck=neck, extra_blocks=LastLevelMaxPool()),
        "rpn_anchor_generator": anchors,
        "rpn_head": rpn_head,
        "box_roi_pool": _roi_align(body, _BOX_SIZE, conventions),
        "box_head": TwoMLPHead(out_channels * _BOX_SIZE**2, box_channels),
        "box_predictor": FastRCNNPredictor(box_channels, _checked(num_classes) + 1),
    }


def _involution_layer(channels: int) -> nn.Sequential:
    return nn.Sequential(Involution2d(channels, 7), nn.ReLU(inplace=True))


def _roi_align(backbone: Backbone, size: int, conventions: Conventions) -> MultiScaleRoIAlign:
    names = [str(level) for level in range(len(backbone.channels))]
    if _exact(conventions):
        return HalfPixelRoIAlign(names, size, backbone.strides)
    pool = MultiScaleRoIAlign(names, output_size=size, sampling_ratio=2)
    # torchvision would guess them from the first images that it sees, and wrongly from small, padded ones
    pool.scales = [1 / stride for stride in backbone.strides]
    pool.map_levels = initLevelMapper(*(int(math.log2(backbone.strides[end])) for end in (0, -1)))
    return pool


def _anchors(
    sizes: Sequence[tuple[float, ...]], backbone: Backbone, added: int, conventions: Conventions
) -> AnchorGenerator:
    levels = len(backbone.channels) + added
    if len(sizes) != levels:
        raise ValueError(f"anchor_sizes must have one size for each of the {levels} levels, got {len(sizes)}")
    if _exact(conventions):
        strides = [*backbone.strides, *(backbone.strides[-1] * 2 ** (step + 1) for step in range(added))]
        return ExactAnchors(sizes, (_RATIOS,) * levels, strides)
    return AnchorGenerator(tuple(tuple(int(side) for side in level) for level in sizes), (_RATIOS,) * levels)


def _exact(conventions: str) -> bool:
    if conventions not in get_args(Conventions):
        raise ValueError(f"conventions must be {' or '.join(get_args(Conventions))}, got {conventions!r}")
    return conventions == "mmdetection"


def _checked(num_classes: int) -> int:
    if num_classes < 1:
        raise ValueError(f"num_classes must be 1 or more, not counting the background, got {num_classes}")
    return num_classes

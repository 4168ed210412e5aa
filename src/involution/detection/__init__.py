"""Detectors on RedNet: torchvision's, with involution necks and heads on request, and transformers' DETRs."""

from involution.extras import require

require("timm", "torchvision")

from involution.detection.detectors import faster_rcnn, first_label, mask_rcnn, retinanet
from involution.detection.detrs import Detr, conditional_detr, detr
from involution.models.pyramid import Backbone, FeaturePyramid

__all__ = [
    "Backbone",
    "Detr",
    "FeaturePyramid",
    "conditional_detr",
    "detr",
    "faster_rcnn",
    "first_label",
    "mask_rcnn",
    "retinanet",
]

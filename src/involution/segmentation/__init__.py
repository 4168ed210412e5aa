"""Semantic segmenters on RedNet: Semantic FPN and UPerNet as published, and segmentation-models-pytorch's."""

from involution.extras import require

require("timm", "torchvision")

from involution.models.pyramid import Backbone, FeaturePyramid
from involution.segmentation.segmenters import Segmenter, semantic_fpn, upernet
from involution.segmentation.smp import SmpSegmenter, smp

__all__ = ["Backbone", "FeaturePyramid", "Segmenter", "SmpSegmenter", "semantic_fpn", "smp", "upernet"]

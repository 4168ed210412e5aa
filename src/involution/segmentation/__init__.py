"""Semantic segmenters on RedNet: Semantic FPN and UPerNet in their published layout."""

from involution.segmentation.segmenters import Segmenter, semantic_fpn, upernet

__all__ = ["Segmenter", "semantic_fpn", "upernet"]

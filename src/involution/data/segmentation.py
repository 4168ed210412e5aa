"""Images with a class for each pixel: what the engine opens by."""

from __future__ import annotations

from involution.data.formats.cityscapes import cityscapes_classes
from involution.data.label_code import IGNORED
from involution.data.label_maps import LabelMaps
from involution.data.records import DataSet
from involution.data.registry import Options, open_data

__all__ = ["IGNORED", "LabelMaps", "SegmentationData", "cityscapes_classes", "open_segmentation"]
SegmentationData = DataSet[LabelMaps]


def open_segmentation(spec: str, *, on_problem: str = "refuse") -> SegmentationData:
    """Open a segmentation data set; see `open_data`."""
    return open_data("segment", spec, Options(on_problem=on_problem))

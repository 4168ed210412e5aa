"""Using trained checkpoints: typed results, in batches, with unreadable files set aside."""

from involution.predict.classification import (
    ClassificationResult,
    Classifier,
    write_results,
)
from involution.predict.detection import DetectionResult, Detector, draw_detections, write_detections
from involution.predict.files import PredictError, SkippedImage, find_images, results_format
from involution.predict.segmentation import SegmentationResult, Segmenter, draw_segmentation, write_label_map

__all__ = [
    "ClassificationResult",
    "Classifier",
    "DetectionResult",
    "Detector",
    "PredictError",
    "SegmentationResult",
    "Segmenter",
    "SkippedImage",
    "draw_detections",
    "draw_segmentation",
    "find_images",
    "results_format",
    "write_detections",
    "write_label_map",
    "write_results",
]

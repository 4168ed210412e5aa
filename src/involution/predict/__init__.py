"""Using trained checkpoints: typed results, in batches, with unreadable files set aside."""

from involution.data.colours import palette
from involution.engine.devices import find_device
from involution.engine.loading import load_predictor
from involution.engine.predictor import (
    Encoded,
    Look,
    PredictError,
    Predictor,
    Result,
    SkippedImage,
    find_images,
)
from involution.engine.tasks.classify.predictor import ClassificationPredictor, ClassificationResult
from involution.engine.tasks.detect.predictor import DetectionPredictor, DetectionResult, draw_detections
from involution.engine.tasks.segment.predictor import (
    SegmentationPredictor,
    SegmentationResult,
    draw_segmentation,
    write_label_map,
)
from involution.predict.many import ManyResult, Progress, predict_many
from involution.predict.workers import Workers

__all__ = [
    "ClassificationPredictor",
    "ClassificationResult",
    "DetectionPredictor",
    "DetectionResult",
    "Encoded",
    "Look",
    "ManyResult",
    "PredictError",
    "Predictor",
    "Progress",
    "Result",
    "SegmentationPredictor",
    "SegmentationResult",
    "SkippedImage",
    "Workers",
    "draw_detections",
    "draw_segmentation",
    "find_device",
    "find_images",
    "load_predictor",
    "palette",
    "predict_many",
    "write_label_map",
]

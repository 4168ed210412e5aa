"""Using trained checkpoints: typed results, in batches, with unreadable files set aside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from involution.after import on_demand

if TYPE_CHECKING:
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

# name -> where it is: the command's help needs few of them, and none that imports torch
_PLACES = {
    "ClassificationPredictor": "involution.engine.tasks.classify.predictor",
    "ClassificationResult": "involution.engine.tasks.classify.predictor",
    "DetectionPredictor": "involution.engine.tasks.detect.predictor",
    "DetectionResult": "involution.engine.tasks.detect.predictor",
    "Encoded": "involution.engine.predictor",
    "Look": "involution.engine.predictor",
    "ManyResult": "involution.predict.many",
    "PredictError": "involution.engine.predictor",
    "Predictor": "involution.engine.predictor",
    "Progress": "involution.predict.many",
    "Result": "involution.engine.predictor",
    "SegmentationPredictor": "involution.engine.tasks.segment.predictor",
    "SegmentationResult": "involution.engine.tasks.segment.predictor",
    "SkippedImage": "involution.engine.predictor",
    "Workers": "involution.predict.workers",
    "draw_detections": "involution.engine.tasks.detect.predictor",
    "draw_segmentation": "involution.engine.tasks.segment.predictor",
    "find_device": "involution.engine.devices",
    "find_images": "involution.engine.predictor",
    "load_predictor": "involution.engine.loading",
    "palette": "involution.data.colours",
    "predict_many": "involution.predict.many",
    "write_label_map": "involution.engine.tasks.segment.predictor",
}
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

__getattr__ = on_demand(__name__, _PLACES)

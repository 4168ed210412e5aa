"""Training, evaluating and loading: one engine for every task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from involution.after import on_demand

if TYPE_CHECKING:
    from involution.engine.callbacks import TrainingInterrupted
    from involution.engine.checkpoint import CheckpointError, ModelCard
    from involution.engine.evaluation import evaluate
    from involution.engine.faults import RunFailed, TrainingDiverged
    from involution.engine.loading import load
    from involution.engine.run import TrainResult, train
    from involution.engine.settings import ConfigError
    from involution.engine.task import TaskSpec, get_task, register_task, task_names
    from involution.engine.tasks.classify.config import ClassifyConfig
    from involution.engine.tasks.classify.figures import ClassificationFigures
    from involution.engine.tasks.detect.config import DetectConfig
    from involution.engine.tasks.detect.figures import DetectionFigures
    from involution.engine.tasks.segment.config import SegmentConfig
    from involution.engine.tasks.segment.figures import SegmentationFigures

# name -> where it is: Lightning is imported only by who trains
_PLACES = {
    "CheckpointError": "involution.engine.checkpoint",
    "ClassificationFigures": "involution.engine.tasks.classify.figures",
    "ClassifyConfig": "involution.engine.tasks.classify.config",
    "ConfigError": "involution.engine.settings",
    "DetectConfig": "involution.engine.tasks.detect.config",
    "DetectionFigures": "involution.engine.tasks.detect.figures",
    "ModelCard": "involution.engine.checkpoint",
    "RunFailed": "involution.engine.faults",
    "SegmentConfig": "involution.engine.tasks.segment.config",
    "SegmentationFigures": "involution.engine.tasks.segment.figures",
    "TaskSpec": "involution.engine.task",
    "TrainResult": "involution.engine.run",
    "TrainingDiverged": "involution.engine.faults",
    "TrainingInterrupted": "involution.engine.callbacks",
    "evaluate": "involution.engine.evaluation",
    "get_task": "involution.engine.task",
    "load": "involution.engine.loading",
    "register_task": "involution.engine.task",
    "task_names": "involution.engine.task",
    "train": "involution.engine.run",
}
__all__ = [
    "CheckpointError",
    "ClassificationFigures",
    "ClassifyConfig",
    "ConfigError",
    "DetectConfig",
    "DetectionFigures",
    "ModelCard",
    "RunFailed",
    "SegmentConfig",
    "SegmentationFigures",
    "TaskSpec",
    "TrainResult",
    "TrainingDiverged",
    "TrainingInterrupted",
    "evaluate",
    "get_task",
    "load",
    "register_task",
    "task_names",
    "train",
]

__getattr__ = on_demand(__name__, _PLACES)

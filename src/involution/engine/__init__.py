"""Training, evaluating and loading: one engine for every task."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from involution.engine.callbacks import TrainingInterrupted
    from involution.engine.checkpoint import CheckpointError, ModelCard
    from involution.engine.faults import RunFailed, TrainingDiverged
    from involution.engine.loading import load
    from involution.engine.run import TrainResult, evaluate, train
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
    "CheckpointError": "checkpoint",
    "ClassificationFigures": "tasks.classify.figures",
    "ClassifyConfig": "tasks.classify.config",
    "ConfigError": "settings",
    "DetectConfig": "tasks.detect.config",
    "DetectionFigures": "tasks.detect.figures",
    "ModelCard": "checkpoint",
    "RunFailed": "faults",
    "SegmentConfig": "tasks.segment.config",
    "SegmentationFigures": "tasks.segment.figures",
    "TaskSpec": "task",
    "TrainResult": "run",
    "TrainingDiverged": "faults",
    "TrainingInterrupted": "callbacks",
    "evaluate": "run",
    "get_task": "task",
    "load": "loading",
    "register_task": "task",
    "task_names": "task",
    "train": "run",
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


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)

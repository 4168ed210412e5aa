"""What a task is: one record with everything that training, evaluation and prediction need to know.

To add a task, make a folder like `tasks/classify` and add a line to `_TASKS`, or call `register_task` from elsewhere.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from involution.data.errors import nearest
from involution.engine.settings import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import Dataset

    from involution.engine.checkpoint import ModelCard
    from involution.engine.figures import Figures
    from involution.engine.module import TaskModule
    from involution.engine.predictor import Predictor

# name -> what is trained, and where its record is; can be read without importing what the task needs
_TASKS: dict[str, tuple[str, str]] = {
    "classify": ("image classifier", "involution.engine.tasks.classify.spec"),
    "detect": ("object detector", "involution.engine.tasks.detect.spec"),
    "segment": ("semantic segmenter", "involution.engine.tasks.segment.spec"),
}
_SPECS: dict[str, TaskSpec] = {}


@dataclass(frozen=True)
class TaskSpec:
    """A task: what it trains on, how it trains, and how it is measured and used.

    Below, `config` is an instance of the task's `config` class, and `data` a `DataSet` of a format that is registered
    for the task (`involution.data.registry`).

    Attributes:
        name: as on the command line: classify, detect, segment.
        noun: what is trained, without the article: "image classifier".
        measure: what chooses the best checkpoint, as displayed: accuracy, AP, mean IoU.
        config: class of its settings, a `RunConfig`.
        check: raises `ConfigError` for settings that do not go together; ranges and choices are checked before.
        build: from (config, number of classes, weights) to the network; without `weights` none are read, because a
            checkpoint provides them.
        describe: from the settings to the fields of the `ModelCard` that differ between tasks.
        module: from (network, config, card, steps_per_epoch, data) to the Lightning module.
        train_set: from (config, data) to the training set; items are requested by (epoch, index).
        eval_set: from (config, a split of the data) to what evaluation sees; items are requested by index.
        data_options: from the settings to options for opening the data set, besides those in `config.data`.
        collate: makes a batch of items; None for stacked tensors.
        figures: the class of what `evaluate` returns.
        predictor: the class of what predicts.
        compiled: from a network to the part of it that torch.compile is given.
        splits: names of the splits that a data set of the task can have.
        eval_split: the split that `evaluate` measures on unless another is named.
        eval_batch_size: images per batch in `evaluate` unless told otherwise.
        share_seen: from (settings, width and height of an image) to how much of it evaluation sees, 0 to 1.
        least_val_batch: validation batches in a training are at least this large.
        unused_parameters: some parameters may have no part in a step's loss, which several devices must be told.
    """

    name: str
    noun: str
    measure: str
    config: type[Any]
    check: Callable[[Any], None]
    build: Callable[[Any, int, bool], nn.Module]
    describe: Callable[[Any], dict[str, Any]]
    module: Callable[[nn.Module, Any, ModelCard, int, Any], TaskModule]
    train_set: Callable[[Any, Any], Dataset[Any]]
    eval_set: Callable[[Any, Any], Dataset[Any]]
    figures: type[Figures]
    predictor: type[Predictor[Any]]
    data_options: Callable[[Any], dict[str, Any]] = field(default=lambda config: {})
    collate: Callable[[list[Any]], Any] | None = None
    compiled: Callable[[nn.Module], nn.Module] = field(default=lambda network: network)
    splits: tuple[str, ...] = ("train", "val")
    eval_split: str = "val"
    eval_batch_size: int = 8
    share_seen: Callable[[Any, tuple[int, int]], float] = field(default=lambda config, size: 1.0)
    least_val_batch: int = 1
    unused_parameters: bool = False


def as_lists(items: list[tuple[Tensor, Any]]) -> tuple[list[Tensor], list[Any]]:
    """A `collate` for images of different sizes."""
    images, targets = zip(*items, strict=True)
    return list(images), list(targets)


def task_names() -> list[str]:
    """Names of all tasks, in the order of the help."""
    return [*_TASKS, *(name for name in _SPECS if name not in _TASKS)]


def task_noun(name: str) -> str:
    """What a task trains, such as "image classifier"; nothing heavy is imported for it."""
    return _SPECS[name].noun if name in _SPECS else _TASKS[name][0]


def with_article(noun: str) -> str:
    """A noun with "a" or "an" before it."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def register_task(spec: TaskSpec) -> None:
    """Add a task to training, evaluation, prediction and the command line.

    Raises:
        ValueError: if there is already a task with that name.
    """
    if spec.name in task_names():
        raise ValueError(f"there is already a task named {spec.name!r}")
    _SPECS[spec.name] = spec


def get_task(name: str) -> TaskSpec:
    """The record of a task.

    Raises:
        ConfigError: for an unknown name.
    """
    if name not in _SPECS:
        if name not in _TASKS:
            known = task_names()
            raise ConfigError(f"no task named {name!r} (there are {', '.join(known)}){nearest(name, known)}")
        _SPECS[name] = importlib.import_module(_TASKS[name][1]).SPEC
    return _SPECS[name]

"""Real images for 8-bit numbers: what a file is calibrated on, and how accurate it is before and after."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from involution.data.errors import DataError, in_words
from involution.data.images import ImageError, read_image
from involution.data.records import DataSet
from involution.data.registry import Options, formats, open_data
from involution.engine.card import ModelCard
from involution.engine.checkpoint import read_recipe
from involution.engine.classes import match_classes
from involution.engine.predictor import Predictor, find_images, not_found
from involution.engine.process import tell
from involution.engine.settings import ConfigError
from involution.engine.task import get_task as engine_task
from involution.export.errors import ExportError
from involution.export.metadata import Metadata
from involution.export.registry import TaskExport
from involution.models.errors import CheckpointError

# evaluated before and after, at most
_MEASURED = 2000


@dataclass(frozen=True)
class Pictures:
    """Images to calibrate on.

    Attributes:
        of: reads each, as a PIL image.
        source: what they are, in words.
    """

    of: Sequence[Callable[[], Any]]
    source: str


@dataclass(frozen=True)
class Labelled:
    """Images with labels to measure on.

    Attributes:
        config: settings of the training.
        part: the images, with labels as the checkpoint has them.
        name: of the data set and its split.
        card: the checkpoint's, with the category ids of the data.
        within: the labels among which it is measured; None for all.
    """

    config: Any
    part: Any
    name: str
    card: ModelCard
    within: list[int] | None


def find_pictures(
    predictor: Predictor[Any], checkpoint: str | os.PathLike[str], given: str | None, count: int
) -> Pictures:
    """The images to calibrate on.

    Args:
        predictor: whose network will see them.
        checkpoint: whose training data is taken by default.
        given: a folder, or a data set as in training, of which the training images are taken.
        count: how many at most, evenly over all.

    Raises:
        ExportError: if there are none.
        DataError: if a data set can't be used.
    """
    if count < 1:
        raise ExportError(f"wanted 1 image or more to calibrate on, got {count}")
    task = predictor.task
    if given is None:
        try:
            config, data = _own(predictor.card, checkpoint, "train")
        except _NotAtHand as error:
            raise ExportError(
                f"8-bit numbers are calibrated on images, and {error}; give a folder of images or a data set by "
                "--calibration"
            ) from error
        return _of_part(data.train, f"{config.data.spec}, train", count, config.data.on_problem == "skip")
    if not given:
        raise ExportError("--calibration: wanted a folder of images or a data set, got ''")
    folder = Path(given).expanduser()
    # the files of a data set of label maps are not all photographs
    recognised = task == "segment" and folder.is_dir() and any(found.recognises(folder) for found in formats(task))
    if recognised or given.partition(":")[0] in {found.name for found in formats(task)}:
        reading = predictor.reading
        options = Options(only="train", allow_empty=True, exif=reading.exif, value_range=reading.value_range)
        return _of_part(open_data(task, given, options).train, f"{given}, train", count)
    files, _ = find_images([given])
    if not files:
        raise ExportError(f"--calibration: {not_found(given)}")
    chosen = [files[place] for place in _spread(len(files), count)]
    readers = [partial(read_image, file, reading=predictor.reading) for file in chosen]
    return Pictures(readers, f"{len(chosen)} images of {given}")


def find_labelled(card: ModelCard, checkpoint: str | os.PathLike[str]) -> Labelled | str:
    """The validation images of the checkpoint's own data, or why it can't be measured on them.

    Their classes are compared with the checkpoint's by name, as in an evaluation.
    """
    try:
        config, data = _own(card, checkpoint, "val")
        data, within, card = match_classes(card, data, checkpoint)
    except (_NotAtHand, ConfigError) as error:
        return str(error)
    return Labelled(config, data.val, f"{config.data.spec}, val", card, within)


class _NotAtHand(Exception):
    """A checkpoint's own data, and why."""


def _own(card: ModelCard, checkpoint: str | os.PathLike[str], split: str) -> tuple[Any, DataSet[Any]]:
    """The settings of a training and a split of its data."""
    from involution.engine import run

    spec = engine_task(card.task)
    # an empty recipe has the settings' defaults, and says nothing of the network's own data
    if not card.recipe.get("data", {}).get("spec"):
        raise _NotAtHand("this checkpoint names no data")
    try:
        config: Any = read_recipe(card, checkpoint, spec.config)
        # classes without an image are no fault of what is calibrated
        fitting = {"cache": False} | ({} if hasattr(config.data, "values") else {"allow_empty": True})
        config = replace(config, data=replace(config.data, **fitting))
        data = run.open_data(spec, config, only=split)
        data.split(split)
    except (DataError, CheckpointError, ConfigError, OSError) as error:
        raise _NotAtHand(f"the checkpoint's own data can't be read: {error}") from error
    return config, data


def _spread(available: int, count: int) -> list[int]:
    count = min(available, count)
    return [place * available // count for place in range(count)]


def _of_part(part: Any, name: str, count: int, skips: bool = False) -> Pictures:
    """Images of a split; those that can't be read are left out, if they are to be skipped."""
    places = _spread(len(part), count)
    if skips:
        places = _readable(part, places)
    return Pictures([partial(_picture, part, place) for place in places], f"{len(places)} images of {name}")


def _readable(part: Any, places: Sequence[int]) -> list[int]:
    """Those of some images that can be read; the others are told."""
    good, complaints = [], []
    for place in places:
        try:
            part[place]
            good.append(place)
        except ImageError as error:
            complaints.append(str(error))
    if complaints:
        tell(f"left out of the calibration, {in_words(complaints, 'images' if len(complaints) > 1 else 'image')}")
    if not good:
        raise ExportError(f"no images to calibrate on: {complaints[0]}")
    return good


def _picture(part: Any, place: int) -> Any:
    import torchvision.transforms.v2.functional as F

    image = part[place][0]
    return F.to_pil_image(image) if isinstance(image, Tensor) else image


class _Recorded(Exception):
    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.inputs = tuple(inputs)


def graph_inputs(task: TaskExport, metadata: Metadata, pictures: Pictures) -> Sequence[tuple[Tensor, ...]]:
    """What the graph of a file is called with for each picture; read when it is asked for."""

    def record(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        raise _Recorded(inputs)

    network = task.network(record, metadata)
    predictor = engine_task(task.task).predictor(network, metadata.card())

    class Inputs(Sequence[tuple[Tensor, ...]]):
        def __len__(self) -> int:
            return len(pictures.of)

        def __getitem__(self, place: Any) -> Any:
            try:
                # a sequence ends with this IndexError
                network(task.prepare(predictor, pictures.of[place]()))
            except _Recorded as found:
                return found.inputs
            raise ExportError(f"a network of the task {task.task!r} can't be calibrated")

    return Inputs()


def measured(networks: Sequence[nn.Module], found: Labelled) -> list[float]:
    """The task's measure of each network on labelled images, 0 to 1; of very many, on some.

    Args:
        networks: networks, or exported files that are called like one.
        found: the images; those that can't be read are told once.
    """
    from involution.data.findings import Findings
    from involution.engine.callbacks import LeftOut
    from involution.engine.loader import EvalBatches, make_loader
    from involution.engine.trainer import make_eval_trainer, quiet

    spec = engine_task(found.card.task)
    config = replace(found.config, devices=1, trainer=replace(found.config.trainer, accelerator="cpu"))
    images: Any = spec.eval_set(config, found.part)
    if len(images) > _MEASURED:
        images = torch.utils.data.Subset(images, _spread(len(images), _MEASURED))
    count = len(images)
    left_out = LeftOut(Findings(), count, config.data.on_problem == "skip")
    complaints = left_out.evaluation if left_out.skip else None
    figures = []
    for network in networks:
        with quiet():
            trainer = make_eval_trainer(config, False, left_out)
            batches = EvalBatches(count, spec.eval_batch_size, 0, 1)
            module: Any = spec.module(network, config, found.card, 1, found.part)
            module.within = found.within
            trainer.test(module, make_loader(images, batches, 0, False, spec.collate, complaints), verbose=False)
        figures.append(float(module.val_figures()[module.monitor]))
    return figures

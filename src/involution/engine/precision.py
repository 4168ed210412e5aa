"""The precision of a training that leaves it open: what its device has, or which a short measurement finds faster."""

from __future__ import annotations

import copy
import statistics
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import default_collate

from involution.data.images import ImageError
from involution.engine.card import ModelCard
from involution.engine.config import Config
from involution.engine.devices import cpu_has_bfloat16
from involution.engine.loader import TrainBatches
from involution.engine.process import tell

AUTO = "auto"
PLAIN, HALF = "32-true", "bf16-mixed"
# of a measurement: images of the batch, seconds and rounds, all at most
_IMAGES, _SECONDS, _ROUNDS = 8, 3.0, 5
# what bfloat16 may take of float32's time, lest the noise of a measurement decides
_WORTH = 0.95


def resumed(config: Config, card: ModelCard | None) -> Config:
    """The settings, with the precision of the training that is gone on with where they leave it open.

    Args:
        config: the settings.
        card: that training's; None for a new one.
    """
    if config.trainer.precision != AUTO or card is None:
        return config
    before = card.recipe.get("trainer", {}).get("precision", PLAIN)
    if before == AUTO:
        return config
    tell(f"precision: {before}, with which this training began")
    return _with(config, before)


def chosen(config: Config, module: Any, images: Any, collate: Any, device: torch.device, processes: int) -> Config:
    """The settings, with a precision where they leave it open; what is chosen and why is told.

    Several processes must choose alike, so they do not measure.

    Args:
        config: the settings, fitted.
        module: the task's module; it stays as it is.
        images: the training images, by (epoch, index).
        collate: makes a batch of items; None for stacked tensors.
        device: where this process trains.
        processes: how many train.
    """
    if config.trainer.precision != AUTO:
        return config
    if device.type == "cpu" and processes == 1:
        found, why = _measured(module, _batch(config, images, collate))
    else:
        found, why = _by_instructions(device)
    tell(f"precision: {found}, {why}")
    return _with(config, found)


def _with(config: Config, precision: Any) -> Config:
    return replace(config, trainer=replace(config.trainer, precision=precision))


def _by_instructions(device: torch.device) -> tuple[str, str]:
    if device.type == "cuda":
        name, has = torch.cuda.get_device_name(device), torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        name, has = "this processor", cpu_has_bfloat16()
    else:
        return PLAIN, f"which is sure to work on {device.type}"
    if has:
        return HALF, f"for which {name} has instructions"
    return PLAIN, f"as {name} has no instructions for bfloat16"


def _batch(config: Config, images: Any, collate: Any) -> tuple[Any, int]:
    """The first images of the training, as many as are measured with, and how many could be read."""
    size, parts = config.data.batch_size, config.trainer.accumulate
    weights = getattr(images, "weights", None)
    keys = next(iter(TrainBatches(len(images), size, parts, config.seed, weights=weights)))
    items = []
    for key in keys[:_IMAGES]:
        # the training will say what it thinks of this one
        with suppress(ImageError):
            items.append(images[key])
    return (collate or default_collate)(items) if items else None, len(items)


def _measured(module: Any, batch: tuple[Any, int]) -> tuple[str, str]:
    """Which is faster on this CPU, and the times in words."""
    from lightning.pytorch.plugins.precision import MixedPrecision, Precision

    plugins: dict[str, Any] = {PLAIN: Precision(), HALF: MixedPrecision("bf16-mixed", "cpu")}
    items, count = batch
    rounds: list[dict[str, float]] = []
    begun = time.perf_counter()
    try:
        # metrics and statistics of norms are the training's
        trial = copy.deepcopy(module)
        with torch.random.fork_rng(devices=[]):
            while len(rounds) <= _ROUNDS and time.perf_counter() - begun < _SECONDS:
                rounds.append({name: _seconds(trial, items, plugin) for name, plugin in plugins.items()})
    # a training that can't make a step says so itself
    except (RuntimeError, ValueError, MemoryError) as error:
        return PLAIN, f"as {HALF} could not be measured ({' '.join(str(error).split())[:200]})"
    # the first round also sets up what the others find ready
    times = {name: statistics.median(found[name] for found in rounds[1:] or rounds) for name in plugins}
    faster = HALF if times[HALF] < _WORTH * times[PLAIN] else PLAIN
    other = PLAIN if faster == HALF else HALF
    said = f"{1000 * times[faster]:,.0f} ms a step, measured on {count} images without the optimiser"
    return faster, f"{said}; {other} {1000 * times[other]:,.0f} ms"


def _seconds(module: Any, batch: Any, plugin: Any) -> float:
    start = time.perf_counter()
    with plugin.train_step_context():
        loss = module.training_step(batch, 0)
    loss.backward()
    module.zero_grad(set_to_none=True)
    return time.perf_counter() - start

"""A batch that does not fit into memory: the largest one that does, found by trying."""

from __future__ import annotations

import gc
import traceback
from typing import Any

import lightning as L
import torch
from typing_extensions import override

from involution.engine.config import RunConfig


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or this machine had no memory left."""
    words = ("out of memory", "can't allocate memory", "Cannot allocate memory", "bad_alloc")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


class Fitting(L.Callback):
    """After a training ran out of memory on its only device, tries smaller parts of the same batch.

    Attributes:
        images: how many images the batch had that did not fit.
        fits: how many of them do; None where that was not tried.
    """

    def __init__(self) -> None:
        self.images = 0
        self.fits: int | None = None
        self._batch: tuple[Any, int] | None = None

    @override
    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._batch = (batch, batch_idx)

    @override
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._batch = None

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        if self._batch is None or trainer.world_size > 1 or not is_out_of_memory(exception):
            return
        # the frames that failed still hold what they had computed
        traceback.clear_frames(exception.__traceback__)
        batch, index = self._batch
        self.images = high = len(batch[1])
        low = 0
        while high - low > 1:
            middle = (low + high) // 2
            if _fits(trainer, pl_module, tuple(part[:middle] for part in batch), index):
                low = middle
            else:
                high = middle
        self.fits = low

    def said(self, config: RunConfig) -> str:
        """What to do, in words."""
        if self._batch is None:
            return "not enough memory: lower --data.batch_size"
        size, parts = config.data.batch_size, config.trainer.accumulate
        if not self.fits:
            few = "" if self.fits is None else ", not even for one"
            return f"not enough memory for batches of {size // parts} images{few}: choose smaller images or networks"
        more = next(count for count in range(parts, size + 1) if size % count == 0 and size // count <= self.fits)
        return (
            f"not enough memory for batches of {self.images} images: {self.fits} fit, as was found by trying; use "
            f"--data.batch_size {self.fits * parts}, or keep {size} images per step with --trainer.accumulate {more}"
        )


def _fits(trainer: L.Trainer, module: Any, batch: Any, index: int) -> bool:
    """Whether a step can be made; what it does to the weights does not matter any more."""
    optimizer: Any = trainer.optimizers[0]
    try:
        with trainer.precision_plugin.train_step_context(), torch.enable_grad():
            loss = module.training_step(batch, index)
        loss.backward()
        optimizer.step()
    # whatever else it says of so few images, it did not work
    except (RuntimeError, ValueError, MemoryError):
        return False
    finally:
        loss = None
        optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return True

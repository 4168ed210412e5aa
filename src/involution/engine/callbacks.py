"""Callbacks of a training run: checkpoints, history, interruption, progress bar."""

from __future__ import annotations

import csv
import math
import shutil
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import WeightAveraging
from typing_extensions import override

from involution.data.errors import in_words
from involution.data.findings import Findings
from involution.data.images import ImageError
from involution.engine.files import atomic_path
from involution.engine.module import TaskModule
from involution.engine.process import tell
from involution.engine.signals import StopFlag


class TrainingInterrupted(Exception):
    """The user stopped the training; it can be resumed from `checkpoint`.

    Attributes:
        checkpoint: the last checkpoint, or None if there was none yet.
    """

    def __init__(self, checkpoint: Path | None) -> None:
        super().__init__("training interrupted")
        self.checkpoint = checkpoint


class TrainingDiverged(RuntimeError):
    """The loss has become NaN or infinite."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints to a temporary file first, so that a crash never leaves a partial one."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        try:
            with atomic_path(path, replace=True) as temporary:
                torch.save(checkpoint, temporary)
        except RuntimeError as error:
            # this is how torch reports a full disk
            raise OSError(f"can't write {path}: {str(error).splitlines()[0]}") from error


class RunRecorder(L.Callback):
    """Keeps last.ckpt, best.ckpt (by the task's measure on the validation images; the later of equals) and metrics.csv.

    If a run was resumed within an epoch, the training figures of that row cover the rest of it.

    Args:
        run_dir: the run's folder.
        flag: asks for a checkpoint and the end of the training.
        left_out: knows of images that could not be read and end the training, too.
    """

    def __init__(self, run_dir: Path, flag: StopFlag, left_out: LeftOut | None = None) -> None:
        self.run_dir = run_dir
        self.flag = flag
        self.left_out = left_out
        self.history: list[dict[str, float]] = []
        self.best_score = -1.0
        self._train_seconds = 0.0
        self._images = 0
        self._since = 0.0
        # of an epoch whose validation is not over
        self._train_figures: dict[str, float] | None = None
        self._val_batches = 0
        self.started = False

    @property
    def last(self) -> Path:
        """Checkpoint of the last epoch, or of the step where the run was interrupted."""
        return self.run_dir / "last.ckpt"

    @property
    def best(self) -> Path:
        """Checkpoint of the best epoch."""
        return self.run_dir / "best.ckpt"

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "history": self.history,
            "best_score": self.best_score,
            "train_seconds": self._train_seconds,
            "images": self._images,
            "train_figures": self._train_figures,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = state_dict["history"]
        self.best_score = state_dict["best_score"]
        self._train_seconds = state_dict["train_seconds"]
        self._images = state_dict["images"]
        self._train_figures = state_dict.get("train_figures")

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.started = True
        # Lightning has its own handlers by now: of SIGTERM, and of SLURM's signal
        self.flag.listen()
        self._since = time.perf_counter()

    @override
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._since = time.perf_counter()

    @override
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        now = time.perf_counter()
        self._train_seconds += now - self._since
        self._since = now
        self._images += len(batch[1]) * trainer.world_size
        done = batch_idx + 1
        # half-accumulated gradients are not saved, and validation comes first at the end of an epoch
        between_steps = done % trainer.accumulate_grad_batches == 0 and done < trainer.num_training_batches
        if between_steps and self._stop(trainer):
            if self.left_out is not None:
                self.left_out.refuse(trainer)
            self._save(trainer, pl_module, (trainer.current_epoch, done))
            raise TrainingInterrupted(self.last)

    @override
    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._validated(trainer, pl_module)

    @override
    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._val_batches = 0
        loader: Any = trainer.val_dataloaders
        if hasattr(loader, "on_empty"):
            # a batch that could not be read at all counts where devices keep step
            loader.on_empty = lambda: self._validated(trainer, pl_module)

    def _validated(self, trainer: L.Trainer, pl_module: Any) -> None:
        # devices may differ by a batch
        common: int = trainer.val_dataloaders.batch_sampler.common  # type: ignore[union-attr]
        self._val_batches += 1
        if self._val_batches <= common and self._stop(trainer):
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, WeightAveraging):
                    # it has put the average in the place of the weights
                    callback.on_validation_epoch_end(trainer, pl_module)
            if self.left_out is not None:
                self.left_out.refuse(trainer)
            self._train_figures = pl_module.train_figures()
            self._save(trainer, pl_module, (trainer.current_epoch, int(trainer.num_training_batches)))
            raise TrainingInterrupted(self.last)

    @override
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.validating:
            # Lightning goes on with the next batch of a validation, whose figures so far are gone: begin again
            counts = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            progress |= {"total": dict(counts), "current": dict(counts)}

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        train: dict[str, float] = self._train_figures or pl_module.train_figures()
        self._train_figures = None
        val: dict[str, float] = pl_module.val_figures()
        if not math.isfinite(train["loss"]):
            raise TrainingDiverged(
                f"the loss became {train['loss']} in epoch {trainer.current_epoch + 1}; lower optimizer.lr, "
                "lengthen schedule.warmup_epochs or set trainer.clip_grad_norm"
            )
        self.history.append(
            {
                "epoch": trainer.current_epoch + 1,
                "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
                **{f"train_{name}": value for name, value in train.items()},
                **{f"val_{name}": value for name, value in val.items()},
                "images_per_second": self._images / max(self._train_seconds, 1e-9),
                "seconds": self._train_seconds,
            }
        )
        for logger in trainer.loggers:
            logger.log_metrics(dict(self.history[-1]), step=trainer.global_step)
        self._images, self._train_seconds = 0, 0.0
        score = val[pl_module.monitor]
        improved = score >= self.best_score
        self.best_score = max(score, self.best_score)
        try:
            self._save(trainer, pl_module, (trainer.current_epoch + 1, 0))
            if trainer.is_global_zero and improved:
                with atomic_path(self.best, replace=True) as temporary:
                    shutil.copyfile(self.last, temporary)
        finally:
            # a few lines may still find room where a checkpoint did not
            if trainer.is_global_zero:
                self._write_history()
        if trainer.current_epoch + 1 < (trainer.max_epochs or 0) and self._stop(trainer):
            raise TrainingInterrupted(self.last)

    def _stop(self, trainer: L.Trainer) -> bool:
        # devices notice a signal or a broken image at different steps: all stop as soon as one does
        raised = self.flag.raised or (self.left_out is not None and self.left_out.refuses)
        return bool(trainer.strategy.reduce_boolean_decision(raised, all=False))

    def _save(self, trainer: L.Trainer, pl_module: TaskModule, position: tuple[int, int]) -> None:
        pl_module.position = position
        self.flag.saving = True
        trainer.save_checkpoint(self.last, weights_only=False)
        self.flag.saving = False

    def _write_history(self) -> None:
        with (
            atomic_path(self.run_dir / "metrics.csv", replace=True) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, list(self.history[0]))
            writer.writeheader()
            writer.writerows(self.history)


class LeftOut(L.Callback):
    """Says once, for all devices, which images could not be read while loading, and counts them.

    Args:
        findings: told of each of them.
        evaluated: images of an evaluation pass.
        skip: leave them out; otherwise the first one ends the work, on all devices.

    Attributes:
        training: complaints of this device's training loader since they were last told.
        evaluation: those of its evaluation loader.
        missing: images that the last evaluation pass could not count, over all devices.
    """

    def __init__(self, findings: Findings, evaluated: int, skip: bool) -> None:
        self.findings = findings
        self.evaluated = evaluated
        self.skip = skip
        self.training: list[str] = []
        self.evaluation: list[str] = []
        self.missing = 0
        self._known: set[str] = set()

    @property
    def refuses(self) -> bool:
        """Whether an image of this device ends the training."""
        return not self.skip and bool(self.training)

    def refuse(self, trainer: L.Trainer) -> None:
        """Raise `ImageError` on all devices if an image of one of them ends the training."""
        found = [] if self.skip else _gathered(trainer, self.training)
        if found:
            raise ImageError(found[0])

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.skip:
            self._tell(_gathered(trainer, self.training))
        else:
            self.refuse(trainer)

    @override
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        found = _gathered(trainer, self.evaluation)
        self.missing = len(found)
        if found and not self.skip:
            raise ImageError(found[0])
        if found and self.missing == self.evaluated:
            raise ImageError(f"none of the {self.evaluated} images to measure on can be read: {found[0]}")
        self._tell(found)

    on_test_epoch_end = on_validation_epoch_end

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        # the other devices may not come to an exchange any more
        if self.skip:
            self._tell([*self.training, *self.evaluation])

    def _tell(self, complaints: list[str]) -> None:
        new = [text for text in dict.fromkeys(complaints) if text not in self._known]
        self._known.update(new)
        for text in new:
            self.findings.problem("while loading", text)
        if new:
            tell(f"left out while loading, {in_words(new, 'images' if len(new) > 1 else 'image')}")


def _gathered(trainer: L.Trainer, complaints: list[str]) -> list[str]:
    """The complaints of all devices; the list is emptied."""
    own = list(complaints)
    complaints.clear()
    parts: list[Any] = [own]
    if trainer.world_size > 1:
        parts = [None] * trainer.world_size
        torch.distributed.all_gather_object(parts, own)
    return [text for part in parts for text in part]

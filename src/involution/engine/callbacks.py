"""Callbacks of a training run: checkpoints, history, interruption, progress bar."""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import EarlyStopping, WeightAveraging
from typing_extensions import override

from involution.data.addresses import on_this_machine, path_of
from involution.data.errors import in_words
from involution.data.findings import Findings
from involution.data.images import ImageError
from involution.engine.best import Best, mend_best, recorded_best, write_best
from involution.engine.divergence import check_weights
from involution.engine.faults import TrainingDiverged, loader_killed
from involution.engine.files import atomic_path
from involution.engine.interval import interval
from involution.engine.loggers import name_run
from involution.engine.module import TaskModule
from involution.engine.process import is_main_process, tell
from involution.engine.run_folder import BEST, LAST, METRICS, clear_shards, place, rotate
from involution.engine.run_folder import in_words as place_in_words
from involution.engine.signals import StopFlag
from involution.models.shards import fill_from_parts


class TrainingInterrupted(Exception):
    """The user stopped the training; it can be resumed from `checkpoint`.

    Attributes:
        checkpoint: the last checkpoint, or None if there was none yet.
    """

    def __init__(self, checkpoint: Path | None) -> None:
        super().__init__("training interrupted")
        self.checkpoint = checkpoint


class RunCheckpoints(TorchCheckpointIO):
    """Writes the checkpoints of a run, each whole or not at all, and keeps the ones before.

    Args:
        keep: how many to resume from there are at most.
    """

    def __init__(self, keep: int = 1) -> None:
        self.keep = keep

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write last.ckpt, and then best.ckpt if the options have a `score`; who resumes mends what is in between."""
        last = path_of(path)
        with atomic_path(last, replace=True) as temporary:
            torch.save(checkpoint, temporary)
            # a machine may be switched off as soon as the training says that it ended
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            rotate(last, self.keep)
        clear_shards(last.parent)
        if storage_options:
            weights = storage_options.get("weights", checkpoint["state_dict"])
            write_best({**checkpoint, "state_dict": weights}, last.parent, storage_options["score"])

    @override
    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        """Read a checkpoint, also one at an address, or in parts by devices that shared the weights out."""
        with on_this_machine(path) as file:
            content: dict[str, Any] = super().load_checkpoint(file, *args, **options)
            fill_from_parts(content, file, whole=True)
            return content


class EarlyStop(EarlyStopping):
    """Stops a training after some epochs without a better score of the validation images.

    Args:
        patience: how many epochs.
    """

    def __init__(self, patience: int) -> None:
        # before the recorder saves; a score that is no number is no better one
        super().__init__("score", patience=patience, mode="max", check_finite=False, check_on_train_epoch_end=False)

    @property
    @override
    def state_key(self) -> str:
        return "EarlyStop"

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # a resumed run may be more patient
        super().load_state_dict({**state_dict, "patience": self.patience})

    @override
    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        trainer.callback_metrics["score"] = torch.tensor(pl_module.val_figures()[pl_module.monitor])
        super().on_validation_end(trainer, pl_module)


class RunRecorder(L.Callback):
    """Keeps last.ckpt, best.ckpt (by the task's measure on the validation images; the later of equals) and metrics.csv.

    If a run was resumed within an epoch, the training figures of that row cover the rest of it.

    Args:
        run_dir: the run's folder.
        flag: asks for a checkpoint and the end of the training.
        left_out: knows of images that could not be read and end the training, too.
        check: raises an error if the folder is no longer this process's.

    Attributes:
        history: a row per epoch.
        best_found: epoch and score of best.ckpt, None where no epoch had a score that is a number.
        logged_as: what the logger calls the run.
    """

    def __init__(
        self,
        run_dir: Path,
        flag: StopFlag,
        left_out: LeftOut | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.run_dir = run_dir
        self.flag = flag
        self.left_out = left_out
        self.check = check
        self.logged_as: str | None = None
        self.history: list[dict[str, float]] = []
        self.best_found: Best | None = None
        self._saved: tuple[int, int] | None = None
        self._saved_at = time.monotonic()
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
        return self.run_dir / LAST

    @property
    def best(self) -> Path:
        """Checkpoint of the best epoch."""
        return self.run_dir / BEST

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "history": self.history,
            "best_epoch": self.best_found[0] if self.best_found else 0,
            "best_score": self.best_found[1] if self.best_found else -1.0,
            "train_seconds": self._train_seconds,
            "images": self._images,
            "train_figures": self._train_figures,
            "logged_as": self.logged_as,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # `resume` has read the history, and seen what best.ckpt really holds
        self._train_seconds = state_dict["train_seconds"]
        self._images = state_dict["images"]
        self._train_figures = state_dict.get("train_figures")

    def resume(self, found: Mapping[str, Any], monitor: str) -> bool:
        """Take over the history of a checkpoint, and make best.ckpt and metrics.csv fit to it.

        Args:
            found: its contents, checked.
            monitor: what chooses the best epoch.

        Returns:
            Whether one of the two was not as it should be.
        """
        state = found["callbacks"].get("RunRecorder")
        if state is None:
            return False
        self._saved = place(found)
        self.history = list(state["history"])
        self.best_found = recorded_best(state, monitor)
        self.logged_as = state.get("logged_as")
        if not is_main_process() or not self.history:
            return False
        self.best_found, mended = mend_best(self.run_dir, found, self.best_found)
        file = self.run_dir / METRICS
        before = file.read_text(encoding="utf-8") if file.is_file() else ""
        self._write_history()
        return mended or file.read_text(encoding="utf-8") != before

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.started = True
        # Lightning has its own handlers by now: of SIGTERM, and of SLURM's signal
        self.flag.listen()
        self.logged_as = name_run(pl_module.config, trainer.logger, self.logged_as)
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
        if not between_steps:
            return
        stop = self._stop(trainer)
        if stop and self.left_out is not None:
            self.left_out.refuse(trainer)
        if stop or self._due(trainer, pl_module.config.trainer.checkpoint_every):
            self._save(trainer, pl_module, (trainer.current_epoch, done))
        if stop:
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
            if self.left_out is not None:
                self.left_out.refuse(trainer)
            self._save_before_validation(trainer, pl_module)
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
                "learning_rate": _peak_rate(trainer.optimizers[0].param_groups[0], pl_module.config.optimizer.lr),
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
        # no comparison with NaN is true
        improved = math.isfinite(score) and (self.best_found is None or score >= self.best_found[1])
        before = self.best_found
        if improved:
            self.best_found = (trainer.current_epoch + 1, score)
        try:
            self._save(trainer, pl_module, (trainer.current_epoch + 1, 0), score if improved else None)
        except BaseException:
            self.best_found = before
            raise
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

    def _due(self, trainer: L.Trainer, every: int | str | None) -> bool:
        """Whether it is time for a checkpoint within the epoch."""
        steps, seconds = interval(every)
        if steps:
            return trainer.global_step % steps == 0
        late = seconds is not None and time.monotonic() - self._saved_at >= seconds
        # the clocks of the devices differ
        return bool(seconds and trainer.strategy.reduce_boolean_decision(late, all=False))

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        if trainer.world_size > 1 or not self.started or not loader_killed(exception):
            return
        # between two batches the training is whole
        if trainer.validating:
            self._save_before_validation(trainer, pl_module)
            return
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        done = progress.completed
        whole = progress.ready == done and done % trainer.accumulate_grad_batches == 0
        if whole and 0 < done < trainer.num_training_batches:
            self._save(trainer, pl_module, (trainer.current_epoch, done))

    def _save_before_validation(self, trainer: L.Trainer, pl_module: Any) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):
                # it has put the average in the place of the weights
                callback.on_validation_epoch_end(trainer, pl_module)
        # a run that was resumed in a validation has trained nothing since
        self._train_figures = self._train_figures or pl_module.train_figures()
        self._save(trainer, pl_module, (trainer.current_epoch, int(trainer.num_training_batches)))

    def saved(self) -> str:
        """What can be resumed and used, in words."""
        if self._saved is None:
            return "nothing was saved before"
        best = f", best.ckpt of epoch {self.best_found[0]}" if self.best_found else ""
        return f"saved before: {self.last} {place_in_words(*self._saved)}{best}"

    def _save(
        self, trainer: L.Trainer, pl_module: TaskModule, position: tuple[int, int], score: float | None = None
    ) -> None:
        self.check()
        average_norms(trainer, pl_module)
        check_weights(trainer, pl_module.model)
        pl_module.position = position
        self.flag.saving = True
        options = None if score is None else {"score": score}
        try:
            trainer.save_checkpoint(self.last, weights_only=False, storage_options=options)
        finally:
            self.flag.saving = False
        self._saved, self._saved_at = position, time.monotonic()

    def _write_history(self) -> None:
        with (
            atomic_path(self.run_dir / METRICS, replace=True) as temporary,
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


def average_norms(trainer: L.Trainer, module: TaskModule) -> None:
    """Give each device the mean of all devices' statistics of batch norms: one process writes them for all."""
    module.average_norms()
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging) and callback._average_model is not None:
            average: Any = callback._average_model.module
            module.average_norms(average.model)


def _gathered(trainer: L.Trainer, complaints: list[str]) -> list[str]:
    """The complaints of all devices; the list is emptied."""
    own = list(complaints)
    complaints.clear()
    parts: list[Any] = [own]
    if trainer.world_size > 1:
        parts = [None] * trainer.world_size
        torch.distributed.all_gather_object(parts, own)
    return [text for part in parts for text in part]


def _peak_rate(group: dict[str, Any], rate: float) -> float:
    """The learning rate now, of a group without factors of its own."""
    return float(group["lr"]) if group["initial_lr"] == rate else rate * float(group["lr"]) / float(group["initial_lr"])

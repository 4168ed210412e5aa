"""The progress of a training run: a bar on a terminal, otherwise one line per epoch."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text
from typing_extensions import override


class _Title(ProgressColumn):
    """The task's description on one line, cut if the terminal is narrow."""

    @override
    def render(self, task: Task) -> Text:
        return Text(task.description, no_wrap=True, overflow="ellipsis")


class ProgressBar(L.Callback):
    """A bar over the whole run with loss, the task's measure, images per second and the time left.

    Args:
        title: what is being done.
        console: where it is shown.
    """

    def __init__(self, title: str, console: Console | None = None) -> None:
        self.title = title
        self.console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._score = ""
        self._since = 0.0
        self._images = 0
        self._loss = 0.0

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        self._since = time.perf_counter()
        if self.console.is_interactive:
            # in 80 columns the title and the bar shrink; the figures and the time left stay whole
            self._progress = Progress(
                _Title(),
                BarColumn(bar_width=10),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(table_column=Column(no_wrap=True)),
                TextColumn("left"),
                console=self.console,
            )
            self._progress.start()
            total = trainer.num_training_batches * (trainer.max_epochs or 1)
            self._task = self._progress.add_task(self.title, total=total, figures="")
            # a resumed run does not start at zero
            done = trainer.current_epoch * trainer.num_training_batches
            self._progress.update(self._task, completed=done)

    @override
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._since = time.perf_counter()
        self._images = 0

    @override
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._images += len(batch[1]) * trainer.world_size
        if self._progress is None:
            return
        # reading the loss waits for the device, so not at every step
        if batch_idx % 10 == 0:
            self._loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        speed = self._images / max(time.perf_counter() - self._since, 1e-9)
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self._progress.update(
            self._task,
            completed=trainer.current_epoch * trainer.num_training_batches + batch_idx + 1,
            figures=f"{epoch} loss {self._loss:.3f}{self._score} {speed:,.0f} images/s",
        )

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        figures: dict[str, float] = pl_module.val_figures()
        self._score = f" val {figures[pl_module.monitor]:.2%}"
        if self._progress is None and trainer.is_global_zero:
            speed = self._images / max(time.perf_counter() - self._since, 1e-9)
            shown = ", ".join(
                f"val {name} {figures[name]:.4f}" if name == "loss" else f"val {name} {figures[name]:.2%}"
                for name in sorted(figures, key=lambda name: name != pl_module.monitor)
            )
            self.console.print(
                f"{self.title} epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: {shown}, {speed:,.0f} images/s",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._stop()

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._stop()

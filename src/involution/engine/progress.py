"""The progress of a training run: a bar on a terminal, otherwise a line per epoch, and per minute of a long one."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text
from typing_extensions import override

# seconds after which a run that shows no bar is said to go on: the first time, and then again
_FIRST, _AGAIN = 10, 60


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
        # when a line was printed last; when and after which of all steps the first one was done
        self._said = 0.0
        self._began: tuple[float, int] | None = None

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        self._since = self._said = time.perf_counter()
        self._began = None
        if self.console.is_interactive:
            # in 80 columns the title and the bar shrink; the figures and the time left stay whole
            self._progress = Progress(
                _Title(),
                BarColumn(bar_width=10),
                TextColumn("{task.fields[figures]}", markup=False),
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
            if trainer.is_global_zero:
                self._go_on(trainer, outputs, batch_idx + 1)
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
            self._said = time.perf_counter()
            self._say(
                f"{self.title} epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: {shown}, {speed:,.0f} images/s"
            )

    def _go_on(self, trainer: L.Trainer, outputs: Any, batches: int) -> None:
        """Say how far a long epoch is, and how long the rest of the run takes."""
        now, whole = time.perf_counter(), int(trainer.num_training_batches)
        done = trainer.current_epoch * whole + batches
        if self._began is None:
            # the first step is slower than all others
            self._began = now, done
        since, first = self._began
        wait = _AGAIN if self._said > since else _FIRST
        if now - max(self._said, since) < wait or done == first or batches == whole:
            return
        self._said = now
        left = (now - since) / (done - first) * (whole * (trainer.max_epochs or 1) - done)
        speed = self._images / max(now - self._since, 1e-9)
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        self._say(
            f"{self.title} epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: {batches:,} of {whole:,} batches, "
            f"loss {loss:.3f}, {speed:,.1f} images/s, about {_duration(left)} left"
        )

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

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


def _duration(seconds: float) -> str:
    """A time in words, such as 50 s, 12 min or 3.5 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

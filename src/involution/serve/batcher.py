"""Images that wait for a network, and the thread that gives it as many at a time as are there."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from involution.serve.logs import told

# what `Batcher` calls: images and options to an outcome for each, which it does not look into
Run = Callable[[Sequence[bytes], Mapping[str, Any]], Sequence[Any]]


class Full(Exception):
    """No more images may wait."""


@dataclass(eq=False)
class Job:
    """An image that waits.

    Attributes:
        image: content of its file.
        pixels: how many it has.
        options: of the prediction; those of a batch are the same.
        outcome: what comes of it.
        since, taken, done: when it came, was taken and was done, in seconds of `time.monotonic`.
        batch: with how many it was taken.
    """

    image: bytes
    pixels: int
    options: Mapping[str, Any]
    outcome: asyncio.Future[Any]
    since: float = field(default_factory=time.monotonic)
    taken: float = 0.0
    done: float = 0.0
    batch: int = 0


# networks of one process take turns: each of them uses all cores
_TURN = threading.Lock()


class Batcher:
    """Runs a network on what waits, in batches.

    A batch is taken when as many images wait as waited last time, when it is full, or when its first one has waited
    long enough. So a single client never waits for others, and many are taken together.

    Args:
        run: runs the network.
        sizes: how many images can be taken at a time, in ascending order.
        wait: seconds that an image waits for others at most.
        most_pixels: of a batch; a single image may have more.
        most_waiting: images that may wait.
        note: is called with the size of each batch, from the thread that runs it.
    """

    def __init__(
        self,
        run: Run,
        sizes: Sequence[int],
        wait: float,
        most_pixels: int,
        most_waiting: int,
        note: Callable[[int], object] = lambda size: None,
    ) -> None:
        self._run, self._sizes, self._wait, self._note = run, sizes, wait, note
        self._most_pixels, self._most_waiting = most_pixels, most_waiting
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._expected, self._closed = 1, False
        # since when the network is at work
        self.working: float | None = None
        self._thread = threading.Thread(target=self._work, daemon=True, name="batcher")
        self._thread.start()

    def __len__(self) -> int:
        """How many images wait."""
        return len(self._waiting)

    def put(self, job: Job) -> None:
        """Let an image wait; raises `Full`."""
        with self._changed:
            if len(self._waiting) >= self._most_waiting or self._closed:
                raise Full
            self._waiting.append(job)
            self._changed.notify()

    def drop(self, job: Job) -> None:
        """Forget an image, if it still waits."""
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)

    def close(self, seconds: float) -> bool:
        """End when nothing waits any more; whether that took no longer than some seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while batch := self._take():
            with _TURN:
                self.working = time.monotonic()
                for job in batch:
                    job.taken, job.batch = self.working, len(batch)
                try:
                    outcomes = self._run([job.image for job in batch], batch[0].options)
                # whoever waits must hear of anything
                except BaseException as error:
                    outcomes = [RuntimeError(told(error)) for _ in batch]
                self.working = None
            done = time.monotonic()
            self._note(len(batch))
            for job, outcome in zip(batch, outcomes, strict=True):
                job.done = done
                # a server that has ended asks no more
                with suppress(RuntimeError):
                    job.outcome.get_loop().call_soon_threadsafe(_settle, job.outcome, outcome)
            # what was answered need not stay in memory until more comes
            del batch, outcomes, job, outcome

    def _take(self) -> list[Job]:
        with self._changed:
            while True:
                if not self._waiting:
                    if self._closed:
                        return []
                    self._changed.wait()
                    continue
                fitting = self._fitting()
                left = self._waiting[0].since + self._wait - time.monotonic()
                if len(fitting) >= min(self._expected, self._sizes[-1]) or left <= 0 or self._closed:
                    break
                self._changed.wait(left)
            self._expected = len(self._waiting)
            size = max(size for size in self._sizes if size <= max(len(fitting), self._sizes[0]))
            batch = fitting[:size]
            for job in batch:
                self._waiting.remove(job)
            return batch

    def _fitting(self) -> list[Job]:
        """The first of those that wait, and others that can be taken with it."""
        options, pixels = self._waiting[0].options, 0
        found: list[Job] = []
        for job in self._waiting:
            if job.options == options and (not found or pixels + job.pixels <= self._most_pixels):
                found.append(job)
                pixels += job.pixels
                if len(found) == self._sizes[-1]:
                    break
        return found


def _settle(future: asyncio.Future[Any], outcome: Any) -> None:
    # nobody may wait any more
    if future.done():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)

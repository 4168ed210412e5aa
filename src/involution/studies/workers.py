"""Runs of a study in several processes, which end with it and leave their checkpoints after Ctrl-C."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch

from involution.studies.errors import StudyError

T = TypeVar("T")
R = TypeVar("R")

MOST_PROCESSES = 4
"""Processes that a study uses without being asked for more."""


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_jobs() -> int:
    """Return one for each core, up to `MOST_PROCESSES`."""
    return min(cores(), MOST_PROCESSES)


@contextmanager
def alone(seed: int) -> Iterator[None]:
    """One thread and random numbers of this seed inside the block; the caller's own behind it."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def do_all(work: Callable[[T], R], runs: Sequence[T], jobs: int, gpus: Sequence[str] = ()) -> Iterator[tuple[T, R]]:
    """Do runs, one after the other here or, as `in_processes` does, several at once."""
    if jobs == 1 or len(runs) < 2:
        for run in runs:
            yield run, work(run)
        return
    yield from in_processes(work, runs, min(jobs, len(runs)), gpus)


def in_processes(
    work: Callable[[T], R], runs: Sequence[T], jobs: int, gpus: Sequence[str] = ()
) -> Iterator[tuple[T, R]]:
    """Do runs, several at once, each with its share of the cores.

    Args:
        work: Does one of them; it and what it gets and returns can be pickled.
        runs: What is done.
        jobs: How many at once.
        gpus: What CUDA_VISIBLE_DEVICES calls the GPU of each process; none for those that use none.

    Yields:
        Each run that ended, with what it returned.

    Raises:
        KeyboardInterrupt: After Ctrl-C, when the runs have left their checkpoints.
        StudyError: If a process was killed.
    """
    context = multiprocessing.get_context("spawn")
    devices = context.Queue()
    for place in range(jobs):
        devices.put(gpus[place] if gpus else None)
    threads = max(1, cores() // jobs)
    pool = ProcessPoolExecutor(jobs, context, _start_worker, (devices, threads))
    futures = {pool.submit(_work, work, run): run for run in runs}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise StudyError("a process was killed, perhaps for lack of memory; try a smaller --jobs") from error
    except BaseException:
        for future in futures:
            future.cancel()
        workers = multiprocessing.active_children()
        for worker in workers:
            # once: a second one would not leave it the time for its checkpoint
            with suppress(ProcessLookupError):
                os.kill(worker.pid or 0, signal.SIGINT)
        try:
            pool.shutdown()
        except KeyboardInterrupt:
            for worker in workers:
                worker.kill()
        raise
    pool.shutdown()


def _start_worker(devices: Any, threads: int) -> None:
    device = devices.get()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    torch.set_num_threads(threads)
    # the terminal's Ctrl-C goes to the study alone, which tells its workers
    if hasattr(os, "setsid"):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    """End with a study that was killed: who starts it again must not find its old workers at work."""
    parent.join()
    os._exit(1)


def _work(work: Callable[[T], R], run: T) -> R:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return work(run)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

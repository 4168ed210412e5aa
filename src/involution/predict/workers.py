"""Who predicts the parts: this process, or workers of Ray Data on this machine or a cluster."""

from __future__ import annotations

import io
import json
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from involution.engine.predictor import PredictError
from involution.engine.settings import MOST
from involution.predict.inputs import Part
from involution.predict.parts import PartRunner

ENGINES = ("process", "ray")
# bytes of shared memory: little more than Ray's least, since results don't pass through it
_STORE = 128 * 2**20
# how often a part is begun whose worker dies
_TRIES = 3
# of a name of a socket, with what Ray adds to its folder
_LONGEST = 40
# of a cluster on this machine: nothing is sent, nothing is said, and only who has the token gets in
_ALONE = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_BACKEND_LOG_LEVEL": "fatal"}
# on Linux, too: where it is 0, all that Ray opens is on the loopback address
_REACHABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


class _WithoutRay(io.TextIOBase):
    """The output, without the paragraphs that a thread of Ray prints about workers that ended."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if threading.current_thread().name.startswith("ray_") else self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()


class WorkerError(RuntimeError):
    """What ended the work of a worker."""


@dataclass(frozen=True)
class Workers:
    """Who predicts, which may change when a prediction goes on.

    Args:
        engine: ``process`` is this one, ``ray`` a worker for each core or GPU, by Ray Data.
        device: where the network runs; ``auto`` uses accelerators if there are any.
        count: of Ray's workers; 0 for as many as there are cores, or GPUs if they are used.
        ray_address: of a running cluster that sees the same files; by default one is started on this machine alone,
            and ended afterwards.

    Raises:
        PredictError: for an unknown engine, or what is not for the chosen one.
    """

    engine: str = "process"
    device: str = "auto"
    count: int = 0
    ray_address: str | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise PredictError(f"wanted engine {' or '.join(ENGINES)}, got {self.engine!r}")
        if self.engine == "process" and (self.count or self.ray_address):
            raise PredictError("a number of workers and the address of a cluster are for engine ray")
        if self.engine == "ray" and self.device not in ("auto", "cpu", "cuda"):
            raise PredictError(f"wanted device auto, cpu or cuda for engine ray, got {self.device!r}")
        if not 0 <= self.count <= MOST:
            raise PredictError(f"wanted workers from 0 to {MOST}, got {self.count}")


@dataclass(frozen=True)
class Work:
    """What a worker needs to know: paths, which mean the same on every machine, and settings.

    Attributes:
        checkpoint: the network's file, or published weights by name.
        sha256: of this file.
        folder: of the parts.
        format: of the parts.
        options: of the prediction.
    """

    checkpoint: str
    sha256: str
    folder: Path
    format: str
    options: Mapping[str, Any]


class PartWorker:
    """What Ray makes workers of: predicts the parts that it is given.

    Args:
        work: what it needs to know.
        device: where the network runs.
    """

    def __init__(self, work: Work, device: str) -> None:
        self._work, self._device = work, device
        self._runner: PartRunner | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The line of a part for the record, or what went wrong."""
        part = Part.from_dict(json.loads(row["part"]))
        tries = self._work.folder / f".part-{part.number:06}.tries.tmp"
        try:
            with tries.open("a") as file:
                file.write(".")
                count = file.tell()
            if count > _TRIES:
                last = part.start + part.count - 1
                raise WorkerError(
                    f"part {part.number}, images {part.start:,} to {last:,}: its worker died {_TRIES} times, perhaps "
                    "for want of memory; try fewer workers or a smaller batch"
                )
            line = self._ready().run(part)
        # of an error that is no bug, the message is enough
        except OSError as error:
            file, why = error.filename, error.strerror or str(error)
            return {"line": "", "error": f"{os.fsdecode(file)}: {why}" if file else why}
        except (ValueError, RuntimeError) as error:
            if not type(error).__module__.startswith("involution."):
                raise
            return {"line": "", "error": str(error)}
        finally:
            # not reached if the process dies
            tries.unlink(missing_ok=True)
        return {"line": json.dumps(line), "error": ""}

    def _ready(self) -> PartRunner:
        if self._runner is None:
            import torch

            from involution.engine.loading import load_predictor
            from involution.models.errors import CheckpointError
            from involution.models.weights import locate
            from involution.models.weights.cache import file_sha256

            # one for each core
            torch.set_num_threads(1)
            work = self._work
            predictor = load_predictor(work.checkpoint, self._device).optimize()
            if file_sha256(locate(work.checkpoint)) != work.sha256:
                raise CheckpointError(f"{work.checkpoint}: it changed since the prediction began")
            self._runner = PartRunner(predictor, work.folder, work.format, work.options)
        return self._runner


def run_with_ray(parts: Sequence[Part], work: Work, workers: Workers) -> Generator[dict[str, Any], None, None]:
    """Predict parts by Ray Data, in any order.

    Args:
        parts: what is to be done.
        work: what the workers need to know.
        workers: how many, and where.

    Yields:
        What `PartRunner.run` returns of each part.

    Raises:
        WorkerError: if a worker can't go on.
        PredictError: for more workers than the given cluster has room for.
    """
    rows = [{"part": json.dumps(part.to_dict())} for part in parts]
    with redirect_stdout(_WithoutRay(sys.stdout)), _connected(workers, 4 * sum(len(row["part"]) for row in rows)):
        import ray.data
        from ray.exceptions import RayError

        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        count, on_gpu = _share(workers, ray.cluster_resources())
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
        dataset.context.enable_progress_bars = False
        done = dataset.map(
            PartWorker,  # type: ignore[arg-type]
            fn_constructor_args=(work, "cuda" if on_gpu else "cpu"),
            # one waits while another is done
            compute=ray.data.ActorPoolStrategy(size=min(count, len(parts)), max_tasks_in_flight_per_actor=2),
            num_cpus=1,
            num_gpus=1 if on_gpu else 0,
        )
        try:
            for row in done.iter_rows():
                if row["error"]:
                    raise WorkerError(row["error"])
                yield json.loads(row["line"])
        except RayError as error:
            raise WorkerError(f"Ray could not go on: {' '.join(str(error).split())[-400:]}") from error


def _share(workers: Workers, there: Mapping[str, float]) -> tuple[int, bool]:
    """How many workers there will be, and whether each has a GPU."""
    gpus, cores = int(there.get("GPU", 0)), int(there.get("CPU", 0))
    if workers.device == "cuda" and not gpus:
        raise PredictError("wanted device cuda, but Ray finds no GPU; use --device cpu")
    on_gpu = gpus > 0 and workers.device != "cpu"
    room = min(gpus, cores) if on_gpu else cores
    if workers.count > room:
        each = "a core and a GPU" if on_gpu else "a core"
        raise PredictError(f"wanted {workers.count} workers, but Ray has room for {room}, with {each} each")
    return workers.count or max(room, 1), on_gpu


@contextmanager
def _connected(workers: Workers, lists: int) -> Iterator[None]:
    """Be connected to Ray: to the given cluster, where this process is already, or to one of its own.

    Args:
        workers: the address, and how many cores a cluster needs.
        lists: bytes of what is handed to the workers.
    """
    if not workers.ray_address:
        os.environ.update(_ALONE)
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault(_REACHABLE, "0")
    import ray

    if ray.is_initialized() and not workers.ray_address:
        yield
        return
    try:
        if workers.ray_address:
            with _silent(), _own_sigterm():
                ray.init(workers.ray_address, log_to_driver=False, logging_level=logging.ERROR)
            yield
            return
        with _short_folder() as folder:
            with _silent(), _own_sigterm():
                # not where RAY_ADDRESS leads
                ray.init(
                    "local",
                    num_cpus=workers.count or None,
                    object_store_memory=_STORE + lists,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _temp_dir=folder,
                )
            if ray.util.get_node_ip_address() not in ("127.0.0.1", "::1"):
                raise WorkerError(
                    f"Ray's ports would be open to other machines; set {_REACHABLE}=0 before importing it"
                )
            yield
            _end()
    except ConnectionError as error:
        raise WorkerError(f"no Ray cluster at {workers.ray_address}: {' '.join(str(error).split())[:300]}") from error
    finally:
        _end()


def _end() -> None:
    import ray

    # it would print what it has kept back about workers
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        ray.shutdown()


@contextmanager
def _silent() -> Iterator[None]:
    """Drop what Ray's C++ prints while it starts, such as at which level it prints."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep who hears SIGTERM: Ray puts itself in the place, and ends the process in the midst of anything."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


@contextmanager
def _short_folder() -> Iterator[str]:
    """A temporary folder for Ray's files and sockets, whose names have a limit."""
    longest = len(tempfile.gettempdir()) > _LONGEST and os.path.isdir("/tmp")
    folder = tempfile.mkdtemp(prefix="involution-", dir="/tmp" if longest else None)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)

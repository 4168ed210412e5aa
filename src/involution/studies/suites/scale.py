"""Training steps on 1, 2 and 4 processes of this machine, by DDP and FSDP2 over gloo, against one process alone.

Each process has one thread and its own images. They take turns at a step: one process alone while the others sleep,
all of them without communication, DDP, FSDP2; a step ends when every process has done it. Between steps the links are
measured. From these, the step without communication, and what a strategy alone costs one process (``own_cost``),
`involution.studies.scaling` predicts the step with communication (``predicted``); and also from one process alone and
the number of cores (``predicted_from_one``). What a process sent is read from its sockets.

Where there are more processes than cores they share them: ``efficiency`` compares with as many devices as there are
processes, ``core_efficiency`` with as many as there are cores.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from involution.studies import scaling
from involution.studies.harness import Measurement, Options, Row, Suite, Target, measure
from involution.studies.scaling_table import work_of

ALONE, APART = "one process", "no communication"
STRATEGIES = {"ddp": "DDP", "fsdp": "FSDP2"}
_LEAST, _MOST = 0.75, 1.33


@dataclass(frozen=True)
class _Case:
    # of timm's registry, on square images
    model: str
    title: str
    size: int


@dataclass(frozen=True)
class _Setting:
    case: _Case
    batch: int
    rounds: int
    parts: tuple[str, ...]


# much computing for the bytes that are sent, and little
_CASES = (_Case("rednet26", "RedNet-26", 128), _Case("rednet26", "RedNet-26", 64))
_TINY = (_Case("rednet_nano", "RedNet-nano", 32),)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _plan(options: Options) -> Iterator[Measurement]:
    cases = _TINY if options.dry_run else _CASES[1:] if options.quick else _CASES
    rounds = 2 if options.dry_run else 5 if options.quick else 11
    settings = options.filled(batches=(4,), rounds=rounds)
    for case in cases:
        for batch in settings.batches:
            # of each strategy on one process, which is measured first
            own_cost: dict[str, float] = {}
            for processes in (1, 2) if options.dry_run else (1, 2, 4):
                setting = _Setting(case, batch, settings.rounds, settings.parts)
                name = f"{case.title}, {case.size}×{case.size}, batch {batch}, {_count(processes)}"
                yield Measurement(name, partial(_rows, setting, processes, own_cost))


def _count(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"


def _rows(setting: _Setting, processes: int, own_cost: dict[str, float]) -> Iterator[Row]:
    import torch.multiprocessing

    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(
            _process, (setting, processes, folder), processes, daemon=True, start_method="spawn"
        )
        found = json.loads((Path(folder) / "rows").read_text(encoding="utf-8"))
    yield from _complete(setting, processes, found, own_cost)


def _complete(setting: _Setting, processes: int, found: list[Row], own_cost: dict[str, float]) -> list[Row]:
    """Add speeds, efficiencies and predictions to what some processes measured."""
    case, allowed = setting.case, cores()
    for row in found:
        row |= {"model": case.model, "processes": processes, "cores": allowed, "threads": 1}
        row["oversubscribed"] = processes > allowed
    steps = {row["candidate"]: row for row in found if row["measure"].startswith("step")}
    for row in steps.values():
        working = 1 if row["candidate"] == ALONE else processes
        row["images_per_s"] = round(1e3 * working * setting.batch / row["p50_ms"], 2)
        row["efficiency"] = round(1 / row["p50_ratio"], 3)
        row["core_efficiency"] = round(working / min(working, allowed) / row["p50_ratio"], 3)
    # what computing takes: beside the other processes as it was measured, and one process's, who then share cores
    beside = steps[APART]["p50_ms"]
    shared = steps[ALONE]["p50_ms"] * max(1.0, processes / allowed)
    for strategy, title in STRATEGIES.items():
        if title not in steps:
            continue
        row = steps[title]
        if processes == 1:
            own_cost[title] = row["own_cost"] = row["p50_ratio"]
        elif title in own_cost:
            row["own_cost"] = own_cost[title]
            for key, compute in (("predicted", beside), ("predicted_from_one", shared)):
                prediction = _predict(strategy, work_of(case.model, own_cost[title] * compute / 1e3), found, processes)
                row[f"{key}_ms"] = round(prediction.step_s * 1e3, 3)
                row[f"{key}_ratio"] = round(prediction.step_s * 1e3 / row["p50_ms"], 3)
            row["counted_bytes"] = round(prediction.sent_bytes)
    return found


def _predict(
    strategy: str, work: scaling.Work, rows: Sequence[Mapping[str, Any]], processes: int
) -> scaling.Prediction:
    """Predict a step of several processes from their computing and the links between them."""
    links = {row["candidate"]: row for row in rows if row["measure"].startswith("link")}

    def cluster(kind: str, rounds: int) -> scaling.Cluster:
        if processes == 1:
            link = scaling.Link(1.0)
        else:
            tiny, full = links[f"{kind}, tiny"], links[kind]
            of = tiny["p50_ms"] / 1e3, full["p50_ms"] / 1e3
            link = scaling.link_of(processes, full["message_bytes"], rounds, *of)
        return scaling.Cluster(link, link, processes)

    # without cores of its own, communication is not hidden behind computing
    overlap = 0.0 if processes >= cores() else 1.0
    if strategy == "ddp":
        return scaling.ddp(work, processes, cluster("all-reduce", 2), overlap=overlap)
    scatter = cluster("reduce-scatter", 2)
    return scaling.fsdp(work, processes, cluster("all-gather", 1), overlap=overlap, scatter=scatter, scatter_rounds=2)


def _process(rank: int, setting: _Setting, processes: int, folder: str) -> None:
    """Measure as one of several processes; the first writes the rows."""
    import torch.distributed as dist

    # sent when the command ends; whoever started it without a terminal may have it ignored
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo",
        init_method=Path(folder, "store").as_uri(),
        rank=rank,
        world_size=processes,
        timeout=timedelta(minutes=5),
    )
    try:
        with warnings.catch_warnings():
            # names that torch has new ones for, and channels_last gradients of 1×1 convolutions
            warnings.filterwarnings("ignore", message=".*is deprecated.*", category=FutureWarning)
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            rows = list(_measured(rank, setting, processes))
        if rank == 0:
            Path(folder, "rows").write_text(json.dumps(rows), encoding="utf-8")
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _measured(rank: int, setting: _Setting, processes: int) -> Iterator[Row]:
    import torch.distributed as dist

    case = setting.case
    torch.manual_seed(rank)
    images = torch.randn(setting.batch, 3, case.size, case.size).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(setting.batch) % 2
    apart = _step(_build(case.model), images, labels)

    def together(step: Callable[[], None]) -> None:
        step()
        dist.barrier()

    steps: dict[str, Callable[[], Any]] = {
        ALONE: partial(together, apart if rank == 0 else lambda: None),
        APART: partial(together, apart),
    }
    for part in setting.parts:
        steps[STRATEGIES[part]] = partial(together, _step(_WRAP[part](_build(case.model)), images, labels))
    links = _links(work_of(case.model, 1.0), processes) if processes > 1 else {}
    candidates = {**steps, **{name: call for name, (call, _) in links.items()}}
    columns: Row = {"layer": f"{case.title}, {case.size}×{case.size}", "batch": setting.batch}
    # the same number of rounds on every process, and so no limit of time
    for row in measure(candidates, ALONE, seconds=0, rounds=setting.rounds, **columns):
        name = row["candidate"]
        kind = "step" if name in steps else "link"
        row = {"measure": f"{kind}, {_count(processes)}", **row}
        if kind == "link":
            row["message_bytes"] = links[name][1]
            # of a step's time it is no ratio that means something
            row = {key: value for key, value in row.items() if key != "base" and not key.endswith("_ratio")}
        elif (before := sent_bytes()) is not None:
            candidates[name]()
            sent = torch.tensor(float((sent_bytes() or before) - before), dtype=torch.float64)
            dist.all_reduce(sent)
            row["sent_bytes"] = round(float(sent) / processes)
        yield row


def _links(work: scaling.Work, processes: int) -> dict[str, tuple[Callable[[], Any], int]]:
    """Return each collective and its bytes: with as many as a step sends at once, and with a few."""
    import torch.distributed as dist

    bucket = work.gradient_bytes / -(-work.gradient_bytes // (25 * 2**20))
    group = work.parameter_bytes / work.groups
    found: dict[str, tuple[Callable[[], Any], int]] = {}
    for kind, size in (("all-reduce", bucket), ("all-gather", group), ("reduce-scatter", group)):
        for name, wanted in ((kind, size), (f"{kind}, tiny", 0)):
            part = torch.ones(max(1, int(wanted / 4 / processes)))
            whole = torch.ones(part.numel() * processes)
            calls: dict[str, Callable[[], Any]] = {
                "all-reduce": partial(dist.all_reduce, whole),
                "all-gather": partial(dist.all_gather_into_tensor, whole, part),
                "reduce-scatter": partial(dist.reduce_scatter_tensor, part, whole),
            }
            found[name] = calls[kind], whole.nbytes
    return found


def _build(name: str) -> nn.Module:
    import timm

    from involution import models  # noqa: F401, registers RedNet with timm

    # the same weights everywhere
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = timm.create_model(name)
    return model.train()


def _ddp(model: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)


def _fsdp(model: nn.Module) -> nn.Module:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    from involution.engine.sharding import shard

    shard(model, init_device_mesh("cpu", (dist.get_world_size(),)))
    return model


_WRAP = {"ddp": _ddp, "fsdp": _fsdp}


def _step(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def sent_bytes() -> int | None:
    """Return what this process has sent over its TCP connections so far; None where the system does not say."""
    if sys.platform != "linux":
        return None
    total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as copy:
                info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        # closed meanwhile, or not TCP
        except OSError:
            continue
        if len(info) < _SENT + 16:
            return None
        sent, again = struct.unpack_from("QQ", info, _SENT)
        total += sent - again
    return total


# where tcp_info has tcpi_bytes_sent and tcpi_bytes_retrans, since Linux 4.19
_SENT = 200


def _targets(rows: Sequence[Mapping[str, Any]]) -> list[Target]:
    found = []
    for row in rows:
        if "predicted_ratio" in row:
            what = f"{row['candidate']}, {_count(row['processes'])}, {row['layer']}"
            ratio = row["predicted_ratio"]
            wanted = f"{_LEAST:g}–{_MOST:g}"
            found.append(Target(f"predicted ÷ measured step, {what}", wanted, ratio, _LEAST <= ratio <= _MOST))
            if row.get("sent_bytes") and row["counted_bytes"]:
                share = round(row["sent_bytes"] / row["counted_bytes"], 3)
                found.append(Target(f"sent ÷ counted bytes, {what}", "0.99–1.01", share, 0.99 <= share <= 1.01))
    return found


SUITE = Suite(tuple(STRATEGIES), _plan, _targets, on_cpu=True)

"""`involution serve` under load: against its own predictor in this process, and against other servers around it.

wrk asks over this machine's loopback, each client as soon as it has its answer. The network is RedNet-50 with random
weights as `involution export` writes it for ONNX Runtime; the image is a photograph as a JPEG file. The predictor takes
its turn before and after each number of clients, and a server's figures are ratios to the mean of the two.
"""

from __future__ import annotations

import io
import math
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from involution.engine.card import ModelCard
from involution.engine.predictor import Encoded
from involution.export.load import load_exported
from involution.export.metadata import Metadata, preprocessing
from involution.export.pixels import dense_graph
from involution.export.registry import Settings, get_format
from involution.extras import is_installed
from involution.studies.errors import StudyError
from involution.studies.harness import Measurement, Options, Row, Suite, Target, percentiles, target
from involution.studies.servers import BATCH, SERVERS, check, running

_CLIENTS = (1, 2, 4, 8, 16, 32)
_BATCHES = (1, 4, BATCH)
_REQUESTS = 10_000
# the image goes as it is; wrk's own body is text
_SCRIPT = """wrk.method = "POST"
wrk.headers["content-type"] = "{kind}"
wrk.body = io.open("{body}", "rb"):read("*a")
"""
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


def _plan(options: Options) -> Iterator[Measurement]:
    settings = options.filled(seconds=0.1 if options.dry_run else 5.0)
    small = options.dry_run
    for part in settings.parts:
        minutes = 0 if small else {"memory": 1.0}.get(part, 2.3)
        rows = partial(_memory, small) if part == "memory" else partial(_served, part, small, settings.seconds)
        yield Measurement(part, rows, minutes)


def _served(part: str, small: bool, seconds: float) -> Iterator[Row]:
    server = SERVERS[part]
    _need("wrk", server.package)
    with tempfile.TemporaryDirectory(prefix="involution-bench-") as name:
        folder = Path(name)
        file, image = _file(folder, small), _image()
        predictor = load_exported(file, "onnx")
        with running(server, folder, file, torch.get_num_threads()) as (address, process):
            check(server, address, image, predictor)
            script = _script(folder, server.kind, server.body(image))
            _wrk(address, script, 1, 1)
            alone = [_alone(predictor, image, seconds)]
            for clients in (1, 2) if small else _CLIENTS:
                # wrk counts whole answers: of large batches there must be many, and of one client's a hundred
                found = _wrk(address, script, clients, seconds * max(2, clients / 4))
                alone.append(_alone(predictor, image, seconds))
                one, best = (statistics.mean(figure(times) for times in alone[-2:]) for figure in (_one, _best))
                yield {
                    "measure": "served",
                    "layer": "rednet_nano" if small else "RedNet-50",
                    "batch": clients,
                    "candidate": server.name,
                    **found,
                    "of_predictor": round(found["requests_s"] / best, 3),
                    "p99_over_predictor": round(found["p99_ms"] / one, 3),
                    "processes": len(_descendants(process)),
                    "processors": len(os.sched_getaffinity(0)),
                }
    if part == "involution":
        yield from _in_process(alone)


# milliseconds of each call, by the images of a batch
_Times = dict[int, list[float]]


def _alone(predictor: Any, image: bytes, seconds: float) -> _Times:
    """Times of the predictor in this process."""
    found: _Times = {}
    for batch in _BATCHES:
        images, times = [Encoded("image", image)] * batch, found.setdefault(batch, [])
        end = time.perf_counter() + seconds / 5
        while len(times) < 2 or time.perf_counter() < end:
            start = time.perf_counter()
            list(predictor.stream(images, batch_size=batch))
            times.append(1e3 * (time.perf_counter() - start))
    return found


def _one(times: _Times) -> float:
    """Milliseconds of one image."""
    return statistics.median(times[1])


def _best(times: _Times) -> float:
    """Images a second, of the best batch."""
    return max(1e3 * batch / statistics.median(found) for batch, found in times.items())


def _in_process(alone: Sequence[_Times]) -> Iterator[Row]:
    for batch in _BATCHES:
        times = sorted(value for found in alone for value in found[batch])
        row: Row = {"measure": "in process", "layer": "network", "batch": batch, "candidate": "predictor"}
        row |= percentiles(times, "ms", 3)
        # as wrk's
        row["p99_ms"] = round(times[math.ceil(0.99 * len(times)) - 1], 3)
        yield {**row, "requests_s": round(1e3 * batch / row["p50_ms"], 2)}


def _memory(small: bool) -> Iterator[Row]:
    """What a server keeps after ten thousand requests, which a small network answers in less time."""
    server = SERVERS["involution"]
    _need("wrk", server.package)
    wanted = 200 if small else _REQUESTS
    with tempfile.TemporaryDirectory(prefix="involution-bench-") as name:
        folder = Path(name)
        script = _script(folder, server.kind, _image())
        with running(server, folder, _file(folder, True), torch.get_num_threads()) as (address, process):
            done = 0
            while done < wanted / 10:
                done += _wrk(address, script, 8, 1)["requests"]
            before, done = _resident(process), 0
            while done < wanted:
                done += _wrk(address, script, 8, 5)["requests"]
            after = _resident(process)
        yield {
            "measure": "memory",
            "layer": "rednet_nano",
            "batch": 8,
            "candidate": server.name,
            "requests": done,
            "before_mb": round(before / 1e3, 1),
            "after_mb": round(after / 1e3, 1),
            "growth": round(after / before - 1, 4),
        }


def _need(program: str, package: str) -> None:
    if shutil.which(program) is None:
        raise StudyError(f"{program} is not installed; in Debian apt-get install {program}")
    if not is_installed(package):
        raise StudyError(f"{package} is not installed; pip install {package}")


def _file(folder: Path, small: bool) -> Path:
    """An exported network with random weights."""
    from involution.models import fuse
    from involution.studies.workloads import NETWORKS, TINY_NETWORKS

    which = TINY_NETWORKS if small else NETWORKS
    name, side = which.rednet[0], 64 if small else which.size
    network = which.build()[which.rednet[1]].eval()
    classes = int(network(torch.zeros(1, 3, side, side)).shape[1])
    statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    labels = [str(number) for number in range(classes)]
    card = ModelCard("classify", name, {}, labels, (3, side, side), *statistics, "bilinear", 0.875, {}, {})
    fuse(network)
    graph = dense_graph(network, card, (2, 3, side, side), {0: "batch"}, False)
    inputs = [{"name": "images", "dtype": "float32", "shape": ["batch", 3, side, side]}]
    about: Any = (card.task, name, labels, [], preprocessing(card, ()), inputs, list(graph.outputs), None, name, {})
    file = folder / "network.onnx"
    get_format("onnx").require(True)
    get_format("onnx").write(graph, Metadata(*about).to_json(), file, Settings(operators="library"))
    return file


def _image() -> bytes:
    import PIL.Image
    from sklearn.datasets import load_sample_images

    content = io.BytesIO()
    PIL.Image.fromarray(load_sample_images().images[0]).save(content, "JPEG", quality=90)
    return content.getvalue()


def _script(folder: Path, kind: str, content: bytes) -> Path:
    """What tells wrk to send a body."""
    body, script = folder / "body", folder / "post.lua"
    body.write_bytes(content)
    script.write_text(_SCRIPT.format(body=body, kind=kind), encoding="utf-8")
    return script


def _wrk(address: str, script: Path, clients: int, seconds: float) -> dict[str, Any]:
    options = f"-t1 -c{clients} -d{max(1, math.ceil(seconds))}s --timeout 30s --latency -s"
    words = ["wrk", *options.split(), str(script), address]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StudyError(f"wrk failed: {(done.stderr or done.stdout).strip()[:200]}")
    found = read_wrk(done.stdout)
    # what is refused is not served
    if 20 * found["refused"] > found["requests"]:
        raise StudyError(f"{found['refused']} of {found['requests']} requests were refused")
    return found


def read_wrk(text: str) -> dict[str, Any]:
    """Requests, those a second, milliseconds by percentile and how many were refused, from what wrk prints.

    Raises:
        StudyError: for a text that wrk does not print, and where no request was answered.
    """
    cuts = {cut: (value, unit) for cut, value, unit in re.findall(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s|m) *$", text, re.M)}
    total = re.search(r"^\s+(\d+) requests in", text, re.M)
    rate = re.search(r"^Requests/sec:\s+([\d.]+)", text, re.M)
    if total is None or rate is None or set(cuts) != {"50", "99"} or not int(total[1]):
        raise StudyError(f"no request was answered: {' '.join(text.split())[:200]}")
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    late = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    return {
        "requests": int(total[1]),
        "requests_s": float(rate[1]),
        **{f"p{cut}_ms": round(float(value) * _UNITS[unit], 3) for cut, (value, unit) in cuts.items()},
        "refused": (int(refused[1]) if refused else 0) + (sum(map(int, late.groups())) if late else 0),
    }


def _descendants(process: Any) -> set[int]:
    """Ids of a process and of those that it started."""
    parents = {pid: int(status["PPid"]) for pid, status in _status().items()}
    ours = {process.pid}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return ours


def _resident(process: Any) -> int:
    """Kilobytes that a process and those that it started have in memory."""
    status = _status()
    return sum(int(status[pid].get("VmRSS", 0)) for pid in _descendants(process) if pid in status)


def _status() -> dict[int, dict[str, str]]:
    """Parent and memory of every process of this machine."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            status = (place / "status").read_text()
            found[int(place.name)] = dict(re.findall(r"^(PPid|VmRSS):\s+(\d+)", status, re.M))
    return found


def _targets(rows: Sequence[Mapping[str, Any]]) -> list[Target]:
    """Compare a run's rows with the project's targets."""
    ours = [row for row in rows if row.get("candidate") == SERVERS["involution"].name]
    served = {row["batch"]: row for row in ours if "refused" in row}
    memory = [abs(row["growth"]) for row in rows if "growth" in row]
    some = [served[32]["of_predictor"]] if 32 in served else []
    found = target("throughput at 32 clients ÷ the predictor's best", some, least=0.9)
    some = [served[1]["p99_over_predictor"]] if 1 in served else []
    found += target("p99 at 1 client ÷ the predictor's time", some, most=1.2)
    return found + target("memory after 10,000 requests: change", memory, most=0.02)


SUITE = Suite((*SERVERS, "memory"), _plan, _targets, minutes=(14, 3), on_cpu=True)

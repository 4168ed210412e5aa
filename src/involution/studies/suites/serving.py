"""`involution serve` under load: against its own predictor in this process, and against LitServe with the same network.

wrk asks over this machine's loopback, each client as soon as it has its answer. The network is RedNet-50 with random
weights as `involution export` writes it for ONNX Runtime; the image is a photograph as a JPEG file.
"""

from __future__ import annotations

import base64
import io
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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

_CLIENTS = (1, 2, 4, 8, 16, 32)
_BATCH = 16
_REQUESTS = 10_000
_SERVERS = {"involution": "involution serve", "litserve": "LitServe"}
# the image goes as it is; wrk's own body is text
_SCRIPT = """wrk.method = "POST"
wrk.headers["content-type"] = "{kind}"
wrk.body = io.open("{image}", "rb"):read("*a")
"""
_KINDS = {".jpg": "application/octet-stream", ".json": "application/json"}
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
# the smallest server of LitServe's documentation, around the same predictor
_LITSERVE = """
import base64, sys
import litserve
from involution.engine.predictor import Encoded
from involution.export.load import load_exported
from involution.export.threads import use_threads

class Api(litserve.LitAPI):
    def setup(self, device):
        use_threads(int(sys.argv[3]))
        self.predictor = load_exported(sys.argv[1], "onnx")

    def decode_request(self, request):
        return Encoded("image", base64.b64decode(request["image"]))

    def batch(self, inputs):
        return inputs

    def predict(self, images):
        return [one.row() for one in self.predictor.stream(images, batch_size=len(images))]

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return output

if __name__ == "__main__":
    api = Api(max_batch_size=16, batch_timeout=0.005, enable_async=False)
    server = litserve.LitServer(api, accelerator="cpu", timeout=60)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="error")
"""


def _plan(options: Options) -> Iterator[Measurement]:
    settings = options.filled(seconds=1.0 if options.dry_run else 6.0)
    small = options.dry_run
    for part in settings.parts:
        minutes = 0 if small else {"memory": 1.0}.get(part, 1.5)
        rows = partial(_memory, small) if part == "memory" else partial(_served, part, small, settings.seconds)
        yield Measurement(part, rows, minutes)


def _served(part: str, small: bool, seconds: float) -> Iterator[Row]:
    _need("wrk", part)
    with tempfile.TemporaryDirectory(prefix="involution-bench-") as name:
        folder = Path(name)
        file, image = _file(folder, small), _image(folder)
        alone, best, rows = _in_process(file, image, seconds)
        if part == "involution":
            yield from rows
        if part == "litserve":
            # what LitServe takes unless it is told otherwise
            image = image.with_suffix(".json")
            content = base64.b64encode(image.with_suffix(".jpg").read_bytes()).decode()
            image.write_text(f'{{"image": "{content}"}}', encoding="utf-8")
        with _server(part, folder, file) as (address, _):
            _wrk(address, folder, image, 1, 1)
            for clients in (1, 2) if small else _CLIENTS:
                found = _wrk(address, folder, image, clients, seconds)
                yield {
                    "measure": "served",
                    "layer": "rednet_nano" if small else "RedNet-50",
                    "batch": clients,
                    "candidate": _SERVERS[part],
                    **found,
                    "of_predictor": round(found["requests_s"] / best, 3),
                    "p99_over_predictor": round(found["p99_ms"] / alone, 3),
                }


def _in_process(file: Path, image: Path, seconds: float) -> tuple[float, float, list[Row]]:
    """Milliseconds of one image, images a second at best, and the rows of both."""
    predictor, content = load_exported(file, "onnx"), image.read_bytes()
    rows: list[dict[str, Any]] = []
    for batch in (1, 4, _BATCH):
        images = [Encoded("image", content)] * batch
        times: list[float] = []
        list(predictor.stream(images, batch_size=batch))
        end = time.perf_counter() + seconds / 2
        while len(times) < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            list(predictor.stream(images, batch_size=batch))
            times.append(1e3 * (time.perf_counter() - start))
        row = {"measure": "in process", "layer": "network", "batch": batch, "candidate": "predictor"}
        rows.append({**row, **percentiles(times, "ms", 3)})
        rows[-1]["requests_s"] = round(1e3 * batch / rows[-1]["p50_ms"], 2)
    return rows[0]["p50_ms"], max(row["requests_s"] for row in rows), rows


def _memory(small: bool) -> Iterator[Row]:
    """What a server keeps after ten thousand requests, which a small network answers in less time."""
    _need("wrk", "memory")
    wanted = 200 if small else _REQUESTS
    with tempfile.TemporaryDirectory(prefix="involution-bench-") as name:
        folder = Path(name)
        file, image = _file(folder, True), _image(folder)
        with _server("involution", folder, file) as (address, process):
            done = 0
            while done < wanted / 10:
                done += _wrk(address, folder, image, 8, 1)["requests"]
            before, done = _resident(process), 0
            while done < wanted:
                done += _wrk(address, folder, image, 8, 5)["requests"]
            after = _resident(process)
        yield {
            "measure": "memory",
            "layer": "rednet_nano",
            "batch": 8,
            "candidate": _SERVERS["involution"],
            "requests": done,
            "before_mb": round(before / 1e3, 1),
            "after_mb": round(after / 1e3, 1),
            "growth": round(after / before - 1, 4),
        }


def _need(program: str, part: str) -> None:
    if shutil.which(program) is None:
        raise StudyError(f"{program} is not installed; in Debian apt-get install {program}")
    if part == "litserve" and not is_installed("litserve"):
        raise StudyError("litserve is not installed; pip install litserve")


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


def _image(folder: Path) -> Path:
    import PIL.Image
    from sklearn.datasets import load_sample_images

    content = io.BytesIO()
    PIL.Image.fromarray(load_sample_images().images[0]).save(content, "JPEG", quality=90)
    file = folder / "image.jpg"
    file.write_bytes(content.getvalue())
    return file


@contextmanager
def _server(part: str, folder: Path, file: Path) -> Iterator[tuple[str, Any]]:
    """A server's address for predictions, and its process."""
    import socket
    import urllib.request

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = str(torch.get_num_threads())
    words = ["-m", "involution", "serve", str(file), "--port", str(port), "--threads", threads]
    if part == "litserve":
        script = folder / "server.py"
        script.write_text(_LITSERVE, encoding="utf-8")
        words = [str(script), str(file), str(port), threads]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, *words], stdout=log, stderr=log, start_new_session=True)
        try:
            path = "health/ready" if part == "involution" else "health"
            end = time.monotonic() + 60
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5):
                        break
                except OSError as error:
                    if process.poll() is not None or time.monotonic() > end:
                        said = (folder / "log").read_text(errors="replace").strip().splitlines() or ["?"]
                        raise StudyError(f"{_SERVERS[part]} does not start: {said[-1][:200]}") from error
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/predict", process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            # LitServe leaves processes of its own behind
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wrk(address: str, folder: Path, image: Path, clients: int, seconds: float) -> dict[str, Any]:
    script = folder / "post.lua"
    script.write_text(_SCRIPT.format(image=image, kind=_KINDS[image.suffix]), encoding="utf-8")
    duration = max(1, math.ceil(seconds))
    words = [
        "wrk",
        "-t1",
        f"-c{clients}",
        f"-d{duration}s",
        "--timeout",
        "30s",
        "--latency",
        "-s",
        str(script),
        address,
    ]
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
    cuts = {cut: (value, unit) for cut, value, unit in re.findall(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s|m)$", text, re.M)}
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


def _resident(process: Any) -> int:
    """Kilobytes that a process and those that it started have in memory."""
    parents, sizes = {}, {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            status = (place / "status").read_text()
        except OSError:
            continue
        found = dict(re.findall(r"^(PPid|VmRSS):\s+(\d+)", status, re.M))
        parents[int(place.name)], sizes[int(place.name)] = int(found["PPid"]), int(found.get("VmRSS", 0))
    ours = {process.pid}
    for _ in parents:
        more = {pid for pid, parent in parents.items() if parent in ours} - ours
        if not more:
            break
        ours |= more
    return sum(sizes.get(pid, 0) for pid in ours)


def _targets(rows: Sequence[Mapping[str, Any]]) -> list[Target]:
    """Compare a run's rows with the project's targets."""
    served = {row["batch"]: row for row in rows if row.get("candidate") == _SERVERS["involution"] and "refused" in row}
    memory = [abs(row["growth"]) for row in rows if "growth" in row]
    some = [served[32]["of_predictor"]] if 32 in served else []
    found = target("throughput at 32 clients ÷ the predictor's best", some, least=0.9)
    some = [served[1]["p99_over_predictor"]] if 1 in served else []
    found += target("p99 at 1 client ÷ the predictor's time", some, most=1.2)
    return found + target("memory after 10,000 requests: change", memory, most=0.02)


SUITE = Suite((*_SERVERS, "memory"), _plan, _targets, minutes=(8, 3), on_cpu=True)

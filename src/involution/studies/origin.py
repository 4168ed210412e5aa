"""Where rows of results come from, and where they go: machine, kernels, versions; CSV files and their names."""

from __future__ import annotations

import csv
import datetime
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from involution import __version__
from involution.engine.files import atomic_path
from involution.ops.backends import serving

# glibc gives large tensors back to the system at each call, and their fresh pages would be most of what is timed;
# the profiler behind the memory figures would log each start and stop
ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "KINETO_LOG_LEVEL": "6",
    # what was allocated before it started is no news either
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
# beside torch's; they stand in a row where they are installed
_PACKAGES = ("triton", "timm", "torchvision")


def kernels() -> str:
    """Return which kernels serve on the GPU, or without one on the CPU: ``triton``, ``avx512`` and so on, ``plain``."""
    return serving("involution2d", "cuda" if torch.cuda.is_available() else "cpu").tag


@cache
def cpu_name() -> str:
    """Return the processor's model, with family and model number: hypervisors shorten its name to a brand."""
    cpuinfo = Path("/proc/cpuinfo")
    fields = _fields(cpuinfo.read_text(encoding="utf-8", errors="replace")) if cpuinfo.exists() else {}
    if "model name" not in fields:
        fields = _fields(_output("lscpu"))
    name = fields.get("model name") or _output("sysctl", "-n", "machdep.cpu.brand_string")
    if "cpu family" in fields and "model" in fields:
        name += f" (family {fields['cpu family']}, model {fields['model']})"
    return name or platform.processor() or platform.machine()


@cache
def caches() -> str:
    """Return the sizes of the first core's caches, such as ``L1 32K, L2 1024K``; nothing where Linux does not say."""
    found = []
    for folder in sorted(_CACHES.glob("index*")):
        names = ("level", "type", "size")
        try:
            level, kind, size = ((folder / name).read_text(encoding="ascii").strip() for name in names)
        except OSError:
            continue
        found += [f"L{level} {size}"] if kind != "Instruction" else []
    return ", ".join(found)


def _fields(text: str) -> dict[str, str]:
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {key.strip().lower(): value.strip() for key, value in pairs}


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def device_name() -> str:
    """Return the GPU's name, or the processor's."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()


def provenance() -> dict[str, Any]:
    """Return the columns that every row has: date, device, processor, threads, kernels and versions."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "device": device_name(),
        "cpu": f"{cpu_name()}, {torch.backends.cpu.get_cpu_capability()}",
        **({"caches": found_caches} if (found_caches := caches()) else {}),
        "threads": torch.get_num_threads(),
        "kernels": kernels(),
        "torch": torch.__version__,
        **found,
        "involution": __version__,
    }


def machine() -> str:
    """Return in words on what is measured."""
    return f"{device_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}, kernels {kernels()}"


def start_for_measuring(*, dry_run: bool = False, on_cpu: bool = False) -> None:
    """Start this process anew, with the same arguments, unless `ENVIRONMENT` is set already.

    The allocator and the profiler read it only when a process starts, and so does Triton whether it shall interpret
    its kernels, as a dry run without a GPU does. What is measured on the CPU sees no GPU.
    """
    wanted = ENVIRONMENT | ({"TRITON_INTERPRET": "1"} if dry_run and not torch.cuda.is_available() else {})
    missing = {name: value for name, value in wanted.items() if name not in os.environ}
    if on_cpu and torch.cuda.is_available():
        missing["CUDA_VISIBLE_DEVICES"] = ""
    if missing:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **missing})


def file_name(study: str, *parts: str) -> str:
    """Return the name of a file of results without its ending, by the one rule.

    ``STUDY[-PART...]_MACHINE-KERNELS_torchVERSION``: ``cpu_amd-epyc-avx512_torch2.14.1``,
    ``operator-contiguous_nvidia-h100-triton_torch2.14.1``.
    """
    name = re.sub(r"\(.*?\)|@.*|\b(CPU|Processor|\d+-Core)\b", " ", device_name())
    device = re.sub(r"[\W_]+", "-", name.lower()).strip("-")
    return f"{'-'.join([study, *parts])}_{device}-{kernels()}_torch{torch.__version__.split('+')[0]}"


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]], *, replace: bool = False) -> None:
    """Write result rows, each with its provenance, to a CSV file that is whole or not there.

    Args:
        path: the file.
        rows: the results.
        replace: replace a file of that name even if it was made elsewhere, such as a result that is kept in git.
    """
    origin = provenance()
    # a row that was measured with other threads says so itself
    table = [{**row, **{key: value for key, value in origin.items() if key not in row}} for row in rows]
    with atomic_path(path, replace=replace) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(key for row in table for key in row)))
        writer.writeheader()
        writer.writerows(table)


def read_csv(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file as they were measured: numbers as numbers, nothing for an empty cell."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: _value(key, cell) for key, cell in row.items() if key and cell} for row in csv.DictReader(file)]


# words that may look like numbers
_WORDS = {"setting", "accuracies", "psnrs", "ssims", "torch", "date", *_PACKAGES, "involution"}


def _value(key: str, cell: str) -> Any:
    if cell in ("True", "False"):
        return cell == "True"
    for kind in (int, float) if key not in _WORDS else ():
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell

"""The suites of benchmarks. A new one is a file here that makes a `Suite` called ``SUITE``, and a line in `SUITES`."""

from __future__ import annotations

import math
from importlib import import_module
from typing import TYPE_CHECKING, Any

from involution.studies.errors import StudyError

if TYPE_CHECKING:
    from involution.studies.harness import Options, Suite

SUITES = {
    "operator": "the operator against eager unfold, on any device and in both memory orders",
    "cpu": "the CPU kernels against PyTorch's alternatives, and whole networks",
    "growth": "time and memory of a layer against image, batch, channels, kernel, groups and threads",
    "gpu": "the GPU kernels against PyTorch's alternatives, and whole networks",
    "scale": "training on 1, 2 and 4 processes of this machine, by DDP and FSDP2",
    "deployment": "RedNet-50 against ResNet-50 in PyTorch, ONNX Runtime, OpenVINO and AOTInductor",
    "serving": "involution serve under load, against its predictor in process, LitServe and BentoML",
    "detection": "the published detectors against torchvision's with a ResNet-50",
}
"""The names of the files here, and what each measures."""


def load(name: str) -> Suite:
    """Return a suite by its name in `SUITES`."""
    found: Suite = import_module(f"{__name__}.{name}").SUITE
    return found


def default() -> str:
    """Return the name of the suite that says most about this machine."""
    import torch

    from involution.studies.origin import kernels

    if not torch.cuda.is_available():
        return "cpu"
    return "gpu" if kernels() in ("cuda", "triton") else "operator"


def add_arguments(parser: Any) -> None:
    """Add a suite's name and the options that all suites have to a parser, argparse's or jsonargparse's."""
    titles = "; ".join(f"{name}: {title}" for name, title in SUITES.items())
    parser.add_argument("suite", nargs="?", choices=list(SUITES), help=f"{titles}; by default chosen for this machine")
    parser.add_argument("--quick", action="store_true", help="only the most important measurements, about a minute")
    parser.add_argument("--only", nargs="+", metavar="PART", default=[], help="parts of a suite, such as operator")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[], help="batch sizes; by default the suite's")
    parser.add_argument("--seconds", type=float, help="minimum time per measurement; by default the suite's")
    parser.add_argument("--rounds", type=int, help="minimum rounds per measurement; by default the suite's")
    parser.add_argument("--minutes", type=float, help="start no measurement after this many; by default the suite's")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile; compiling takes minutes")
    parser.add_argument("--threads", type=int, help="CPU threads; by default PyTorch's choice")
    parser.add_argument(
        "--dry-run", action="store_true", help="the smallest sizes, to check that everything works; writes nothing"
    )


def options(args: Any) -> Options:
    """Return what the arguments ask for, having set the number of threads.

    Raises:
        StudyError: For numbers that make no sense.
    """
    import torch

    from involution.studies.harness import Options

    check_numbers(args.batch_size, args.seconds or 0, args.threads)
    if args.rounds is not None and args.rounds < 2:
        raise StudyError(f"--rounds must be 2 or more, got {args.rounds}")
    if args.threads:
        torch.set_num_threads(args.threads)
    return Options(
        quick=args.quick,
        dry_run=args.dry_run,
        parts=tuple(dict.fromkeys(args.only)),
        batches=tuple(dict.fromkeys(args.batch_size)),
        seconds=args.seconds,
        rounds=args.rounds,
        minutes=args.minutes,
        compiled=args.compile,
    )


def check_numbers(batches: list[int], seconds: float, threads: int | None) -> None:
    """Raise `StudyError` for batch sizes, a time or a number of threads that make no sense."""
    if min(batches, default=1) < 1:
        raise StudyError(f"--batch-size must be 1 or more, got {min(batches)}")
    if not (math.isfinite(seconds) and seconds >= 0):
        raise StudyError(f"--seconds must be 0 or more, got {seconds}")
    if threads is not None and threads < 1:
        raise StudyError(f"--threads must be 1 or more, got {threads}")


def results_name(name: str, asked: Options) -> str:
    """Return the name of the file of a run's results, without its ending."""
    from involution.studies.origin import file_name

    return file_name(name, *asked.parts, *(["quick"] if asked.quick else []))

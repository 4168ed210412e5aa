"""Time the operator on the layers of RedNet-50, and whole networks, on this machine against PyTorch's other ways.

Uses a GPU where torch can use one, else the C++ kernels, else the plain forms. Everything is checked before it is
timed, candidates take turns in one process, and ratios are of the same round. Writes bench.csv, bench.md and bench.png,
which shows the share of the machine's measured limits (a matrix product's speed, a copy's bandwidth) that is reached.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def add_arguments(parser: Any) -> None:
    """Options of the benchmark."""
    parser.add_argument(
        "--quick", action="store_true", help="about a minute: batch 1, short measurements; without it some 20 minutes"
    )
    parser.add_argument("--batch", type=int, nargs="+", help="batch sizes on a CPU; by default 1 8 16, or 1 if quick")
    parser.add_argument(
        "--seconds", type=float, help="time for each measurement on a CPU; by default 1, or 0.05 if quick"
    )
    parser.add_argument("--no-networks", action="store_true", help="only the operator's layers")
    parser.add_argument("--threads", type=int, help="of the CPU; by default PyTorch's choice")
    parser.add_argument("--output", metavar="DIR", default="runs/bench", help="folder for the files")


def run(args: Any) -> int:
    """Measure, print the tables and write them; returns 0, or 130 when interrupted, with what was measured written.

    Where memory ends it is the same, with 1.
    """
    # what is missing shall be missed before the work
    import matplotlib  # noqa: F401
    import torch
    from rich.console import Console

    from involution.cli.measuring import Steps, check_measuring, show
    from involution.engine.files import make_folder
    from involution.studies import bench
    from involution.studies.environment import kernels, out_of_memory
    from involution.studies.timing import device_name

    if not args.no_networks:
        import timm  # noqa: F401
        import torchvision  # noqa: F401
    batches = list(dict.fromkeys(args.batch or ([1] if args.quick else [1, 8, 16])))
    seconds = args.seconds if args.seconds is not None else 0.05 if args.quick else 1.0
    output = Path(args.output)
    make_folder(output)
    check_measuring("bench", batches, seconds, args.threads)
    if args.threads:
        torch.set_num_threads(args.threads)
    console = Console()
    machine = f"{device_name()}, torch {torch.__version__}, kernels {kernels()}"
    console.print(machine, highlight=False, markup=False, soft_wrap=True)
    rows: list[dict[str, Any]] = []
    networks = not args.no_networks
    total = bench.measurements(batches, quick=args.quick, networks=networks)
    why, code = "", 0
    with Steps(total, "checking and warming up") as steps:
        last = ""
        try:
            for row in bench.run(batches, quick=args.quick, seconds=seconds, networks=networks):
                rows.append(row)
                if (now := bench.measurement(row)) != last:
                    last = now
                    steps.say(now)
        except KeyboardInterrupt:
            why, code = "interrupted", 130
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            why, code = "not enough memory, try a smaller --batch", 1
    if not rows:
        print(f"{why}; nothing was measured", file=sys.stderr)
        return code
    show(console, bench.ratio_table(rows))
    found = bench.limits(rows)
    if found:
        show(console, bench.limit_table(found))
    written = ", ".join(_write(output, rows, machine))
    if code:
        print(f"{why}; what was measured is in {output}: {written}", file=sys.stderr)
        return code
    console.print(f"written to {output}: {written}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _write(output: Path, rows: list[dict[str, Any]], machine: str) -> list[str]:
    from involution.engine.files import atomic_path
    from involution.studies import bench, plots
    from involution.studies.timing import provenance, write_csv

    write_csv(output / "bench.csv", rows)
    with atomic_path(output / "bench.md") as temporary:
        temporary.write_text(bench.markdown(rows, provenance()), encoding="utf-8")
    figure = plots.limits_figure(bench.limits(rows), machine)
    if figure is None:
        return ["bench.csv", "bench.md"]
    plots.save(figure, output / "bench.png")
    return ["bench.csv", "bench.md", "bench.png"]

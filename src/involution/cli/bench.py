"""Time the operator, whole networks or detectors on this machine against PyTorch's alternatives.

Without the name of a suite it measures the GPU if torch can use one, and otherwise the CPU. Everything is checked
before it is timed, candidates take turns in one process, and a ratio compares times of the same round. Writes a CSV
file, the tables in Markdown, and a plot of how close the kernels come to this machine's measured limits (the speed of a
matrix product, the bandwidth of a copy), or of growth.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from involution.cli.conditions import Condition
from involution.cli.help import add_names
from involution.extras import require

examples = ("involution bench cpu --quick", "involution bench gpu --only operator")


def _in(*suites: str) -> Any:
    """What says whether the suite is one of these."""

    def used(args: Any) -> bool:
        from involution.studies.suites import default

        return (args.suite or default()) in suites

    return used


conditions = (
    Condition("compile", _in("cpu", "gpu"), "in other suites than cpu and gpu"),
    Condition(
        "seconds",
        _in("operator", "cpu", "growth", "deployment", "detection"),
        "in the suites gpu and scale; see --rounds",
    ),
)


def add_arguments(parser: Any) -> None:
    """Add the options of the benchmarks."""
    from involution.studies import suites

    suites.add_arguments(parser)
    parser.add_argument("--output", metavar="FOLDER", default="runs/bench", help="output folder")
    add_names(parser, {"--batch": "--batch-size"})


def run(args: Any) -> int:
    """Measure, print the tables and write them.

    Returns:
        0; 1 if something could not be measured; 130 if interrupted, after writing what was measured.
    """
    # report a missing package before the work starts
    require("matplotlib", "timm", "torchvision")
    from rich.console import Console

    from involution.cli.measuring import STUDY_ENDINGS, Steps, show, start_as_command, write_study
    from involution.engine.files import Origin, made_of
    from involution.engine.outputs import free_names
    from involution.studies import bench_table, harness, origin, plots, suites

    options = suites.options(args)
    name = args.suite or suites.default()
    suite = suites.load(name)
    plan = suite.measurements(options)
    output = Path(args.output)
    settings = [*(f"--only {part}" for part in options.parts), *(f"--batch-size {size}" for size in options.batches)]
    settings += [f"--{name}" for name in ("quick", "compile") if args[name]]
    settings += [f"--threads {args.threads}"] if args.threads else []
    made_from = Origin("bench", (name, *settings))
    (file,) = free_names(output, [(suites.results_name(name, options), made_from)], STUDY_ENDINGS)
    start_as_command("bench", dry_run=options.dry_run, on_cpu=suite.on_cpu)
    console = Console()
    console.print(f"{name}: {origin.machine()}", highlight=False, markup=False, soft_wrap=True)
    rows: list[harness.Row] = []
    code = 0
    with Steps(len(plan), "checking and warming up") as steps:
        try:
            for row in harness.run(plan, suite.limit(options), steps.say):
                rows.append(row)
        except KeyboardInterrupt:
            code = 130
    missing = bench_table.notes(rows)
    for line in missing:
        print(line, file=sys.stderr)
    if len(rows) > len(missing):
        for table in bench_table.tables(rows):
            show(console, table)
    written = "nothing is written"
    if rows and not options.dry_run:
        if targets := suite.targets(rows):
            show(console, bench_table.target_table(targets))
        figure = plots.limits_figure(bench_table.limits(rows), origin.machine())
        figure = figure or plots.growth_figure(rows, origin.machine())
        text = bench_table.markdown(rows, name)
        with made_of(made_from):
            written = write_study(output, file, rows, text, figure)
    if code == 130:
        print(f"interrupted; {written}", file=sys.stderr)
    else:
        console.print(written, highlight=False, markup=False, soft_wrap=True)
    return code or int(harness.failed(rows))

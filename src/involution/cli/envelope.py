"""`involution ablate --study envelope`: accuracy against cost of involution, convolutions and both together."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from involution.extras import require


def run(args: Any) -> int:
    """Train the missing networks, time them, print the tables and write them; returns 0, or 130 if interrupted."""
    require("timm", "sklearn", "scipy", "matplotlib", "PIL")
    from rich.console import Console

    from involution.cli.measuring import STUDY_ENDINGS, Steps, show, write_study
    from involution.engine.files import check_free
    from involution.studies import records
    from involution.studies.envelope import figure, runs, table
    from involution.studies.errors import StudyError
    from involution.studies.workers import MOST_PROCESSES, cores

    if args.print_study:
        raise StudyError("--print-study prints a study's YAML file, and envelope has none; choose another --study")
    plan = runs.Plan() if args.seeds is None else runs.Plan(seeds=args.seeds)
    if args.jobs is not None and args.jobs < 1:
        raise StudyError(f"--jobs must be 1 or more, got {args.jobs}")
    output, console = Path(args.output or "runs/envelope"), Console()
    if args.cost_only and not args.only:
        show(console, table.accuracy_table(table.rows(plan, {})))
        return 0
    records.check_study_folder(output)
    for ending in (*STUDY_ENDINGS, "-light.png", "-dark.png"):
        check_free(output / f"envelope{ending}")
    runs.claim_folder(output)
    found, total = runs.read_all(plan, output), len(plan.runs())
    before, jobs, interrupted = len(found), args.jobs or min(cores(), MOST_PROCESSES), False
    if args.only != "times":
        done = f", {before} of them already done" if before else ""
        _say(console, f"{total} training runs{done}, {jobs} at once, in {output}")
    times = None if args.only == "times" else runs.read_times(plan, output)
    left = 0 if args.only == "times" else total - before
    with Steps(left, "training") as steps:
        try:
            for one, record in runs.run_all(plan, output, jobs) if left else ():
                found[one] = record
                steps.say(f"{len(found)}/{total} {runs.name_of(one)}: {record['accuracy']:.1f} %")
            if times is None:
                times = runs.take_times(plan, output, steps.say)
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        print(
            f"interrupted, {len(found)} of {total} training runs are done; repeat the command to resume",
            file=sys.stderr,
        )
    if found:
        rows = table.rows(plan, found, times)
        for shown in table.tables(rows):
            show(console, shown)
        for line in table.notes(rows):
            _say(console, line)
        written = write_study(output, "envelope", rows, table.markdown(rows), figure.figure(rows))
        _say(console, ", ".join([written, *figure.write_pictures(output, rows)]))
    return 130 if interrupted else 0


def _say(console: Any, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)

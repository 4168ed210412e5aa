"""`involution ablate --study envelope`: accuracy against cost of involution, convolutions and both together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from involution.extras import require


def run(args: Any) -> int:
    """Train the missing networks, time them, print the tables and write them; returns 0, or 130 if interrupted."""
    require("timm", "sklearn", "scipy", "matplotlib", "PIL")
    from rich.console import Console

    from involution.cli.measuring import show, write_study
    from involution.cli.trainings import LOOKS, announce, check_jobs, check_study, do_trainings, say, tell
    from involution.studies.envelope import figure, runs, table
    from involution.studies.errors import StudyError
    from involution.studies.workers import default_jobs

    if args.print_study:
        raise StudyError("--print-study prints a study's YAML file, and envelope has none; choose another --study")
    plan = runs.Plan() if args.seeds is None else runs.Plan(seeds=args.seeds)
    check_jobs(args.jobs)
    output, console = Path(args.output or "runs/envelope"), Console()
    if args.cost_only and not args.only:
        show(console, table.accuracy_table(table.rows(plan, {})))
        return 0
    check_study(output, "envelope", LOOKS)
    runs.TRAININGS.claim(output)
    found = runs.TRAININGS.read_all(plan.runs(), output)
    wanted = [] if args.only == "times" else plan.runs()
    times = runs.read_times(plan, output) if wanted else None
    jobs, total = args.jobs or default_jobs(), len(wanted) or len(found)
    if wanted:
        announce(console, total, len(found), jobs, output)

    def take_times(tell_step: Any) -> None:
        nonlocal times
        times = times or runs.take_times(plan, output, tell_step)

    interrupted = do_trainings(
        runs.TRAININGS.do_missing(wanted, output, jobs),
        found,
        total,
        lambda run, record: f"{runs.name_of(run)}: {record['accuracy']:.1f} %",
        after=take_times,
    )
    if found:
        rows = table.rows(plan, found, times)
        tell(console, table.tables(rows), table.notes(rows))
        written = write_study(output, "envelope", rows, table.markdown(rows), figure.figure(rows))
        say(console, ", ".join([written, *figure.write_pictures(output, rows)]))
    return 130 if interrupted else 0

"""Take noise from photographs with kernels generated for each pixel, and compare that with learned convolutions.

Small networks learn on one of scikit-learn's two photographs and are tested on the other one, and the other way round:
for equal time, equal steps, with equal parameters, for longer, and from few pixels, with several seeds each. Shows PSNR
and SSIM, and who is ahead by how much. Takes about 10 minutes on two cores. Repeat the command to resume a stopped
study. Writes photo.csv, photo.md, photo.png, and crops side by side with the kernels as photo-light.png and
photo-dark.png.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from involution.extras import require

examples = ("involution photo --seeds 5 --seconds 20 --output runs/photo-long",)


def add_arguments(parser: Any) -> None:
    """Add the options of the study."""
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="processor time of each training where time is equal"
    )
    parser.add_argument("--steps", type=int, default=300, help="steps of each training where steps are equal")
    parser.add_argument("--seeds", type=int, default=3, help="training runs of each network")
    parser.add_argument("--jobs", type=int, help="training runs at once; by default one per core up to 4")
    parser.add_argument("--output", metavar="FOLDER", default="runs/photo", help="output folder of the study")


def run(args: Any) -> int:
    """Train the missing networks, print the tables and write them; returns 0, or 130 if interrupted."""
    require("torchmetrics", "sklearn", "PIL", "matplotlib", "safetensors")
    from rich.console import Console

    from involution.cli.measuring import write_study
    from involution.cli.trainings import LOOKS, announce, check_jobs, check_study, do_trainings, say, tell
    from involution.studies import plots
    from involution.studies.photo import pictures, runs, table
    from involution.studies.workers import default_jobs

    check_jobs(args.jobs)
    plan = runs.Plan(seconds=args.seconds, steps=args.steps, seeds=args.seeds)
    output, console = Path(args.output), Console()
    check_study(output, "photo", LOOKS)
    runs.TRAININGS.claim(output)
    found, total = runs.TRAININGS.read_all(plan.runs(), output), len(plan.runs())
    jobs = args.jobs or default_jobs()
    announce(console, total, len(found), jobs, output)
    interrupted = do_trainings(
        runs.TRAININGS.do_missing(plan.runs(), output, jobs),
        found,
        total,
        lambda run, record: f"{runs.name_of(run)}: {record['psnr']:.2f} dB",
    )
    if found:
        rows = table.rows(plan, found)
        tell(console, table.tables(rows), table.notes(rows))
        written = write_study(output, "photo", rows, table.markdown(rows), plots.photo_figure(rows))
        say(console, ", ".join([written, *pictures.write_heroes(output, plan, rows)]))
    return 130 if interrupted else 0

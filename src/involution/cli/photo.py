"""Take noise from photographs with kernels generated for each pixel, and compare that with learned convolutions.

Small networks learn on one of scikit-learn's two photographs and are tested on the other one, and the other way round:
for equal time, equal steps, with equal parameters, for longer, and from few pixels, with several seeds each. Shows PSNR
and SSIM, and who is ahead by how much. Takes about 10 minutes on two cores. Repeat the command to resume a stopped
study. Writes photo.csv, photo.md, photo.png, and crops side by side with the kernels as photo-light.png and
photo-dark.png.
"""

from __future__ import annotations

import sys
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

    from involution.cli.measuring import STUDY_ENDINGS, Steps, show, write_study
    from involution.engine.files import check_free
    from involution.studies import plots, records
    from involution.studies.errors import StudyError
    from involution.studies.photo import pictures, runs, table

    if args.jobs is not None and args.jobs < 1:
        raise StudyError(f"--jobs must be 1 or more, got {args.jobs}")
    plan = runs.Plan(seconds=args.seconds, steps=args.steps, seeds=args.seeds)
    output = Path(args.output)
    records.check_study_folder(output)
    for ending in (*STUDY_ENDINGS, "-light.png", "-dark.png"):
        check_free(output / f"photo{ending}")
    runs.claim_folder(output)
    found = dict(runs.read_all(plan, output))
    total = len(plan.runs())
    console, interrupted = Console(), False
    before, jobs = len(found), args.jobs or runs.default_jobs()
    done = f", {before} of them already done" if before else ""
    _say(console, f"{total} training runs{done}, {jobs} at once, in {output}")
    with Steps(total - before, "training") as steps:
        try:
            for one, record in runs.run_all(plan, output, jobs):
                found[one] = record
                steps.say(f"{len(found)}/{total} {runs.name_of(one)}: {record['psnr']:.2f} dB")
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        print(
            f"interrupted, {len(found)} of {total} training runs are done; repeat the command to resume",
            file=sys.stderr,
        )
    if found:
        rows = table.rows(plan, found)
        for shown in table.tables(rows):
            show(console, shown)
        for line in table.notes(rows):
            _say(console, line)
        written = write_study(output, "photo", rows, table.markdown(rows), plots.photo_figure(rows))
        drawn = pictures.write_heroes(output, plan, rows)
        _say(console, ", ".join([written, *drawn]))
    return 130 if interrupted else 0


def _say(console: Any, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)

"""Train a network under many settings and compare them: the ablations of the involution paper, or a study of your own.

Without options it trains a small RedNet on built-in images, varies kernel size, group channels and kernel generator,
with several seeds each, and shows for each setting its cost in RedNet-50 and the accuracy it reached here. It also says
whether the settings differ by more than the seeds do. Repeat the command to resume a stopped study. Writes ablate.csv,
ablate.md and ablate.png.

--study envelope compares involution with 3×3 and depthwise 7×7 convolutions and with both together: networks of four
widths each, on three small tasks, with their accuracy against parameters, multiply-adds and measured time. It takes
about 10 minutes on two cores, and writes envelope.csv, envelope.md and pictures.

A study of your own is a YAML file; --print-study prints the packaged one as an example. It names a recipe of
`involution classify train`, settings for all runs, and axes: settings with their values, which an axis combines.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from involution.cli.conditions import Condition
from involution.extras import require

examples = (
    "involution ablate --cost-only",
    "involution ablate --data imagefolder:photos --seeds 2",
    "involution ablate --study envelope",
)
conditions = (
    Condition("seeds jobs output", lambda args: not args.cost_only, "with --cost-only"),
    Condition("data recipe set seeds jobs output cost_only", lambda args: not args.print_study, "with --print-study"),
    Condition("data recipe set", lambda args: args.study != "envelope", "with --study envelope"),
    Condition("only", lambda args: args.study == "envelope", "without --study envelope"),
    Condition("jobs cost_only", lambda args: not args.only, "with --only"),
)
_OUTPUT = "runs/ablate"


def add_arguments(parser: Any) -> None:
    """Add the options of the study."""
    parser.add_argument("--study", metavar="NAME_OR_FILE", default="paper", help="paper, envelope, or a YAML file")
    parser.add_argument("--print-study", action="store_true", help="print the study file and exit")
    parser.add_argument(
        "--data", metavar="SPEC", help="other images: digits, imagefolder:PATH, ... as in classify train"
    )
    parser.add_argument(
        "--recipe", metavar="NAME", help="train with this recipe of classify train instead of the study's own"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings of classify train for all runs: trainer.epochs=20, model.name=rednet_micro, ...",
    )
    parser.add_argument("--seeds", type=int, help="training runs per setting; by default the study's")
    parser.add_argument(
        "--jobs", type=int, help="training runs at once; by default one per GPU, or one per core up to 4"
    )
    parser.add_argument("--cost-only", action="store_true", help="show the settings and their costs without training")
    parser.add_argument(
        "--only", choices=["times"], help="of the study envelope: train nothing, measure the networks' times again"
    )
    parser.add_argument(
        "--output", metavar="FOLDER", help=f"output folder of the study; by default {_OUTPUT}, or runs/envelope"
    )


def run(args: Any) -> int:
    """Train the missing runs, print the table and write it; returns 0, or 130 if interrupted."""
    if args.study == "envelope":
        from involution.cli import envelope

        return envelope.run(args)
    # report a missing package before the work starts
    require("matplotlib", "scipy", "timm")
    from rich.console import Console

    from involution.cli.measuring import write_study
    from involution.cli.trainings import check_jobs, check_study, say, tell
    from involution.studies import ablation, ablation_runs, ablation_table, plots

    if args.print_study:
        print(ablation.study_path(args.study).read_text(encoding="utf-8"), end="")
        return 0
    check_jobs(args.jobs)
    output, console = Path(args.output or _OUTPUT), Console()
    if not args.cost_only:
        # before the study is tried, which takes seconds
        check_study(output, "ablate")
    study = ablation.load_study(args.study).changed(
        data=args.data, recipe=args.recipe, settings=ablation.parse_settings(args.set), seeds=args.seeds
    )
    done: dict[str, Any] = {}
    interrupted = False
    if not args.cost_only:
        ablation_runs.claim_folder(study, output)
        interrupted = _train(console, study, output, args.jobs, done)
    if done or args.cost_only:
        rows = ablation_table.rows(study, done)
        tell(console, [ablation_table.table(study, rows)], ablation_table.notes(study, rows))
    if done:
        figure = plots.ablation_figure(rows, ablation_table.separations(rows))
        say(console, write_study(output, "ablate", rows, ablation_table.markdown(study, rows), figure))
    return 130 if interrupted else 0


def _train(console: Any, study: Any, output: Path, jobs: int | None, found: dict[str, Any]) -> bool:
    """Do the runs that are left, add all records to those found, and return whether Ctrl-C stopped it."""
    from involution.cli.trainings import announce, do_trainings
    from involution.studies import ablation_runs

    split = ablation_runs.open_data(study, output)
    runs = study.runs()
    found |= {run.name: record for run in runs if (record := ablation_runs.read_record(run, output)) is not None}
    jobs = min(jobs or ablation_runs.default_jobs(study), max(len(runs) - len(found), 1))
    announce(console, len(runs), len(found), jobs, output, f"{study.title}: ")
    return do_trainings(
        ablation_runs.run_all(study, output, split, jobs),
        found,
        len(runs),
        lambda run, record: f"{run.title}: {_result(record)}",
        key=lambda run: run.name,
    )


def _result(record: Any) -> str:
    return "diverged" if "diverged" in record else f"{100 * record['top1']:.1f} %"

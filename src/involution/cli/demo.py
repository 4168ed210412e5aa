"""Train RedNet-nano and its twin on digits, take noise from a photograph, compare, and write a report."""

from __future__ import annotations

import sys
from typing import Any

from involution.cli.help import add_names
from involution.demo import EPOCHS
from involution.extras import require

examples = ("involution demo --seeds 3",)


def add_arguments(parser: Any) -> None:
    """Add the options of the demo."""
    parser.add_argument("--seeds", type=int, default=1, help="training runs per model; figures then become mean ± std")
    how_many = f"passes over the training images (default: {EPOCHS}; the recipe has 25)"
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=how_many)
    parser.add_argument("--skip-photo", action="store_true", help="leave the photograph out, which takes about 40 s")
    parser.add_argument("--output", default="runs/demo", help="output folder; an earlier demo there is moved aside")
    add_names(parser, {"--out": "--output"})


def run(args: Any) -> int:
    """Run the demo, then print its table and the location of the report."""
    # training takes minutes: what the report needs must be there before
    require("timm", "lightning", "torchmetrics", "sklearn", "matplotlib", "jinja2", "markupsafe")
    from rich.console import Console
    from rich.table import Table

    from involution.demo.report import MEASURES, model_row, write_report
    from involution.demo.run import run_demo
    from involution.engine.callbacks import TrainingInterrupted

    console = Console()

    def say(message: str) -> None:
        console.print(message, markup=False, highlight=False, soft_wrap=True)

    try:
        result = run_demo(args.output, seeds=args.seeds, epochs=args.epochs, photo=not args.skip_photo, say=say)
    except (KeyboardInterrupt, TrainingInterrupted):
        print(f"interrupted; finished runs are in {args.output}; involution demo starts over", file=sys.stderr)
        return 130
    table = Table(title="RedNet-nano and its convolution twin on the digits' test split")
    rows = [model_row(model) for model in result.models]
    table.add_column()
    for row in rows:
        table.add_column(row["title"], justify="right")
    for key, name, unit in MEASURES:
        table.add_row(f"{name} ({unit})", *(row[key] for row in rows))
    console.print(table)
    options = [("--seeds", args.seeds, 1), ("--epochs", args.epochs, EPOCHS)]
    given = "".join(f" {name} {value}" for name, value, default in options if value != default)
    given += " --skip-photo" if args.skip_photo else ""
    report = write_report(result, f"involution demo{given}")
    say(f"{result.seconds:,.0f} s in all; open {report.resolve().as_uri()}")
    return 0

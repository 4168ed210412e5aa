"""Measure a trained detector by COCO's average precision, on the validation images of its data set or another."""

from __future__ import annotations

import json
import math
from typing import Any


def add_arguments(parser: Any) -> None:
    """Options of the evaluation."""
    parser.add_argument("--checkpoint", required=True, help="best.ckpt of a run")
    parser.add_argument("--data", metavar="SPEC", help="digit-scenes or coco:PATH; by default as in training")
    parser.add_argument("--split", default="val", choices=["train", "val"], help="which images")
    parser.add_argument("--batch-size", type=int, default=8, help="images per batch on one device")
    parser.add_argument("--workers", type=int, default=0, help="loader processes per device")
    parser.add_argument("--devices", type=int, default=1, help="devices that share the images")
    parser.add_argument("--accelerator", default="auto", help="auto, cpu, gpu or mps")
    parser.add_argument(
        "--on-problem", default="refuse", choices=["refuse", "skip"], help="what to do about malformed annotations"
    )
    parser.add_argument("--output", metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--results", metavar="FILE", help="write every detection as JSON, in COCO's results format")


def run(args: Any) -> int:
    """Evaluate and print COCO's table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from involution.engine.detect import evaluate
    from involution.engine.files import atomic_path, check_output
    from involution.engine.setup import is_main_process

    console = Console()
    for path in (args.output, args.results):
        if path:
            check_output(path)
    found = evaluate(
        args.checkpoint,
        args.data,
        args.split,
        batch_size=args.batch_size,
        workers=args.workers,
        devices=args.devices,
        accelerator=args.accelerator,
        on_problem=args.on_problem,
        progress=console.is_interactive,
    )
    if not is_main_process():
        return 0
    table = Table(title=Text(f"{args.checkpoint}, {found.split} split"))
    table.add_column("%")
    columns = ("AP", "AP50", "AP75", "AP small", "AP medium", "AP large", "AR100")
    for column in columns:
        table.add_column(column, justify="right")
    for name, figures in (("boxes", found.bbox), ("masks", found.segm)):
        if figures is not None:
            cells = (figures[column.lower().replace(" ", "_")] for column in columns)
            table.add_row(name, *("–" if math.isnan(cell) else f"{100 * cell:.1f}" for cell in cells))
    console.print(table)
    console.print(f"{found.num_images:,} images, {found.images_per_second:,.1f} images/s", highlight=False)
    if args.output:
        content = {
            "checkpoint": str(args.checkpoint),
            "split": found.split,
            "num_images": found.num_images,
            "bbox": _plain(found.bbox),
            "segm": None if found.segm is None else _plain(found.segm),
        }
        with atomic_path(args.output) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if args.results:
        with atomic_path(args.results) as temporary:
            temporary.write_text(json.dumps(found.results) + "\n", encoding="utf-8")
    return 0


def _plain(figures: dict[str, float]) -> dict[str, float | None]:
    # JSON has no NaN
    return {name: None if math.isnan(value) else value for name, value in figures.items()}

"""Measure a trained classifier on the test images of its data set, or of another one."""

from __future__ import annotations

import json
from typing import Any


def add_arguments(parser: Any) -> None:
    """Options of the evaluation."""
    parser.add_argument("--checkpoint", required=True, help="best.ckpt of a run")
    parser.add_argument("--data", metavar="SPEC", help="digits, imagefolder:PATH, ...; by default as in training")
    parser.add_argument("--split", default="test", choices=["train", "val", "test"], help="which images")
    parser.add_argument("--batch-size", type=int, default=64, help="images per batch on one device")
    parser.add_argument("--workers", type=int, default=0, help="loader processes per device")
    parser.add_argument("--devices", type=int, default=1, help="devices that share the images")
    parser.add_argument("--accelerator", default="auto", help="auto, cpu, gpu or mps")
    parser.add_argument("--output", metavar="FILE", help="write the figures as JSON")


def run(args: Any) -> int:
    """Evaluate and print a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from involution.engine.classify import evaluate
    from involution.engine.files import atomic_path, check_output
    from involution.engine.setup import is_main_process

    console = Console()
    if args.output:
        check_output(args.output)
    result = evaluate(
        args.checkpoint,
        args.data,
        args.split,
        batch_size=args.batch_size,
        workers=args.workers,
        devices=args.devices,
        accelerator=args.accelerator,
        progress=console.is_interactive,
    )
    if not is_main_process():
        return 0
    table = Table(title=Text(f"{args.checkpoint}, {result.split} split"))
    for column in ("images", "top-1", f"top-{min(5, len(result.classes))}", "loss", "images/s"):
        table.add_column(column, justify="right")
    table.add_row(
        f"{result.num_images:,}",
        f"{result.top1:.2%}",
        f"{result.top5:.2%}",
        f"{result.loss:.4f}",
        f"{result.images_per_second:,.0f}",
    )
    console.print(table)
    if args.output:
        figures = {
            "checkpoint": str(args.checkpoint),
            "split": result.split,
            "num_images": result.num_images,
            "top1": result.top1,
            "top5": result.top5,
            "loss": result.loss,
            "classes": result.classes,
            "confusion": result.confusion.tolist(),
        }
        with atomic_path(args.output) as temporary:
            temporary.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0

"""Measure a trained segmenter by mean IoU, on the validation images of its data set or another."""

from __future__ import annotations

import json
import math
from typing import Any


def add_arguments(parser: Any) -> None:
    """Options of the evaluation."""
    parser.add_argument("--checkpoint", required=True, help="best.ckpt of a run")
    parser.add_argument(
        "--data", metavar="SPEC", help="digit-scenes, cityscapes:PATH or masks:PATH; by default as in training"
    )
    parser.add_argument("--split", default="val", choices=["train", "val"], help="which images")
    parser.add_argument("--batch-size", type=int, default=4, help="images per batch on one device")
    parser.add_argument("--workers", type=int, default=0, help="loader processes per device")
    parser.add_argument("--devices", type=int, default=1, help="devices that share the images")
    parser.add_argument("--accelerator", default="auto", help="auto, cpu, gpu or mps")
    parser.add_argument(
        "--on-problem", default="refuse", choices=["refuse", "skip"], help="what to do about broken files"
    )
    parser.add_argument("--output", metavar="FILE", help="write the figures as JSON")


def run(args: Any) -> int:
    """Evaluate and print IoU by class."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from involution.engine.files import atomic_path, check_output
    from involution.engine.segment import evaluate
    from involution.engine.setup import is_main_process

    console = Console()
    if args.output:
        check_output(args.output)
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
    table.add_column("class")
    table.add_column("IoU %", justify="right")
    for name, value in zip(found.classes, found.iou, strict=True):
        table.add_row(Text(name), "–" if math.isnan(value) else f"{100 * value:.1f}")
    table.add_section()
    table.add_row("mean", f"{100 * found.miou:.1f}")
    console.print(table)
    rate = f"{found.num_images:,} images, {found.images_per_second:,.1f} images/s"
    console.print(f"{found.accuracy:.2%} of the pixels right, {rate}", highlight=False)
    if args.output:
        content = {
            "checkpoint": str(args.checkpoint),
            "split": found.split,
            "num_images": found.num_images,
            "miou": found.miou,
            "accuracy": found.accuracy,
            # JSON has no NaN
            "iou": {
                name: None if math.isnan(value) else value for name, value in zip(found.classes, found.iou, strict=True)
            },
            "confusion": found.confusion.tolist(),
        }
        with atomic_path(args.output) as temporary:
            temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0

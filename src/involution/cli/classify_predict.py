"""Classify image files with a trained checkpoint; prints a table and writes JSON or CSV.

Files that can't be read are reported and left out; the exit code is then 1.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from involution.engine.files import check_output
from involution.predict import (
    ClassificationResult,
    Classifier,
    PredictError,
    SkippedImage,
    find_images,
    results_format,
    write_results,
)

_MAX_ROWS = 100


def add_arguments(parser: Any) -> None:
    """Options of the prediction."""
    parser.add_argument("images", nargs="+", help="image files, folders or glob patterns such as 'photos/**/*.jpg'")
    parser.add_argument("--checkpoint", required=True, help="best.ckpt of a run")
    parser.add_argument("--topk", type=int, default=3, help="classes to tell per image")
    parser.add_argument("--output", metavar="FILE", help="write all results to FILE.json or FILE.csv")
    parser.add_argument("--batch-size", type=int, default=64, help="images per forward pass")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps, ...")


def run(args: Any) -> int:
    """Classify, print the table, write the file."""
    if args.output:
        results_format(args.output)
        check_output(args.output)
    classifier = Classifier.from_checkpoint(args.checkpoint, args.device)
    files, unmatched = find_images(args.images)
    if not files:
        raise PredictError(f"no images found in {', '.join(unmatched)}")
    for source in unmatched:
        print(f"{source}: no images found", file=sys.stderr)
    results = _classify(classifier, files, args.batch_size, args.topk)
    skipped = [result for result in results if isinstance(result, SkippedImage)]
    _print_table([result for result in results if isinstance(result, ClassificationResult)], len(skipped))
    if args.output:
        write_results(args.output, results)
    return 1 if skipped or unmatched else 0


def _classify(
    classifier: Classifier, files: Sequence[Path], batch_size: int, topk: int
) -> list[ClassificationResult | SkippedImage]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    results = []
    stream = classifier.stream(files, batch_size=batch_size, topk=topk)
    bar = track(stream, "classifying", len(files), console=console, transient=True, disable=not console.is_interactive)
    for result in bar:
        if isinstance(result, SkippedImage):
            console.print(f"skipped {result.file}: {result.reason}", markup=False, highlight=False, soft_wrap=True)
        results.append(result)
    return results


def _print_table(results: Sequence[ClassificationResult], skipped: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if results:
        table = Table()
        table.add_column("file", overflow="fold")
        for rank in range(1, len(results[0].labels) + 1):
            table.add_column("class" if rank == 1 else f"{rank}.")
            table.add_column("%", justify="right")
        for result in results[:_MAX_ROWS]:
            ranked = zip(result.labels, result.scores, strict=True)
            cells = [cell for label, score in ranked for cell in (label, f"{100 * score:.1f}")]
            table.add_row(*(Text(cell) for cell in (result.file, *cells)))
        console.print(table)
    if len(results) > _MAX_ROWS:
        console.print(f"and {len(results) - _MAX_ROWS:,} more; --output FILE.csv keeps them all", highlight=False)
    seconds = sum(result.seconds for result in results)
    rate = f", {len(results) / seconds:,.0f} images/s" if results else ""
    console.print(f"{len(results):,} classified, {skipped:,} skipped{rate}", highlight=False)

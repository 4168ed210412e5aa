"""Detect objects in image files with a trained checkpoint; prints a table, writes JSON and pictures.

Files that can't be read are reported and left out; the exit code is then 1.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

from involution.engine.files import atomic_path, check_output, make_folder
from involution.predict import (
    DetectionResult,
    Detector,
    PredictError,
    SkippedImage,
    draw_detections,
    find_images,
    write_detections,
)

_MAX_ROWS = 100


def add_arguments(parser: Any) -> None:
    """Options of the prediction."""
    parser.add_argument("images", nargs="+", help="image files, folders or glob patterns such as 'photos/**/*.jpg'")
    parser.add_argument("--checkpoint", required=True, help="best.ckpt of a run")
    parser.add_argument("--score", type=float, default=0.5, help="leave out objects that are less certain, 0 to 1")
    parser.add_argument("--output", metavar="FILE", help="write all results to FILE.json, in COCO's results format")
    parser.add_argument("--pictures", metavar="FOLDER", help="write the images with what was found drawn on them")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps, ...")


def run(args: Any) -> int:
    """Detect, print the table, write the files."""
    from rich.console import Console
    from rich.progress import track

    if args.output:
        if Path(args.output).suffix.lower() != ".json":
            raise PredictError(f"wanted an output file that ends in .json, got {args.output!r}")
        check_output(args.output)
    if args.pictures:
        make_folder(args.pictures)
    detector = Detector.from_checkpoint(args.checkpoint, args.device)
    files, unmatched = find_images(args.images)
    if not files:
        raise PredictError(f"no images found in {', '.join(unmatched)}")
    for source in unmatched:
        print(f"{source}: no images found", file=sys.stderr)
    console = Console(stderr=True)
    results = []
    drawn: Counter[str] = Counter()
    stream = detector.stream(files, score=args.score)
    bar = track(stream, "detecting", len(files), console=console, transient=True, disable=not console.is_interactive)
    for result in bar:
        if isinstance(result, SkippedImage):
            console.print(f"skipped {result.file}: {result.reason}", markup=False, highlight=False, soft_wrap=True)
        elif args.pictures:
            _draw(result, Path(args.pictures), drawn)
        results.append(result)
    skipped = [result for result in results if isinstance(result, SkippedImage)]
    _print_table([result for result in results if isinstance(result, DetectionResult)], len(skipped))
    if args.output:
        write_detections(args.output, results)
    return 1 if skipped or unmatched else 0


def _draw(result: DetectionResult, folder: Path, drawn: Counter[str]) -> None:
    from involution.data.images import read_image

    # images of one name in different folders must not replace each other
    stem = Path(result.file).stem
    drawn[stem] += 1
    name = stem if drawn[stem] == 1 else f"{stem}-{drawn[stem]}"
    with atomic_path(folder / f"{name}.png") as temporary:
        draw_detections(read_image(result.file), result).save(temporary, format="PNG")


def _print_table(results: list[DetectionResult], skipped: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if results:
        table = Table()
        table.add_column("file", overflow="fold")
        table.add_column("found")
        for result in results[:_MAX_ROWS]:
            counts = Counter(result.labels)
            words = ", ".join(f"{count} × {name}" if count > 1 else name for name, count in counts.items())
            table.add_row(Text(result.file), Text(words or "nothing"))
        console.print(table)
    if len(results) > _MAX_ROWS:
        console.print(f"and {len(results) - _MAX_ROWS:,} more; --output FILE.json keeps them all", highlight=False)
    seconds = sum(result.seconds for result in results)
    rate = f", {len(results) / seconds:,.1f} images/s" if results else ""
    found = sum(len(result.labels) for result in results)
    console.print(f"{found:,} objects in {len(results):,} images, {skipped:,} skipped{rate}", highlight=False)

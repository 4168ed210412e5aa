"""Tell the class of each pixel in image files with a trained checkpoint; writes label maps and pictures.

Files that can't be read are reported and left out; the exit code is then 1.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

from involution.engine.files import atomic_path, make_folder
from involution.predict import (
    PredictError,
    SegmentationResult,
    Segmenter,
    SkippedImage,
    draw_segmentation,
    find_images,
    write_label_map,
)

_MAX_ROWS, _MAX_CLASSES = 100, 5


def add_arguments(parser: Any) -> None:
    """Options of the prediction."""
    parser.add_argument("images", nargs="+", help="image files, folders or glob patterns such as 'photos/**/*.jpg'")
    parser.add_argument("--checkpoint", required=True, help="best.ckpt of a run")
    parser.add_argument("--output", metavar="FOLDER", help="write label maps as PNG, their values are the classes")
    parser.add_argument("--pictures", metavar="FOLDER", help="write the images with the classes' colours on them")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps, ...")


def run(args: Any) -> int:
    """Segment, print the table, write the files."""
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table
    from rich.text import Text

    from involution.data.images import read_image

    for folder in (args.output, args.pictures):
        if folder:
            make_folder(folder)
    segmenter = Segmenter.from_checkpoint(args.checkpoint, args.device)
    files, unmatched = find_images(args.images)
    if not files:
        raise PredictError(f"no images found in {', '.join(unmatched)}")
    for source in unmatched:
        print(f"{source}: no images found", file=sys.stderr)
    errors = Console(stderr=True)
    table = Table("file", "classes")
    drawn: Counter[str] = Counter()
    done, skipped, seconds = 0, 0, 0.0
    stream = segmenter.stream(files)
    for result in track(
        stream, "segmenting", len(files), console=errors, transient=True, disable=not errors.is_interactive
    ):
        if isinstance(result, SkippedImage):
            skipped += 1
            errors.print(f"skipped {result.file}: {result.reason}", markup=False, highlight=False, soft_wrap=True)
            continue
        done += 1
        seconds += result.seconds
        if done <= _MAX_ROWS:
            table.add_row(Text(result.file), Text(_words(result)))
        # images of one name in different folders must not replace each other
        stem = Path(result.file).stem
        drawn[stem] += 1
        name = f"{stem}.png" if drawn[stem] == 1 else f"{stem}-{drawn[stem]}.png"
        if args.output:
            write_label_map(Path(args.output) / name, result)
        if args.pictures:
            with atomic_path(Path(args.pictures) / name) as temporary:
                draw_segmentation(read_image(result.file), result).save(temporary, format="PNG")
    console = Console()
    if done:
        console.print(table)
    rate = f", {done / seconds:,.1f} images/s" if done else ""
    console.print(f"{done:,} segmented, {skipped:,} skipped{rate}", highlight=False)
    return 1 if skipped or unmatched else 0


def _words(result: SegmentationResult) -> str:
    shown = list(result.shares.items())[:_MAX_CLASSES]
    more = f", {len(result.shares) - len(shown)} more" if len(result.shares) > len(shown) else ""
    return ", ".join(f"{name} {share:.1%}" for name, share in shown) + more

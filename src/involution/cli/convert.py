"""Convert published RedNet weights to safetensors: the authors' files, PaddlePaddle's, a detector's backbone."""

from __future__ import annotations

import sys
from typing import Any


def add_arguments(parser: Any) -> None:
    """Options of the conversion."""
    parser.add_argument("input", metavar="IN", help="authors' .pth, PaddlePaddle's .pdparams or our own file")
    parser.add_argument("output", metavar="OUT.safetensors", help="file to write")
    parser.add_argument("--force", action="store_true", help="overwrite the file to write")


def run(args: Any) -> int:
    """Convert and say what was found."""
    from pathlib import Path

    from involution.models.checkpoint import CheckpointError, convert_checkpoint
    from involution.models.layouts import shorten

    try:
        report = convert_checkpoint(args.input, args.output, overwrite=args.force)
    except (CheckpointError, FileNotFoundError, FileExistsError) as error:
        print(f"involution: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"involution: {error}", file=sys.stderr)
        return 1
    stem = f"stem kernel {report.stem_kernel}" if report.stem_kernel else "convolutions"
    classes = f"{report.num_classes} classes" if report.num_classes else "no classifier"
    layout = {"authors": "the authors' layout", "paddle": "PaddlePaddle's layout", "timm": "our own layout"}
    print(f"found     {report.model}: {stem}, {classes}, {report.entries} entries in {layout[report.source]}")
    if report.left_out:
        print(f"left out  {len(report.left_out)} entries: {shorten(report.left_out, 10)}")
    print(f"written   {args.output} ({Path(args.output).stat().st_size / 1e6:.1f} MB)")
    print(
        f'load it   import involution.models; timm.create_model("{report.model}", '
        f'num_classes={report.num_classes}, checkpoint_path="{args.output}")'
    )
    return 0

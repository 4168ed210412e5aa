"""Convert published weights: a RedNet to OUT.safetensors, a whole detector or segmenter to OUT.ckpt.

It reads the authors' files, PaddlePaddle's and our own. OUT.safetensors receives the RedNet alone (a detector's
backbone); OUT.ckpt receives backbone, neck and heads, for involution detect|segment eval|predict --checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from involution.data.errors import printable

examples = ("involution convert rednet50.pth --output rednet50.safetensors",)


def add_arguments(parser: Any) -> None:
    """Add the options of the conversion."""
    parser.add_argument("input", metavar="IN", help="authors' .pth, PaddlePaddle's .pdparams or our own file")
    parser.add_argument("out", nargs="?", metavar="OUT", help="the same as --output OUT")
    parser.add_argument(
        "--output", metavar="OUT", help="file to write: .safetensors for a RedNet, .ckpt for a whole network"
    )
    parser.add_argument("--force", action="store_true", help="overwrite the output file if it exists")


def run(args: Any) -> int:
    """Convert the file and print what was found."""
    from involution.models.errors import CheckpointError

    if bool(args.out) == bool(args.output):
        raise CheckpointError("wanted one file to write: involution convert IN --output OUT")
    args.output = args.output or args.out
    suffix = Path(args.output).suffix
    if suffix not in (".safetensors", ".ckpt"):
        raise CheckpointError(f"wanted an output file that ends in .safetensors or .ckpt, got {args.output}")
    lines = _network(args) if suffix == ".ckpt" else _backbone(args)
    print("\n".join(map(printable, lines)))
    return 0


def _backbone(args: Any) -> list[str]:
    from involution.models.checkpoint import convert_checkpoint
    from involution.models.errors import shorten

    report = convert_checkpoint(args.input, args.output, overwrite=args.force)
    stem = f"stem kernel {report.stem_kernel}" if report.stem_kernel else "convolutions"
    classes = f"{report.num_classes} classes" if report.num_classes else "no classifier"
    layout = {"authors": "the authors' layout", "paddle": "PaddlePaddle's layout", "timm": "our own layout"}
    lines = [f"found     {report.model}: {stem}, {classes}, {report.entries} entries in {layout[report.source]}"]
    lines += [f"note      {note}" for note in report.notes]
    if report.left_out:
        lines.append(f"left out  {len(report.left_out)} entries: {shorten(report.left_out, 10)}")
        lines.append("          (to convert a whole detector or segmenter, end the output in .ckpt)")
    use = f"use it    involution classify predict --checkpoint {args.output} IMAGE"
    return [
        *lines,
        _written(args.output),
        *([use] if report.num_classes else []),
        f'load it   import involution.models; timm.create_model("{report.model}", '
        f'num_classes={report.num_classes}, checkpoint_path="{args.output}")',
    ]


def _network(args: Any) -> list[str]:
    from involution.engine.published_networks import convert_network

    report = convert_network(args.input, args.output, overwrite=args.force)
    network, task = report.network, report.task
    parts = {"neck": network.neck, "head": network.head}
    if network.kind in ("retinanet", "semantic_fpn"):
        del parts["head"]
    if network.kind == "upernet":
        parts = {}
    kinds = "".join(f", {part} of {kind}s" for part, kind in parts.items())
    return [
        f"found     {network.kind} on {network.backbone}{kinds}, {network.num_classes} classes, "
        f"{len(network.tensors)} entries",
        f"names     of the classes: {report.names_from}",
        *(f"note      {note}" for note in report.notes),
        *(f"filled    {name}: {what}" for name, what in network.filled.items()),
        *(f"left out  {name}: {reason}" for name, reason in network.left_out.items()),
        _written(args.output),
        f"use it    involution {task} predict --checkpoint {args.output} IMAGE",
    ]


def _written(output: str) -> str:
    return f"written   {output} ({Path(output).stat().st_size / 1e6:.1f} MB)"

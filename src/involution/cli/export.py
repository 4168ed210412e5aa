"""Write a trained network as a file for another runtime.

Norms are folded, and each involution stays one operator where the format can have it. The file is run in its runtime
and compared with PyTorch before it appears; one line says what was found. What images look like to the network, its
classes and its licence are in the file's metadata.
"""

from __future__ import annotations

import re
from typing import Any

from involution.cli.conditions import Condition
from involution.cli.failures import WrongUsage

examples = ("involution export runs/classify/best.ckpt --format onnx",)
conditions = (Condition("calibration_images", lambda args: args.int8, "without --int8"),)


def add_arguments(parser: Any) -> None:
    """Add the network, the format and its options."""
    from involution.export.metadata import IMAGES, WEIGHTS
    from involution.export.registry import formats

    known = formats()
    described = "; ".join(f"{name}: {found.description}" for name, found in known.items())
    parser.add_argument(
        "checkpoint", help="best.ckpt of a run, what `involution convert` wrote, or published weights by name"
    )
    parser.add_argument("--format", required=True, choices=list(known), help=described)
    parser.add_argument(
        "--output", metavar="FILE", help="by default the checkpoint's name and the format's suffix, in this folder"
    )
    parser.add_argument(
        "--with-preprocessing",
        action="store_true",
        help="the graph takes 8-bit pictures of any size, and resizes, crops and normalises them; a classifier's or "
        "segmenter's ends in a softmax, and label maps and boxes are in the picture's own pixels",
    )
    parser.add_argument(
        "--size", metavar="HxW", help="of a segmenter's or detector's images, such as 512x1024; by default any"
    )
    if any("opset" in found.options for found in known.values()):
        parser.add_argument("--opset", type=int, help="onnx: version of its operators")
    if any("operators" in found.options for found in known.values()):
        parser.add_argument(
            "--operators",
            choices=["standard", "library"],
            help="onnx: standard ones run anywhere, those of this package's library are faster; by default standard",
        )
    parser.add_argument(
        "--int8", action="store_true", help="onnx and openvino: quantise to 8 bits, calibrated on real images"
    )
    parser.add_argument(
        "--calibration",
        metavar="SPEC|FOLDER",
        help="images to calibrate on: a folder, or a data set as in training; by default the checkpoint's own",
    )
    parser.add_argument(
        "--calibration-images", type=int, default=IMAGES, metavar="N", help="how many of them; by default 300"
    )
    parser.add_argument(
        "--weights", choices=WEIGHTS, help="onnx and openvino: type that the weights are stored as; by default float32"
    )
    parser.add_argument(
        "--images", nargs="+", help="images to compare on, at most 8 of them; by default embedded ones of the task"
    )
    parser.add_argument("--license", help="of the weights, for the metadata; known for published ones")


def run(args: Any) -> int:
    """Export and say what was found."""
    from rich.console import Console

    from involution.export import export_checkpoint

    errors = Console(stderr=True)
    with errors.status("reading") as status:
        written = export_checkpoint(
            args.checkpoint,
            args.format,
            args.output,
            with_preprocessing=args.with_preprocessing,
            size=_size(args.size),
            opset=args.get("opset"),
            operators=args.get("operators"),
            images=args.images,
            int8=args.int8,
            calibration=args.calibration,
            calibration_images=args.calibration_images,
            weights=args.weights,
            license=args.license,
            tell=status.update,
        )
    print(f"written   {written}")
    return 0


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if found is None:
        raise WrongUsage(f"wanted a --size as height and width, such as 512x1024, got {text!r}")
    return int(found[1]), int(found[2])

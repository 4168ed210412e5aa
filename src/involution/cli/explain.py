"""Draw what an involution network sees in an image: generated kernels, heat map, animation, receptive field.

IMAGE is an image file, a folder or a pattern. For a layer such as stage2.0 (see --list-layers) it draws these pictures
of each image, or those chosen with --what: `kernels`, the kernels generated at some positions, on the image and next to
it; `heatmap`, the sum of the kernel at each position; `stages`, heat maps of every stage; `animation`, window × kernel
= products while the window slides over the image, next to those of a convolution, whose kernel does not change (GIF,
and MP4 if ffmpeg is installed); `receptive-field`, how much each pixel affects the output at one position. They say
what is cut off, and if the image is of another kind than those of the training. --checkpoint rednet50 takes the
published network; without --checkpoint it is the one that `involution demo` trained. An index.jsonl in the output
folder says which files belong to which image.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from involution.cli.conditions import Condition
from involution.explain.errors import ExplainError
from involution.extras import require

examples = (
    "involution explain photo.jpg --checkpoint rednet50",
    "involution explain photo.jpg --checkpoint rednet50 --what kernels --layer stage2.0 --at 120,80",
)
_DEMO = Path("runs/demo/rednet_nano-seed0/best.ckpt")
_DEMO_TWIN = Path("runs/demo/rednet_nano_conv-seed0/best.ckpt")
_WHAT = ("kernels", "heatmap", "stages", "animation", "receptive-field")
_FORMATS = ("png", "svg", "pdf")


def _for(*pictures: str) -> Any:
    """What says whether one of these pictures, or without any a still one, is drawn."""
    return lambda args: bool(set(args.what or _WHAT).intersection(pictures or _WHAT[:3] + _WHAT[4:]))


def _no_list(args: Any) -> bool:
    return not args.list_layers


conditions = (
    Condition("at", _for("kernels", "receptive-field"), "without kernels or receptive-field in --what"),
    Condition("group", _for("kernels", "heatmap", "animation"), "without kernels, heatmap or animation in --what"),
    Condition("average", _for("receptive-field"), "without receptive-field in --what"),
    Condition("frames", _for("animation"), "without animation in --what"),
    Condition("twin", _for("animation", "receptive-field"), "without animation or receptive-field in --what"),
    Condition("layer", lambda args: set(args.what or _WHAT) != {"stages"}, "on the stages, whose layers are their own"),
    Condition("format", _for(), "on the animation, which is GIF and MP4"),
    Condition("device", lambda args: not args.untrained, "with --untrained, which runs on the CPU"),
    Condition("layer at group average frames what style format output twin", _no_list, "with --list-layers"),
)


def add_arguments(parser: Any) -> None:
    """Add the options of the pictures."""
    parser.add_argument("images", metavar="IMAGE", nargs="*", help="image files, folders or glob patterns")
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="best.ckpt of a run, converted RedNet weights, or published weights by name: rednet50",
    )
    parser.add_argument("--twin", metavar="FILE", help="checkpoint of the convolution twin, for comparison")
    parser.add_argument("--untrained", metavar="MODEL", help="random weights of rednet50, ..., with a label saying so")
    parser.add_argument("--layer", help="involution, such as stage2.0 or stem; the middle one by default")
    parser.add_argument("--list-layers", action="store_true", help="list the network's involutions and exit")
    parser.add_argument(
        "--at",
        action="append",
        metavar="X,Y",
        help="a position in pixels of IMAGE, from the left and top, given up to eight times; by default four positions "
        "whose kernels differ most. The receptive field is for the first one, by default the centre",
    )
    parser.add_argument("--group", type=int, nargs="+", metavar="N", help="kernel groups, starting at 1")
    parser.add_argument(
        "--what", nargs="+", metavar="PICTURE", help=f"pictures to draw: {', '.join(_WHAT)}; by default all"
    )
    parser.add_argument("--average", nargs="+", metavar="IMAGES", help="receptive field: mean over these images")
    parser.add_argument("--frames", type=int, default=64, help="number of frames of the animation")
    parser.add_argument("--style", default="light", help="light or dark")
    parser.add_argument("--format", default="png", help="format of the still pictures: png, svg or pdf")
    parser.add_argument("--output", metavar="FOLDER", default="runs/explain", help="output folder")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ...")


def run(args: Any) -> int:
    """Draw the pictures, write the files and print their paths.

    Returns:
        0; 1 if an image could not be read or a file not written, but the others are there.
    """
    require("timm", "torchvision", "PIL", "matplotlib")
    from involution.cli.explain_pictures import Pictures, draw_all
    from involution.engine.files import network_origin
    from involution.explain import Subject, find_layer, involution_layers, stage_layers
    from involution.explain.style import STYLES
    from involution.predict import find_device

    what = _chosen(args.what or _WHAT, _WHAT, "--what")
    _chosen([args.style], tuple(STYLES), "--style")
    _chosen([args.format], _FORMATS, "--format")
    points = [_point(text) for text in args.at or []]
    if args.frames < 1 or min(args.group or [1]) < 1:
        raise ExplainError("wanted --frames and --group of 1 or more")
    if not args.images and not args.list_layers:
        raise ExplainError("which image? involution explain IMAGE")
    images, missing = ([], False) if args.list_layers else _images(args.images)
    average, also_missing = _images(args.average) if args.average else ([], False)
    if args.untrained:
        if args.checkpoint or args.twin:
            raise ExplainError("--untrained can't be combined with --checkpoint or --twin")
        subject, file, twin_file = Subject.untrained_model(args.untrained), None, None
    else:
        file, twin_file = _files(args)
        subject = Subject.from_checkpoint(file, find_device(args.device))
    layers = involution_layers(subject.network)
    if not layers:
        raise ExplainError(
            f"{subject.name} has no involutions: choose a RedNet, and name its convolution twin with --twin"
        )
    if args.list_layers:
        print("\n".join(layers))
        return 0
    layer = find_layer(subject.network, args.layer or layers[len(layers) // 2])
    if not args.what and not stage_layers(subject.network):
        what.remove("stages")
        print(f"no stages are drawn: {subject.name} has none with involutions", file=sys.stderr)
    if what == ["animation"] and len(args.group or []) > 1:
        print(f"the animation shows group {args.group[0]} alone", file=sys.stderr)
    twin = Subject.from_checkpoint(twin_file, find_device(args.device)) if twin_file else None
    if twin is not None and "receptive-field" in what:
        unlike = ["has involutions"] if involution_layers(twin.network) else []
        # a RedNet's weights alone have no names of classes
        if subject.classes and twin.classes and set(subject.classes) != set(twin.classes):
            unlike.append("was trained on other classes")
        if unlike:
            print(f"{twin_file} is no convolution twin of {subject.name}: it {' and '.join(unlike)}", file=sys.stderr)
    pictures = Pictures(
        folder=Path(args.output),
        layer=layer,
        what=what,
        format=args.format,
        style=args.style,
        frames=args.frames,
        points=points,
        groups=[number - 1 for number in args.group] if args.group else None,
        checkpoint=network_origin(file) if file else f"random weights of {args.untrained}",
        twin=twin_file,
        average=average,
    )
    complete = draw_all(pictures, images, subject, twin)
    return 0 if complete and not (missing or also_missing) else 1


def _images(sources: Sequence[str]) -> tuple[list[Path], bool]:
    """The image files, and whether a source had none."""
    from involution.data.findings import Findings
    from involution.engine.predictor import find_images, not_found

    findings = Findings()
    files, unmatched = find_images(sources, findings)
    lines = list(map(not_found, unmatched))
    if not files:
        raise ExplainError("; ".join(lines))
    for line in [*findings.lines(), *lines]:
        print(line, file=sys.stderr)
    return files, bool(unmatched)


def _files(args: Any) -> tuple[Path, Path | None]:
    if args.checkpoint:
        return Path(args.checkpoint), Path(args.twin) if args.twin else None
    if not _DEMO.is_file():
        raise ExplainError(
            f"no {_DEMO}: `involution demo` (some minutes) trains it; or use --checkpoint FILE or --untrained MODEL"
        )
    return _DEMO, Path(args.twin) if args.twin else _DEMO_TWIN if _DEMO_TWIN.is_file() else None


def _chosen(words: Any, known: tuple[str, ...], option: str) -> list[str]:
    from involution.data.errors import nearest

    for word in words:
        if word not in known:
            raise ExplainError(f"{option} takes {', '.join(known)}; got {word!r}{nearest(word, known)}")
    return list(words)


def _point(text: str) -> tuple[int, int]:
    x, _, y = text.partition(",")
    try:
        return int(x), int(y)
    except ValueError as error:
        raise ExplainError(f"wanted --at X,Y in pixels, such as --at 10,20; got {text!r}") from error

"""Draw what an involution network sees in an image: generated kernels, heat map, animation, receptive field.

IMAGE is a picture file. For a layer such as stage2.0 (see --list-layers) it draws these pictures, or those chosen with
--what: `kernels`, the kernels generated at some positions, on the image and next to it; `heatmap`, the sum of the
kernel at each position; `stages`, heat maps of every stage; `animation`, a window that slides over the image while its
kernel changes, next to that of a convolution, which does not (GIF, and MP4 if ffmpeg is installed); `receptive-field`,
how much each pixel affects the output at one position. --checkpoint rednet50 takes the published network; without
--checkpoint it is the one that `involution demo` trained.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from involution.explain.errors import ExplainError
from involution.extras import require

_DEMO = Path("runs/demo/rednet_nano-seed0/best.ckpt")
_DEMO_TWIN = Path("runs/demo/rednet_nano_conv-seed0/best.ckpt")
_WHAT = ("kernels", "heatmap", "stages", "animation", "receptive-field")
_FORMATS = ("png", "svg", "pdf")


def add_arguments(parser: Any) -> None:
    """Add the options of the pictures."""
    parser.add_argument("image", metavar="IMAGE", nargs="?", help="image file")
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
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps, ...")


def run(args: Any) -> int:
    """Draw the pictures, write the files and print their paths."""
    require("timm", "torchvision", "PIL", "matplotlib")
    from involution.data.errors import printable
    from involution.data.images import read_image
    from involution.engine.files import check_free, make_folder
    from involution.explain import Subject, find_layer, involution_layers, stage_layers
    from involution.explain.style import STYLES
    from involution.predict import find_device

    what = _chosen(args.what or _WHAT, _WHAT, "--what")
    _chosen([args.style], tuple(STYLES), "--style")
    _chosen([args.format], _FORMATS, "--format")
    points = [_point(text) for text in args.at or []]
    if args.frames < 1 or min(args.group or [1]) < 1:
        raise ExplainError("wanted --frames and --group of 1 or more")
    if args.image is None and not args.list_layers:
        raise ExplainError("which image? involution explain IMAGE")
    image = None if args.list_layers else read_image(args.image)
    if args.untrained:
        if args.checkpoint or args.twin:
            raise ExplainError("--untrained can't be combined with --checkpoint or --twin")
        subject, twin_file = Subject.untrained_model(args.untrained), None
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
    twin = Subject.from_checkpoint(twin_file, find_device(args.device)) if twin_file else None
    make_folder(args.output)
    for name in _names(args, layer, what):
        check_free(name)
    for path in _draw(args, subject, twin, image, layer, what, points):
        print(printable(path))
    return 0


def _files(args: Any) -> tuple[Path, Path | None]:
    if args.checkpoint:
        return Path(args.checkpoint), Path(args.twin) if args.twin else None
    if not _DEMO.is_file():
        raise ExplainError(
            f"no {_DEMO}: `involution demo` (some minutes) trains it; or use --checkpoint FILE or --untrained MODEL"
        )
    return _DEMO, Path(args.twin) if args.twin else _DEMO_TWIN if _DEMO_TWIN.is_file() else None


def _names(args: Any, layer: str, what: list[str]) -> list[Path]:
    """The files that may be written."""
    base = Path(args.output) / f"{Path(args.image).stem}-{layer}"
    still = [f"{base}-{kind}.{args.format}" for kind in what if kind not in ("animation", "stages")]
    moving = [f"{base}-window.gif", f"{base}-window.mp4"] if "animation" in what else []
    whole = [Path(args.output) / _stages(args)] if "stages" in what else []
    return [*whole, *map(Path, (*still, *moving))]


def _stages(args: Any) -> str:
    return f"{Path(args.image).stem}-stages.{args.format}"


def _draw(
    args: Any, subject: Any, twin: Any, image: Any, layer: str, what: list[str], points: list[tuple[int, int]]
) -> Any:
    """Draw the pictures one by one and yield their paths."""
    from involution.explain import (
        animate,
        heat_map_figure,
        kernels_figure,
        layer_map,
        receptive_field_figure,
        stages_figure,
    )

    view = subject.view(image)
    other = twin.view(image) if twin else None
    groups = [number - 1 for number in args.group] if args.group else None
    found = layer_map(view, layer)
    # check positions and other images before drawing anything
    places = [found.position(*view.input_pixel(x, y)) for x, y in points]
    views = [view, *([other] if other else [])]
    inputs = [_inputs(part, args.average) for part in (subject, twin) if part] if args.average else None
    folder, stem = Path(args.output), f"{Path(args.image).stem}-{layer}"
    style = args.style
    if "kernels" in what:
        figure = kernels_figure(view, layer, list(dict.fromkeys(places)) or None, groups=groups, style=style)
        yield _write(figure, folder / f"{stem}-kernels.{args.format}")
    if "heatmap" in what:
        figure = heat_map_figure(view, layer, groups=groups, style=style)
        yield _write(figure, folder / f"{stem}-heatmap.{args.format}")
    if "stages" in what:
        yield _write(stages_figure(view, style=style), folder / _stages(args))
    if "receptive-field" in what:
        figure = receptive_field_figure(views, layer, places[0] if places else None, images=inputs, style=style)
        yield _write(figure, folder / f"{stem}-receptive-field.{args.format}")
    if "animation" in what:
        group = groups[0] if groups else 0
        animation = animate(view, layer, twin=other, group=group, frames=args.frames, style=style)
        yield from _write_animation(animation, folder / f"{stem}-window", args.frames)


def _inputs(subject: Any, sources: list[str]) -> Any:
    import torch

    from involution.data.images import read_image
    from involution.predict import PredictError, find_images

    files, unmatched = find_images(sources)
    if unmatched:
        raise PredictError(f"no images found in {', '.join(unmatched)}")
    inputs = [subject.view(read_image(file)).input for file in files]
    if len({item.shape for item in inputs}) > 1:
        raise ExplainError("--average: this network does not resize its images, and these differ in size")
    return torch.cat(inputs)


def _write(figure: Any, path: Path) -> Path:
    from involution.engine.files import atomic_path

    with atomic_path(path) as partial:
        figure.savefig(partial, format=path.suffix[1:], dpi=160)
    return path


def _write_animation(animation: Any, path: Path, frames: int) -> Any:
    from matplotlib.animation import FFMpegWriter
    from rich.console import Console
    from rich.progress import Progress

    from involution.explain import save_animation

    suffixes = [".gif", *([".mp4"] if FFMpegWriter.isAvailable() else [])]
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_interactive) as progress:
        for suffix in suffixes:
            file = path.with_name(path.name + suffix)
            task = progress.add_task(file.name, total=frames)

            def tell(done: int, frames: int, task: Any = task) -> None:
                progress.update(task, completed=done + 1)

            save_animation(animation, file, tell)
            yield file
    if len(suffixes) == 1:
        print("no MP4: ffmpeg is not installed", file=sys.stderr)


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

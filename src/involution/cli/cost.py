"""What networks cost: parameters, operations, and time and memory on this machine, with the published figures.

MACs are the multiply-adds of convolutions, linear layers and involutions, counted by PyTorch's FlopCounterMode. The
authors' FLOPs are counted as for the published figures: the same plus biases, batch norms, ReLUs and poolings, with the
7x7 stem and without the classifier; RedNet-26 to 152 then have 1.73, 2.22, 2.71, 4.74 and 6.79 G at 224x224.
Writes cost.csv, cost.md and cost.png.

With --scale it predicts instead how fast a network trains on many GPUs, from the time of a step on one of them, the
bytes that are sent, and the speed of the links. Writes scale.csv, scale.md and scale.png.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from involution.cli import cost_scale
from involution.cli.conditions import Condition
from involution.cli.help import add_names
from involution.extras import require

examples = (
    "involution cost --models rednet50 rednet50_conv --batch-size 1 8",
    "involution cost --scale 8 64 --step-ms 120 --batch-size 64",
)

conditions = (
    Condition(
        "seconds dtype fold threads batch_size",
        lambda args: not args.no_measure or args.scale is not None,
        "with --no-measure",
    ),
)


def add_arguments(parser: Any) -> None:
    """Add the options of the table."""
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="NAME",
        help="rednet50, rednet50_conv (its convolution twin), rednet50_stem7, rednet_nano, resnet50 (torchvision's); "
        "published detectors and segmenters by their recipes (coco-retinanet, cityscapes-upernet, ...), which are "
        "only counted; by default RedNet-26 to 152, their twins, and resnet50",
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs="+",
        metavar="PIXELS",
        help="size of the images, or height and width; default 224, 32 for rednet_nano and rednet_micro, 1280 800 for "
        "detectors, 1024 2048 for segmenters",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        nargs="+",
        help="batch sizes to measure; by default 1. With --scale: images per device",
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds per model, which is timed at least 7 times")
    parser.add_argument(
        "--dtype", default="float32", choices=["float32", "bfloat16", "float16"], help="data type to time in"
    )
    parser.add_argument("--fold", action="store_true", help="fold the batch norms away before timing")
    parser.add_argument("--no-measure", action="store_true", help="only count")
    parser.add_argument("--threads", type=int, help="CPU threads; by default PyTorch's choice")
    parser.add_argument("--output", metavar="FOLDER", default="runs/cost", help="output folder")
    add_names(parser, {"--batch": "--batch-size"})
    cost_scale.add_arguments(parser)


def run(args: Any) -> int:
    """Count, measure (or with ``--scale`` predict), print the table and write it; returns 0."""
    # report a missing package before the work starts
    require("matplotlib", "timm", "torchvision")
    import torch
    from rich.console import Console

    from involution.cli.measuring import STUDY_ENDINGS, Steps, show, start_as_command, write_study
    from involution.engine.files import Origin, made_of
    from involution.engine.outputs import free_names
    from involution.studies import cost_table, plots
    from involution.studies.suites import check_numbers

    check_numbers(args.batch_size or [], args.seconds, args.threads)
    if cost_scale.is_wanted(args):
        return cost_scale.run(args)
    names = list(dict.fromkeys(args.models or cost_table.default_models()))
    cost_table.check_models(names)
    for name in names:
        cost_table.image_size(name, args.size)
    batches = [] if args.no_measure else list(dict.fromkeys(args.batch_size or [1]))
    output = Path(args.output)
    settings = [f"--size {' '.join(map(str, args.size))}"] if args.size else []
    if batches:
        settings += [*(f"--batch-size {batch}" for batch in batches), f"--dtype {args.dtype}"]
        settings += ["--fold"] if args.fold else []
        settings += [f"--threads {args.threads}"] if args.threads else []
    origin = Origin("cost", (*names, *settings))
    (name,) = free_names(output, [("cost", origin)], STUDY_ENDINGS)
    if batches:
        start_as_command("cost")
    if args.threads:
        torch.set_num_threads(args.threads)
    console = Console()
    timed = sum(map(cost_table.is_measurable, names))
    # each model is set up, then all are timed in at least 8 rounds
    with Steps(len(names) + len(batches) * (timed + 8), "counting") as steps:
        rows = cost_table.all_rows(
            names,
            batches,
            args.size,
            seconds=args.seconds,
            dtype=args.dtype,
            folded=args.fold,
            tick=steps.say,
        )
    show(console, cost_table.table(rows))
    for line in cost_table.notes(rows):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    with made_of(origin):
        written = write_study(output, name, rows, cost_table.markdown(rows), plots.accuracy_figure(rows))
    console.print(written, highlight=False, markup=False, soft_wrap=True)
    return 0

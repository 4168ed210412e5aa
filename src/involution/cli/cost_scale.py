"""`involution cost --scale`: what training should take on many devices, predicted from one device and its links."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from involution.studies.errors import StudyError

if TYPE_CHECKING:
    from involution.studies.scaling import Cluster

# option -> its default; all of them only go with --scale
_DEFAULTS: dict[str, Any] = {
    "step_ms": None,
    "step_from": None,
    "strategy": ["ddp", "fsdp"],
    "node_devices": 8,
    "node_gb": 450.0,
    "net_gb": 50.0,
    "node_hop_us": 2.0,
    "net_hop_us": 10.0,
    "overlap": 1.0,
    "backward": 0.67,
    "bucket_mib": 25.0,
    "sent_as": "float32",
}
_HELP: dict[str, tuple[str, dict[str, Any]]] = {
    "step_ms": (
        "milliseconds of a training step on one device; --batch-size says of how many images",
        {"type": float, "metavar": "MS"},
    ),
    "step_from": (
        "or take it from the results of `involution bench gpu` or `cpu`, for the largest batch or --batch-size",
        {"metavar": "CSV"},
    ),
    "strategy": (
        "ddp: each device holds the whole network; fsdp: each holds a share of it",
        {"nargs": "+", "choices": ["ddp", "fsdp"]},
    ),
    "node_devices": ("devices in a node (machine)", {"type": int, "metavar": "N"}),
    "node_gb": (
        "10⁹ bytes per second that a device's link inside a node moves in one direction; 450 is NVLink's fourth "
        "generation",
        {"type": float, "metavar": "GB/S"},
    ),
    "net_gb": (
        "the same of all network adapters of a node together; 50 is one adapter of 400 Gbit/s",
        {"type": float, "metavar": "GB/S"},
    ),
    "node_hop_us": ("microseconds of a hop inside a node", {"type": float, "metavar": "US"}),
    "net_hop_us": ("microseconds of a hop between nodes", {"type": float, "metavar": "US"}),
    "overlap": (
        "how much of the communication that could run beside computing does so, from 0 to 1",
        {"type": float, "metavar": "SHARE"},
    ),
    "backward": ("share of the step that is the backward pass, from 0 to 1", {"type": float, "metavar": "SHARE"}),
    "bucket_mib": ("size of DDP's gradient buckets", {"type": float, "metavar": "MIB"}),
    "sent_as": ("data type of what is sent between devices", {"choices": ["float32", "bfloat16"]}),
}


def add_arguments(parser: Any) -> None:
    """Add the options of the prediction."""
    group = parser.add_argument_group("many devices (with --scale)")
    group.add_argument(
        "--scale",
        type=int,
        nargs="*",
        metavar="DEVICES",
        help="instead of the table, predict training on so many devices; without a number on 8 16 32 64 128 256 512",
    )
    for name, (text, how) in _HELP.items():
        group.add_argument(f"--{name.replace('_', '-')}", default=_DEFAULTS[name], help=text, **how)


def is_wanted(args: Any) -> bool:
    """Say whether a prediction is asked for.

    Raises:
        StudyError: For an option that does nothing without ``--scale``.
    """
    if args.scale is not None:
        return True
    for name, default in _DEFAULTS.items():
        if args[name] != default:
            raise StudyError(f"--{name.replace('_', '-')} needs --scale")
    return False


def run(args: Any) -> int:
    """Predict, print the table and write it; returns 0."""
    from rich.console import Console

    from involution.cli.measuring import STUDY_ENDINGS, show, write_study
    from involution.engine.files import Origin, made_of
    from involution.engine.outputs import free_names
    from involution.studies import plots, scaling_table
    from involution.studies.cost_table import check_models

    options = {name: args[name] for name in _DEFAULTS}
    devices = list(dict.fromkeys(args.scale)) or list(scaling_table.DEVICES)
    names = list(dict.fromkeys(args.models or ["rednet50"]))
    check_models(names)
    _check(args, options, devices, names)
    cluster, rows, told = _cluster(options), [], []
    for name in names:
        seconds, batch, where = _step(args, options, name)
        work = scaling_table.work_of(name, seconds, sent_as=options["sent_as"], backward=options["backward"])
        told.append(f"{name}, {seconds * 1e3:g} ms for {batch} images, {where}")
        rows += scaling_table.rows(
            name,
            work,
            batch,
            devices,
            dict.fromkeys(options["strategy"]),
            cluster,
            overlap=options["overlap"],
            bucket_bytes=options["bucket_mib"] * 2**20,
        )
    notes = scaling_table.notes(cluster, options["overlap"], told)
    settings = [f"{name} {value}" for name, value in options.items()]
    origin = Origin("cost --scale", (*names, *map(str, devices), f"batch {args.batch_size}", *settings))
    output = Path(args.output)
    (file,) = free_names(output, [("scale", origin)], STUDY_ENDINGS)
    console = Console()
    show(console, scaling_table.table(rows))
    for line in notes:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    with made_of(origin):
        figure = plots.scaling_figure(rows)
        written = write_study(output, file, rows, scaling_table.markdown(rows, notes), figure)
    console.print(written, highlight=False, markup=False, soft_wrap=True)
    return 0


def _check(args: Any, options: dict[str, Any], devices: list[int], names: list[str]) -> None:
    if min(devices) < 1:
        raise StudyError(f"--scale must be 1 or more devices, got {min(devices)}")
    if args.batch_size is not None and len(args.batch_size) > 1:
        raise StudyError(f"--scale takes one batch size, the images of one device; got {len(args.batch_size)}")
    if (options["step_ms"] is None) == (options["step_from"] is None):
        raise StudyError(
            "--scale needs the time of a training step on one device: give --step-ms, or --step-from with a "
            "CSV file of results (one of them)"
        )
    if options["step_ms"] is not None and (args.batch_size is None or len(names) > 1):
        wanted = "--batch-size, its images" if args.batch_size is None else "one network, not several"
        raise StudyError(f"--step-ms is the time of one step: also give {wanted}")
    for name in ("step_ms", "node_devices", "node_gb", "net_gb", "bucket_mib"):
        if options[name] is not None and not options[name] > 0:
            raise StudyError(f"--{name.replace('_', '-')} must be more than 0, got {options[name]:g}")
    for name in ("node_hop_us", "net_hop_us"):
        if not options[name] >= 0:
            raise StudyError(f"--{name.replace('_', '-')} must be 0 or more, got {options[name]:g}")
    for name in ("overlap", "backward"):
        if not 0 <= options[name] <= 1:
            raise StudyError(f"--{name} must be from 0 to 1, got {options[name]:g}")


def _step(args: Any, options: dict[str, Any], name: str) -> tuple[float, int, str]:
    from involution.studies import scaling_table

    if options["step_ms"] is not None:
        return options["step_ms"] / 1e3, args.batch_size[0], "as given"
    return scaling_table.measured_step(
        Path(options["step_from"]), name, args.batch_size[0] if args.batch_size else None
    )


def _cluster(options: dict[str, Any]) -> Cluster:
    from involution.studies.scaling import Cluster, Link

    inside = Link(options["node_gb"] * 1e9, options["node_hop_us"] * 1e-6)
    between = Link(options["net_gb"] * 1e9, options["net_hop_us"] * 1e-6)
    return Cluster(inside, between, options["node_devices"])

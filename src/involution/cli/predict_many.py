"""`predict --parts`: very many images, in parts, by this process or by Ray's workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from involution.cli.conditions import Condition
from involution.data.errors import printable
from involution.engine.predictor import PredictError
from involution.engine.task import get_task
from involution.predict.inputs import holds_parquet, holds_tables
from involution.predict.many import PART_ROWS, ManyResult, Progress, predict_many
from involution.predict.parts import FORMATS
from involution.predict.workers import ENGINES, Workers

conditions = (
    Condition("parts_format part_rows", lambda args: bool(args.parts), "without --parts"),
    Condition("column", lambda args: not args.parts or holds_parquet(args.images), "without Parquet tables"),
)


def add_arguments(parser: Any) -> None:
    """Add the options for very many images."""
    parser = parser.add_argument_group(
        "very many images",
        "IMAGE can also be Parquet tables (*.parquet, parquet:FOLDER) and shards (*.tar, webdataset:FOLDER)",
    )
    parser.add_argument(
        "--parts",
        metavar="FOLDER",
        help="for very many images: write a row for each into files of a folder; the same command goes on after an "
        "interruption, and images that can't be read are rows with an error",
    )
    parser.add_argument("--parts-format", choices=tuple(FORMATS), default="parquet", help="of the files of --parts")
    parser.add_argument("--part-rows", type=int, default=PART_ROWS, help="rows in a file of --parts")
    parser.add_argument(
        "--column", help="of Parquet tables, with paths or contents of image files; by default image, bytes, path, …"
    )
    parser.add_argument(
        "--engine", choices=ENGINES, default="process", help="of --parts: this process, or Ray Data's workers"
    )
    parser.add_argument(
        "--workers", type=int, default=0, help="of --engine ray; 0 for as many as there are GPUs, or else cores"
    )
    parser.add_argument(
        "--ray-address",
        help="of --engine ray: a running cluster whose machines see the same files; by default Ray is started here",
    )


def check(args: Any) -> None:
    """Refuse options that don't go together.

    Raises:
        PredictError: naming them.
    """
    if args.parts:
        other = next((name for name in ("output", "pictures") if getattr(args, name, None)), None)
        if other:
            raise PredictError(f"wanted --parts or --{other}, got both")
        if args.runtime != "torch":
            raise PredictError(
                f"--parts takes checkpoints, not exported files: wanted --runtime torch, got {args.runtime}"
            )
        return
    wanted = {"--engine ray": args.engine == "ray", "--column": args.column, "--workers": args.workers}
    wanted |= {"--ray-address": args.ray_address, "Parquet tables and tar files": holds_tables(args.images)}
    alone = next((name for name, given in wanted.items() if given), None)
    if alone:
        raise PredictError(f"{alone} can only be used with --parts FOLDER")


def run(task: str, args: Any, options: Mapping[str, Any]) -> int:
    """Write the parts, and tell how many images there were."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    errors = Console(stderr=True)
    columns = (TextColumn("predicting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=errors, transient=True, disable=not errors.is_interactive) as bar:
        shown = bar.add_task("", total=None)

        def say(line: str) -> None:
            errors.print(printable(line), markup=False, highlight=False, soft_wrap=True)

        def advance(done: int, count: int) -> None:
            bar.update(shown, completed=done, total=count)

        found = predict_many(
            args.images,
            args.checkpoint,
            args.parts,
            task=task,
            column=args.column,
            format=args.parts_format,
            part_rows=args.part_rows,
            workers=Workers(args.engine, args.device, args.workers, args.ray_address),
            progress=Progress(say, advance),
            **options,
        )
    said = printable(summary(found, get_task(task).predictor.verb))
    Console().print(said, markup=False, highlight=False, soft_wrap=True)
    return 0


def summary(found: ManyResult, verb: str) -> str:
    """One line about all images, and how fast those of this time were."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(found.errors.items()))
    failed = sum(found.errors.values())
    rate = found.done / found.seconds if found.done else 0.0
    return (
        f"{found.images - failed:,} {verb}, {failed:,} with an error{f' ({kinds})' if kinds else ''}; "
        f"{found.parts:,} parts in {found.folder}"
        + (f", {rate:,.{0 if rate >= 100 else 1}f} images/s" if found.done else "")
    )

"""Use a trained network of any task on image files.

Files that can't be read are reported and skipped, and so are those that can't be written; the exit code is then 1.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from involution.cli import predict_many
from involution.cli.conditions import Condition
from involution.cli.sinks import FileSink, FolderPlan, FolderSink, drawing
from involution.data.addresses import path_of
from involution.data.errors import printable
from involution.data.findings import Findings
from involution.data.noticed import OF_TRAINING, Noticed
from involution.engine.files import Origin, absolute, made_of, network_origin
from involution.engine.outputs import Attempts, check_index, free_names
from involution.engine.predictor import Option, PredictError, Predictor, SkippedImage, find_images, not_found
from involution.engine.task import get_task, task_noun

_MAX_ROWS = 100


@dataclass(frozen=True)
class PredictCommand:
    """The `predict` command of a task.

    Args:
        task: classify, detect, segment.
    """

    task: str
    takes_addresses = True

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return (
            f"Use a trained {task_noun(self.task)} on image files; prints a table and optionally writes files.\n\n"
            "Files that can't be read or written are reported and skipped; the exit code is then 1."
        )

    @property
    def examples(self) -> tuple[str, ...]:
        """Command lines for the help."""
        published = ("involution classify predict --checkpoint rednet50 photo.jpg",) if self.task == "classify" else ()
        output = {"FILE": "found.json", "FOLDER": "found"}[get_task(self.task).predictor.output[0]]
        run = f"involution {self.task} predict --checkpoint runs/{self.task}/best.ckpt photos --output {output}"
        return *published, run

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """When options are used."""
        names = " ".join(option.name for option in get_task(self.task).predictor.output_options)
        return *predict_many.conditions, Condition(names, lambda args: bool(args.output), "without --output")

    def add_arguments(self, parser: Any) -> None:
        """Add the options of the prediction."""
        predictor = get_task(self.task).predictor
        parser.add_argument(
            "images",
            nargs="+",
            metavar="IMAGE",
            help="image files, folders or glob patterns such as 'photos/**/*.jpg'; with --parts also tables and shards",
        )
        parser.add_argument("--checkpoint", required=True, help=checkpoint_help(self.task))
        metavar, what = predictor.output
        parser.add_argument("--output", metavar=metavar, help=what)
        for option in (*predictor.options, *predictor.output_options):
            kind: dict[str, Any] = {"choices": list(option.choices)} if option.choices else {"type": option.kind}
            parser.add_argument(_flag(option), default=option.default, help=option.help, **kind)
        if predictor.draws:
            parser.add_argument("--pictures", metavar="FOLDER", help="write the images with the results drawn on them")
        parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ...")
        parser.add_argument_group("other runtimes").add_argument(
            "--runtime",
            default="torch",
            choices=["torch", "aoti", "onnx", "openvino"],
            help="what runs the network, on the CPU: --checkpoint is then what `involution export` wrote; torch takes "
            "checkpoints and exported programs",
        )
        predict_many.add_arguments(parser)

    def _predictor(self, checkpoint: str, runtime: str, device: str) -> Predictor[Any]:
        from involution.export.load import is_exported

        if runtime == "torch" and is_exported(checkpoint) is None:
            return get_task(self.task).predictor.from_checkpoint(checkpoint, device).optimize()
        from involution.export import load_exported

        if device not in ("auto", "cpu"):
            raise PredictError(f"an exported file runs on the CPU, got --device {device}")
        return load_exported(checkpoint, runtime, task=self.task)

    def run(self, args: Any) -> int:
        """Predict, print the table and write the files."""
        from rich.console import Console
        from rich.progress import track
        from rich.table import Table
        from rich.text import Text

        kind = get_task(self.task).predictor
        options = {option.name: args[option.name] for option in kind.options}
        predict_many.check(args)
        kind.check_call(**options)
        if args.parts:
            return predict_many.run(self.task, args, options)
        output_options = {option.name: args[option.name] for option in kind.output_options}
        pictures = args.pictures if kind.draws else None
        findings = Findings()
        files, unmatched = find_images(args.images, findings)
        if not files:
            raise PredictError("; ".join(map(not_found, unmatched)))
        for line in [*findings.lines(), *map(not_found, unmatched)]:
            print(line, file=sys.stderr)
        whole = Origin(f"{self.task} predict", tuple(map(absolute, args.images)), network_origin(args.checkpoint))
        # before the work, and before the network is read
        if args.output:
            with made_of(whole):
                kind.check_output(args.output)
        folders = {"--output": args.output} if args.output and kind.output[0] == "FOLDER" else {}
        folders |= {"--pictures": pictures} if pictures else {}
        plans = _plans({option: path_of(folder) for option, folder in folders.items()}, files, whole)
        predictor = self._predictor(args.checkpoint, args.runtime, args.device)
        errors = Console(stderr=True)

        def say(line: str) -> None:
            errors.print(printable(line), markup=False, highlight=False, soft_wrap=True)

        for line in predictor.remarks(**options):
            say(line)
        attempts, noticed = Attempts(say), Noticed()

        def tell() -> None:
            for line in noticed.lines(predictor.reading, setting=OF_TRAINING):
                say(line)

        rows: list[list[str]] = []
        done, found, skipped, seconds = 0, 0, 0, 0.0
        with ExitStack() as stack:
            # also of what was read before an interruption
            stack.callback(tell)
            sinks: list[FileSink | FolderSink] = []
            if args.output and "--output" not in folders:
                opened = predictor.open_output(args.output, images=files, noticed=noticed, **output_options)
                sinks.append(stack.enter_context(FileSink(opened, whole, attempts)))
            for plan in plans:
                pictured = plan.option == "--pictures"
                opened = drawing(plan.folder) if pictured else predictor.open_output(plan.folder, **output_options)
                sinks.append(stack.enter_context(FolderSink(opened, plan, attempts)))
            stream = zip(range(len(files)), predictor.stream(files, noticed=noticed, **options), strict=True)
            for place, result in track(
                stream, "predicting", len(files), console=errors, transient=True, disable=not errors.is_interactive
            ):
                for sink in sinks:
                    sink.add(place, result)
                if isinstance(result, SkippedImage):
                    skipped += 1
                    say(f"skipped {result.file}: {result.reason}")
                    continue
                done, found, seconds = done + 1, found + result.found, seconds + result.seconds
                if done <= _MAX_ROWS:
                    rows.append([printable(result.file), *result.cells()])
        console = Console()
        if rows:
            table = Table()
            options.pop("batch_size", None)
            header, lines = predictor.table(rows, **options)
            for title in header:
                table.add_column(Text(title), justify="right" if title.endswith("%") else "left", overflow="fold")
            for row in lines:
                table.add_row(*map(Text, row))
            console.print(table)
        if done > _MAX_ROWS:
            console.print(
                f"and {done - _MAX_ROWS:,} more; --output {kind.output[0]} keeps them all",
                markup=False,
                highlight=False,
            )
        rate = f", {done / seconds:,.{0 if done / seconds >= 100 else 1}f} images/s" if done else ""
        console.print(f"{predictor.summary(done, found, skipped)}{rate}", markup=False, highlight=False)
        attempts.end()
        return 1 if skipped or unmatched or attempts.failed else 0


for_task = PredictCommand


def checkpoint_help(task: str) -> str:
    """What --checkpoint takes."""
    by_name = ", or published weights by name, such as rednet50" if task == "classify" else ""
    return f"best.ckpt of a run, what `involution convert` wrote{by_name}"


def _flag(option: Option) -> str:
    return f"--{option.name.replace('_', '-')}"


def _plans(folders: Mapping[str, Path], files: Sequence[Path], whole: Origin) -> list[FolderPlan]:
    """Which name each image's file gets in the folder of each option."""
    if len({folder.resolve() for folder in folders.values()}) < len(folders):
        raise PredictError(f"wanted two folders for --output and --pictures, got {folders['--output']} for both")
    plans = []
    for option, folder in folders.items():
        check_index(folder)
        origins = [Origin(f"{whole.command} {option}", (absolute(file),), whole.checkpoint) for file in files]
        wanted = [(file.stem, origin) for file, origin in zip(files, origins, strict=True)]
        plans.append(FolderPlan(option, folder, free_names(folder, wanted, [".png"]), origins))
    return plans

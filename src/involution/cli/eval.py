"""Measure a trained network of any task."""

from __future__ import annotations

import functools
import json
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from involution.cli.help import add_names
from involution.cli.predict import checkpoint_help
from involution.engine.files import Origin, absolute, check_output, made_of, network_origin, write_all, write_text
from involution.engine.settings import ConfigError
from involution.engine.task import get_task, task_noun
from involution.extras import require

# figures of more classes are in --output alone
_MANY_CLASSES = 40


@dataclass(frozen=True)
class EvalCommand:
    """The `eval` command of a task.

    Args:
        task: classify, detect, segment.
    """

    task: str
    takes_addresses = True

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        spec = get_task(self.task)
        return (
            f"Measure a trained {task_noun(self.task)} on the {spec.eval_split} images of its data set, or of another."
        )

    @property
    def examples(self) -> tuple[str, ...]:
        """Command lines for the help."""
        command = f"involution {self.task} eval --checkpoint runs/{self.task}/best.ckpt"
        return command, f"{command} --report page.html"

    def add_arguments(self, parser: Any) -> None:
        """Add the options of the evaluation."""
        spec = get_task(self.task)
        parser.add_argument("--checkpoint", required=True, help=checkpoint_help(self.task))
        parser.add_argument("--data", metavar="SPEC", help="a data set, as in training; by default the same")
        parser.add_argument(
            "--split",
            choices=list(spec.splits),
            help=f"which images; by default {spec.eval_split}{', of ImageNet val' if self.task == 'classify' else ''}",
        )
        parser.add_argument(
            "--batch-size", type=int, default=spec.eval_batch_size, help="images per batch on one device"
        )
        parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
        parser.add_argument("--output", metavar="FILE", help="write the figures as JSON")
        parser.add_argument("--report", metavar="FILE", help="write a page with the figures and the hardest images")
        more = parser.add_argument_group("more options")
        more.add_argument("--workers", type=int, default=0, help="loader processes per device")
        more.add_argument("--devices", type=int, default=1, help="devices that share the images")
        more.add_argument("--on-problem", default="refuse", choices=["refuse", "skip"], help="broken files or entries")
        add_names(parser, {"--accelerator": "--device"})
        if spec.figures.predictions_help:
            more.add_argument("--results", metavar="FILE", help=spec.figures.predictions_help)

    def run(self, args: Any) -> int:
        """Evaluate and print a table."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        from involution.engine.evaluation import measure
        from involution.engine.process import is_main_process
        from involution.models.weights import named
        from involution.report.run import REPORT_NEEDS, evaluation_page

        console = Console()
        results = args.results if get_task(self.task).figures.predictions_help else None
        data = absolute(args.data) if args.data else "the data of its training"
        origin = Origin(f"{self.task} eval", (data, f"its {args.split} split"), network_origin(args.checkpoint))
        with made_of(origin):
            for path in filter(None, (args.output, results, args.report)):
                check_output(path)
        outputs = {"--output": args.output, "--results": results, "--report": args.report}
        given = {name: os.path.realpath(path) for name, path in outputs.items() if path}
        if len(set(given.values())) < len(given):
            raise ConfigError(f"wanted different files for {' and '.join(given)}, got {', '.join(given.values())}")
        if args.report:
            require(*REPORT_NEEDS)
        measured = measure(
            args.checkpoint,
            args.data,
            args.split,
            task=self.task,
            batch_size=args.batch_size,
            workers=args.workers,
            devices=args.devices,
            accelerator=args.device,
            on_problem=args.on_problem,
            progress=console.is_interactive,
        )
        if not is_main_process():
            return 0
        found = measured.figures
        header, rows, beside = found.table_beside(named(args.checkpoint))
        what = "all images" if found.split == "all" else f"{found.split} split"
        tables = [(f"{args.checkpoint}, {what}", header, rows)]
        if 1 < len(found.classes) <= _MANY_CLASSES:
            tables.append(("", *found.class_table()))
        for title, header, rows in tables:
            table = Table(title=Text(title) if title else None)
            for number, name in enumerate(header):
                left = not number and (name == "class" or not rows[0][0][:1].isdigit())
                table.add_column(Text(name), justify="left" if left else "right")
            for row in rows:
                table.add_row(*map(Text, row))
            if header:
                console.print(table)
        elsewhere = (
            []
            if args.output or len(found.classes) <= _MANY_CLASSES or not found.class_table()[1]
            else [f"figures of each of the {len(found.classes):,} classes: --output FILE"]
        )
        for line in filter(None, (found.summary(), beside, *elsewhere)):
            console.print(line, markup=False, highlight=False)
        figures = {
            "checkpoint": str(args.checkpoint),
            "split": found.split,
            "num_images": found.num_images,
            **found.to_dict(),
            "warnings": list(measured.warnings),
        }
        steps: list[Callable[[], object]] = []
        if args.output:
            text = json.dumps(figures, indent=2, ensure_ascii=False) + "\n"
            steps.append(functools.partial(write_text, args.output, text))
        if results:
            steps.append(lambda: write_text(results, json.dumps(found.predictions()) + "\n"))
        if args.report:
            command = f"involution {self.task} eval --checkpoint {shlex.quote(str(args.checkpoint))}"
            page = evaluation_page(measured, args.checkpoint, command)
            steps.append(lambda: write_text(args.report, page))
        with made_of(origin):
            write_all(*steps)
        return 0


for_task = EvalCommand

"""See what a data set holds, before training on it: images, classes, sizes, values, boxes, what is not used and why.

Writes a sheet of pictures, each image as it is and as training sees it, with labels, boxes or maps drawn on it, and
everything that was found as JSON. The exit code is 1 if something is malformed, otherwise 0.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from involution.cli.help import add_names

if TYPE_CHECKING:
    from collections.abc import Callable

takes_addresses = True
examples = ("involution data check --data photos --output check",)


def add_arguments(parser: Any) -> None:
    """Options of the check."""
    from involution.data.registry import formats

    kinds = ", ".join(dict.fromkeys(found.syntax for found in formats()))
    parser.add_argument("spec", nargs="?", metavar="SPEC", help="the same as --data SPEC")
    parser.add_argument("--data", metavar="SPEC", help=f"the data set: {kinds}; or a folder in one of these formats")
    tasks = list(dict.fromkeys(found.task for found in formats()))
    parser.add_argument("--task", choices=tasks, help="if the format exists for several tasks")
    parser.add_argument(
        "--output", metavar="FOLDER", help="folder for sheet.png and data.json; by default nothing is written"
    )
    parser.add_argument("--quick", action="store_true", help="check only what training checks, which is faster")
    group = parser.add_argument_group("how the data is read, as in training")
    group.add_argument(
        "--split-seed", type=int, default=0, help="seed for drawing splits that the data set does not have"
    )
    group.add_argument(
        "--split-copies",
        choices=["together", "apart"],
        default="together",
        help="whether drawn splits keep altered copies of one image, by their names, and equal files together",
    )
    group.add_argument("--classes", metavar="FILE", help="file with the class names")
    group.add_argument("--masks", action="store_true", help="for detection, also check and draw the masks")
    group.add_argument("--allow-empty", action="store_true", help="allow classes without training images")
    group.add_argument(
        "--exif", choices=["apply", "ignore"], default="apply", help="whether to apply the EXIF orientation of images"
    )
    group.add_argument(
        "--value-range",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="values shown as black and white, for more than 8 bits",
    )
    group.add_argument("--ignore-index", type=int, default=255, help="value in label maps that is ignored")
    group.add_argument("--values", type=dict, help="class of each value of label maps: '{0: background, 255: lesion}'")
    # as the settings of training, which messages name
    given = ("split_seed", "split_copies", "classes", "exif", "value_range", "ignore_index", "values")
    add_names(parser, {f"--data.{name}": name for name in given})


def run(args: Any) -> int:
    """Check a data set; returns 0, or 1 where something is malformed."""
    from rich.console import Console
    from rich.progress import track

    from involution.data.addresses import path_of
    from involution.data.errors import DataError
    from involution.data.registry import Options, open_data
    from involution.data.survey import survey, whole

    spec = args.data or args.spec
    if bool(args.data) == bool(args.spec):
        raise DataError("wanted one data set: involution data check --data SPEC")
    options = Options(
        on_problem="skip",
        split_seed=args.split_seed,
        split_copies=args.split_copies,
        classes=args.classes,
        masks=args.masks,
        allow_empty=args.allow_empty,
        exif=args.exif,
        value_range=tuple(args.value_range) if args.value_range else None,
        ignore_index=args.ignore_index,
        # as an attribute it would be the method of that name
        values=args["values"],
    )
    task = args.task or _task(spec)
    _refuse_needless(args, task, spec)
    sheet = _Sheet(path_of(args.output), task, spec) if args.output else None
    data = open_data(task, spec, options)
    if not args.quick:
        console = Console(stderr=True)
        data = whole(
            data,
            lambda found, total: track(
                found, "reading", total, console=console, transient=True, disable=not console.is_interactive
            ),
        )
    found = survey(data, quick=args.quick)
    found.warnings += _cropped(task, data)
    for line in [*found.lines(), *data.findings.lines(), *found.warning_lines()]:
        print(line)
    if not (found.warnings or data.problems or data.findings.lacking):
        print("nothing malformed or suspicious found")
    if sheet is not None:
        sheet.write(data, found)
    return 1 if data.problems else 0


def _refuse_needless(args: Any, task: str, spec: str) -> None:
    """Raise `DataError` for an option that the task does not have."""
    from involution.data.errors import DataError

    given = {"classes": args.classes, "masks": args.masks, "values": args["values"]}
    given["ignore_index"] = args.ignore_index != 255
    owners = {"classes": "classify", "masks": "detect", "values": "segment", "ignore_index": "segment"}
    for name, owner in owners.items():
        if given[name] and task != owner:
            raise DataError(f"--{name.replace('_', '-')} is for {owner}, but {spec} is checked as data for {task}")


def _task(spec: str) -> str:
    from involution.data.errors import DataError
    from involution.data.registry import formats, tasks_of, unrecognised

    tasks = tasks_of(spec)
    if not tasks:
        known = ", ".join(dict.fromkeys(found.syntax for found in formats()))
        hint = f"; {found}" if (found := unrecognised(spec)) else ""
        raise DataError(f"{spec} is not in a known or recognised format; say which: {known}{hint}")
    if len(tasks) > 1:
        print(f"taken as data for {tasks[0]}; --task {' or '.join(tasks[1:])} for the other", file=sys.stderr)
    return tasks[0]


def _cropped(task: str, data: Any) -> list[str]:
    """A warning of each split with images of which a network by the task's defaults sees little."""
    from involution.data.parts import stored_of
    from involution.data.survey import cropped_warnings
    from involution.engine.task import get_task, task_noun, with_article

    spec = get_task(task)
    config = spec.config()

    def share(size: tuple[int, int]) -> float:
        return spec.share_seen(config, size)

    viewer = f"{with_article(task_noun(task))} with the default settings"
    found = (cropped_warnings(stored_of(part), share, f"images of {name}", viewer) for name, part in data.parts.items())
    return [line for lines in found for line in lines]


class _Sheet:
    """The files of a check; refuses before the work what would be lost."""

    def __init__(self, folder: Path, task: str, spec: str) -> None:
        from involution.engine.files import Origin, absolute
        from involution.engine.outputs import free_names
        from involution.extras import require

        # what drawing needs, and what training does to images
        require("matplotlib", "torchvision", "lightning")
        self.folder, self.task = folder, task
        self.origin = Origin(f"data check --task {task}", (absolute(spec),))
        (self.data,) = (folder / f"{name}.json" for name in free_names(folder, [("data", self.origin)], [".json"]))
        (self.sheet,) = (folder / f"{name}.png" for name in free_names(folder, [("sheet", self.origin)], [".png"]))

    def write(self, data: Any, found: Any) -> None:
        """Write them, each whatever becomes of the other."""
        from involution.data.findings import some
        from involution.data.sheet import draw_sheet
        from involution.engine.files import atomic_path, made_of, write_all, write_text

        complaints: list[str] = []

        def draw() -> None:
            with atomic_path(self.sheet) as partial:
                draw_sheet(data, _augment(self.task, data), complaints).save(partial, format="PNG")

        content = json.dumps(found.to_dict(), indent=1, ensure_ascii=False) + "\n"
        with made_of(self.origin):
            write_all(lambda: write_text(self.data, content), draw)
        if complaints:
            print(f"not on the sheet: {some(complaints)}", file=sys.stderr)
        print(f"wrote {self.data} and {self.sheet}")


def _augment(task: str, data: Any) -> Callable[..., Any]:
    """What a task's defaults do to a training item, without normalisation."""
    from involution.engine.task import get_task

    spec = get_task(task)
    config = spec.config()
    channels = len(config.data.mean)
    plain = replace(config.data, mean=(0.0,) * channels, std=(1.0,) * channels)
    first = next(iter(data.parts.values()))
    items: Any = spec.train_set(replace(config, data=plain), replace(data, parts={"train": first}))

    def augment(image: Any, target: Any) -> Any:
        return items.random(*((image, target) if items.fixed is None else items.fixed(image, target)))

    return augment

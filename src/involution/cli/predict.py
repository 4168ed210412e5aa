"""Use a trained network of any task on image files.

Files that can't be read are reported and skipped, and so are those that can't be written; the exit code is then 1.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from involution.data.errors import printable
from involution.data.findings import Findings
from involution.data.images import ImageError, read_image
from involution.engine.files import atomic_path, check_free, make_folder
from involution.engine.predictor import Add, Option, PredictError, Predictor, SkippedImage, find_images
from involution.engine.task import get_task, task_noun

if TYPE_CHECKING:
    from involution.data.images import Reading

_MAX_ROWS, _MAX_TOLD = 100, 10
# in a folder of outputs: a line for each image, with its input and its output
_INDEX = "index.jsonl"


@dataclass(frozen=True)
class PredictCommand:
    """The `predict` command of a task.

    Args:
        task: classify, detect, segment.
    """

    task: str

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return (
            f"Use a trained {task_noun(self.task)} on image files; prints a table and optionally writes files.\n\n"
            "Files that can't be read or written are reported and skipped; the exit code is then 1."
        )

    def add_arguments(self, parser: Any) -> None:
        """Add the options of the prediction."""
        predictor = get_task(self.task).predictor
        parser.add_argument("images", nargs="+", help="image files, folders or glob patterns such as 'photos/**/*.jpg'")
        parser.add_argument("--checkpoint", required=True, help=checkpoint_help(self.task))
        metavar, what = predictor.output
        parser.add_argument("--output", metavar=metavar, help=what)
        for option in (*predictor.options, *predictor.output_options):
            more: dict[str, Any] = {"choices": list(option.choices)} if option.choices else {"type": option.kind}
            parser.add_argument(_flag(option), default=option.default, help=option.help, **more)
        if predictor.draws:
            parser.add_argument("--pictures", metavar="FOLDER", help="write the images with the results drawn on them")
        parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps, ...")

    def run(self, args: Any) -> int:
        """Predict, print the table and write the files."""
        from rich.console import Console
        from rich.progress import track
        from rich.table import Table
        from rich.text import Text

        kind = get_task(self.task).predictor
        options = {option.name: args[option.name] for option in kind.options}
        output_options = {option.name: args[option.name] for option in kind.output_options}
        pictures = args.pictures if kind.draws else None
        predictor: Predictor[Any] = kind.from_checkpoint(args.checkpoint, args.device)
        findings = Findings()
        files, unmatched = find_images(args.images, findings)
        if not files:
            raise PredictError(f"no images found in {', '.join(map(printable, unmatched))}")
        for line in [*findings.lines(), *(f"{printable(source)}: no images found" for source in unmatched)]:
            print(line, file=sys.stderr)
        names = output_names(files)
        folders = [args.output] if args.output and kind.output[0] == "FOLDER" else []
        folders += [pictures] if pictures else []
        check_folders(folders, [f"{name}.png" for name in names])
        errors = Console(stderr=True)
        unwritten: list[Exception] = []

        def say(line: str) -> None:
            errors.print(printable(line), markup=False, highlight=False, soft_wrap=True)

        def tell(error: Exception) -> None:
            unwritten.append(error)
            if len(unwritten) <= _MAX_TOLD:
                say(f"not written: {_reason(error, with_file=True)}")

        rows: list[list[str]] = []
        done, found, skipped, seconds = 0, 0, 0, 0.0
        with ExitStack() as stack:
            adds: list[Add] = []
            if args.output:
                output = predictor.open_output(args.output, images=files, **output_options)
                indexed = _indexed(output, Path(args.output), tell) if args.output in folders else _alone(output, tell)
                adds.append(stack.enter_context(indexed))
            if pictures:
                make_folder(pictures)
                drawing = nullcontext(_drawing(Path(pictures), predictor.reading))
                adds.append(stack.enter_context(_indexed(drawing, Path(pictures), tell)))
            stream = zip(names, predictor.stream(files, **options), strict=True)
            for name, result in track(
                stream, "predicting", len(files), console=errors, transient=True, disable=not errors.is_interactive
            ):
                for add in adds:
                    add(result, name)
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
                table.add_column(title, justify="right" if title.endswith("%") else "left", overflow="fold")
            for row in lines:
                table.add_row(*map(Text, row))
            console.print(table)
        if done > _MAX_ROWS:
            console.print(f"and {done - _MAX_ROWS:,} more; --output {kind.output[0]} keeps them all", highlight=False)
        rate = f", {done / seconds:,.{0 if done / seconds >= 100 else 1}f} images/s" if done else ""
        console.print(f"{predictor.summary(done, found, skipped)}{rate}", highlight=False)
        if len(unwritten) > _MAX_TOLD:
            say(f"not written: {len(unwritten) - _MAX_TOLD:,} more")
        return 1 if skipped or unmatched or unwritten else 0


for_task = PredictCommand


def checkpoint_help(task: str) -> str:
    """What --checkpoint takes."""
    by_name = ", or published weights by name, such as rednet50" if task == "classify" else ""
    return f"best.ckpt of a run, what `involution convert` wrote{by_name}"


def _flag(option: Option) -> str:
    return f"--{option.name.replace('_', '-')}"


def output_names(files: Sequence[Path]) -> list[str]:
    """What files of these images are called: their own names without suffix, numbered where several have the same."""
    taken: set[str] = set()
    names = []
    for file in files:
        name, number = file.stem, 1
        # a file system may take upper and lower case for the same
        while name.casefold() in taken:
            number += 1
            name = f"{file.stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def check_folders(folders: Sequence[str], names: Sequence[str]) -> None:
    """Check before the work that files of these names replace nothing in the folders but what a prediction made.

    Raises:
        PredictError: if two kinds of files are to go into one folder.
        FileExistsError: for a file that is somebody else's.
    """
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise PredictError(f"wanted two folders for --output and --pictures, got {folders[0]} for both")
    for folder in folders:
        for name in (*names, _INDEX):
            check_free(Path(folder) / name)


@contextmanager
def _alone(output: AbstractContextManager[Add], tell: Callable[[Exception], None]) -> Iterator[Add]:
    """Let a file that can't be written any further cost no other one."""
    with ExitStack() as stack:
        write: Add | None = stack.enter_context(output)

        def add(result: Any, name: str) -> None:
            nonlocal write
            try:
                if write is not None:
                    write(result, name)
            except OSError as error:
                write = None
                end(error)

        def end(error: OSError | None = None) -> None:
            try:
                # what was written of it so far is dropped, and the error then names the file
                stack.pop_all().__exit__(type(error) if error else None, error, None)
            except OSError as named:
                error = named
            if error is not None:
                tell(error)

        yield add
        end()


@contextmanager
def _indexed(output: AbstractContextManager[Add], folder: Path, tell: Callable[[Exception], None]) -> Iterator[Add]:
    """Write a file for each image, and which they are; one that can't be written costs no other one."""
    with output as write, _alone(_index(folder), tell) as note:

        def add(result: Any, name: str) -> None:
            try:
                write(result, name)
            # an image may have gone since
            except (OSError, ImageError) as error:
                tell(error)
                result = SkippedImage(result.file, f"not written: {_reason(error)}")
            note(result, name)

        yield add


def _reason(error: Exception, with_file: bool = False) -> str:
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return f"{os.fsdecode(error.filename)}: {error.strerror}" if with_file and error.filename else error.strerror


@contextmanager
def _index(folder: Path) -> Iterator[Add]:
    """Write which file belongs to which image."""
    with (
        atomic_path(folder / _INDEX) as partial,
        partial.open("w", encoding="utf-8", errors="backslashreplace") as file,
    ):

        def add(result: Any, name: str) -> None:
            line = {"input": result.file}
            line |= {"error": result.reason} if isinstance(result, SkippedImage) else {"output": f"{name}.png"}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

        yield add


def _drawing(folder: Path, reading: Reading) -> Add:
    def add(result: Any, name: str) -> None:
        if isinstance(result, SkippedImage):
            return
        with atomic_path(folder / f"{name}.png") as temporary:
            result.draw(read_image(result.file, reading=reading)).save(temporary, format="PNG")

    return add

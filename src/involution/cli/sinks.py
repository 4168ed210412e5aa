"""Where the results of a prediction go; what can't be written costs nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from involution.data.findings import some
from involution.engine.files import Origin, atomic_path, made_of
from involution.engine.outputs import Attempts, write_index
from involution.engine.predictor import Add, SkippedImage


class FileSink:
    """One file of all results.

    Args:
        opened: Takes the results.
        origin: What they are the results of.
        attempts: Counts what can't be written.
    """

    def __init__(self, opened: AbstractContextManager[Add], origin: Origin, attempts: Attempts) -> None:
        self._stack = ExitStack()
        self._attempts = attempts
        self._open = True
        with made_of(origin):
            self._add = self._stack.enter_context(opened)

    def add(self, place: int, result: Any) -> None:
        """Add the result of an image, by its place in the list of images."""
        if not self._open:
            return
        try:
            self._add(result, "")
        except OSError as error:
            self._open = False
            with self._attempts.one():
                # this deletes what was written, and names the file
                self._stack.__exit__(type(error), error, error.__traceback__)

    def __enter__(self) -> FileSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open:
            with self._attempts.one():
                self._stack.__exit__(kind, error, trace)


@dataclass(frozen=True)
class FolderPlan:
    """What goes into a folder.

    Args:
        option: The option that names it.
        folder: The folder.
        names: The name of each image's file, without ending.
        origins: What they are the results of.
    """

    option: str
    folder: Path
    names: Sequence[str]
    origins: Sequence[Origin]


class FolderSink:
    """A folder with a file for each image, and an index of them.

    Args:
        opened: Takes the results.
        plan: The folder, and the names in it.
        attempts: Counts what can't be written.
    """

    def __init__(self, opened: AbstractContextManager[Add], plan: FolderPlan, attempts: Attempts) -> None:
        self._stack = ExitStack()
        self._plan, self._attempts = plan, attempts
        self._errors: list[tuple[Origin, str]] = []
        self._written: set[Origin] = set()
        self._add = self._stack.enter_context(opened)

    def add(self, place: int, result: Any) -> None:
        """Add the result of an image, by its place in the list of images."""
        origin = self._plan.origins[place]
        if isinstance(result, SkippedImage):
            self._errors.append((origin, result.reason))
            return
        before = self._attempts.failed
        with self._attempts.one(), made_of(origin):
            self._add(result, self._plan.names[place])
        if self._attempts.failed > before:
            self._errors.append((origin, f"not written: {self._attempts.reason}"))
        else:
            self._written.add(origin)

    def __enter__(self) -> FolderSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        # also of what was written before an interruption
        with self._attempts.one():
            made = write_index(self._plan.folder, self._errors)
            earlier = sorted(name for name, origin in made.items() if origin not in self._written)
            if earlier:
                self._attempts.tell(f"{self._plan.folder} also holds files of earlier commands: {some(earlier)}")


@contextmanager
def drawing(folder: Path) -> Iterator[Add]:
    """A folder of the images with the results drawn on them."""

    def add(result: Any, name: str) -> None:
        with atomic_path(folder / f"{name}.png") as temporary:
            result.draw_explained(result.file).save(temporary, format="PNG")

    yield add

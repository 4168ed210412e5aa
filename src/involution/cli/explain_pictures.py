"""The files that `involution explain` writes: their names, what they show, and an index of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from involution.data.errors import printable
from involution.data.images import ImageError
from involution.data.noticed import OF_TRAINING, Noticed
from involution.engine.files import Origin, absolute, atomic_path, made_of
from involution.engine.outputs import Attempts, check_index, free_names, write_index
from involution.explain.errors import ExplainError


@dataclass(frozen=True)
class Pictures:
    """What is drawn of each image, and where it goes.

    Args:
        folder: The output folder.
        layer: Name of the involution.
        what: The pictures: kernels, heatmap, stages, receptive-field, animation.
        format: Suffix of the still ones.
        style: light or dark.
        frames: Number of frames of the animation.
        points: Positions in the image, (x, y) in pixels.
        groups: Of kernels, from 0; None for those that the pictures choose.
        checkpoint: The network's file, from the root, or what it is.
        twin: That of its convolution twin.
        average: Images of the mean receptive field.
    """

    folder: Path
    layer: str
    what: Sequence[str]
    format: str
    style: str
    frames: int
    points: Sequence[tuple[int, int]]
    groups: Sequence[int] | None
    checkpoint: str
    twin: Path | None
    average: Sequence[Path]

    @cached_property
    def moving(self) -> list[str]:
        """Suffixes of the animation's files."""
        from matplotlib.animation import FFMpegWriter

        return [".gif", *([".mp4"] if FFMpegWriter.isAvailable() else [])] if "animation" in self.what else []

    def ending(self, kind: str) -> str:
        """What follows the image's name in that of a still picture."""
        return f"-stages.{self.format}" if kind == "stages" else f"-{self.layer}-{kind}.{self.format}"

    def origin(self, image: Path, kind: str = "") -> Origin:
        """What a picture of this kind is the result of; without a kind, all of them together."""
        used = [image]
        if self.twin and kind not in ("kernels", "heatmap", "stages"):
            used.append(self.twin)
        if kind in ("", "receptive-field"):
            used += self.average
        return Origin("explain", tuple(map(absolute, used)), self.checkpoint)

    def names(self, images: Sequence[Path]) -> list[str]:
        """The beginning of the names of each image's files; refuses what would be lost."""
        check_index(self.folder)
        endings = [self.ending(kind) for kind in self.what if kind != "animation"]
        endings += [f"-{self.layer}-window{suffix}" for suffix in self.moving]
        return free_names(self.folder, [(image.stem, self.origin(image)) for image in images], endings)


def draw_all(pictures: Pictures, images: Sequence[Path], subject: Any, twin: Any) -> bool:
    """Draw the pictures of each image and print their paths.

    Args:
        pictures: What is drawn.
        images: Of which images.
        subject: The network.
        twin: Its convolution twin, or None.

    Returns:
        Whether everything is there; what can't be read or written is told and costs nothing else.

    Raises:
        ExplainError: If the only image can't be explained as asked.
        ImageError: If it can't be read.
        FileExistsError: For a file that is not replaced, before the work.
    """

    def say(line: str) -> None:
        print(printable(line), file=sys.stderr)

    names = pictures.names(images)
    attempts = Attempts(say)
    errors: list[tuple[Origin, str]] = []
    noticed = Noticed()
    notes: dict[str, list[Path]] = {}
    averaged, complete = _averaged([part for part in (subject, twin) if part], pictures.average, say, noticed)
    try:
        for image, name in zip(images, names, strict=True):
            try:
                _draw(pictures, image, name, subject, twin, averaged, attempts, noticed, notes)
            except (ExplainError, ImageError) as error:
                if len(images) == 1:
                    raise
                reason = str(error).removeprefix(printable(f"{image}: "))
                say(f"skipped {image}: {reason}")
                errors.append((pictures.origin(image), reason))
    finally:
        if pictures.folder.is_dir():
            with attempts.one():
                write_index(pictures.folder, errors)
        for line in noticed.lines(subject.reading, setting=OF_TRAINING):
            say(line)
    attempts.end()
    for note, files in notes.items():
        say(f"{files[0]}{f' and {len(files) - 1} more' if len(files) > 1 else ''}: {note}")
    if pictures.moving == [".gif"]:
        say("no MP4: ffmpeg is not installed")
    return complete and not errors and not attempts.failed


def _averaged(parts: Sequence[Any], files: Sequence[Path], say: Any, noticed: Noticed) -> tuple[list[Any] | None, bool]:
    """Each network's input of all images that can be read, `[N, C, H, W]`, and whether that is all of them."""
    import torch

    if not files:
        return None, True
    views = []
    for file in files:
        try:
            first, *others = parts
            views.append([first.view(file, noticed).input, *(part.view(file).input for part in others)])
        except ImageError as error:
            say(f"skipped {error}")
    if not views:
        raise ExplainError("--average: none of these images can be read")
    if len({item.shape for item in (view[0] for view in views)}) > 1:
        raise ExplainError("--average: this network does not resize its images, and these differ in size")
    return [torch.cat(inputs) for inputs in zip(*views, strict=True)], len(views) == len(files)


def _draw(
    pictures: Pictures,
    image: Path,
    name: str,
    subject: Any,
    twin: Any,
    averaged: Any,
    attempts: Attempts,
    noticed: Noticed,
    notes: dict[str, list[Path]],
) -> None:
    """Draw the pictures of an image one by one, and print their paths; add what must be known to the notes."""
    from involution.explain import (
        animate,
        heat_map_figure,
        kernels_figure,
        layer_map,
        receptive_field_figure,
        stages_figure,
    )
    from involution.explain.figures import chosen_groups

    # those of the average were told of
    view = subject.view(image, None if image in pictures.average and averaged else noticed)
    other = twin.view(image) if twin else None
    for note in view.notes:
        notes.setdefault(note, []).append(image)
    layer, style, groups = pictures.layer, pictures.style, pictures.groups
    found = layer_map(view, layer)
    # positions and groups are checked before anything is drawn
    places = [found.position(*view.input_pixel(x, y)) for x, y in pictures.points]
    if groups and {"kernels", "heatmap", "animation"} & set(pictures.what):
        chosen_groups(groups, found, len(groups))
    views = [view, *([other] if other else [])]
    figures = {
        "kernels": lambda: kernels_figure(view, layer, list(dict.fromkeys(places)) or None, groups=groups, style=style),
        "heatmap": lambda: heat_map_figure(view, layer, groups=groups, style=style),
        "stages": lambda: stages_figure(view, style=style),
        "receptive-field": lambda: receptive_field_figure(
            views, layer, places[0] if places else None, images=averaged, style=style
        ),
    }
    for kind, draw in figures.items():
        if kind in pictures.what:
            path = pictures.folder / f"{name}{pictures.ending(kind)}"
            figure = draw()
            with attempts.one(), made_of(pictures.origin(image, kind)):
                with atomic_path(path) as partial:
                    figure.savefig(partial, format=pictures.format, dpi=160)
                print(printable(path))
    if pictures.moving:
        group = groups[0] if groups else 0
        animation = animate(view, layer, twin=other, group=group, frames=pictures.frames, style=style)
        for path in _written(pictures, animation, f"{name}-{layer}-window", image, attempts):
            print(printable(path))


def _written(pictures: Pictures, animation: Any, name: str, image: Path, attempts: Attempts) -> Iterator[Path]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from involution.explain import save_animation

    console = Console(stderr=True)
    # names of files may have brackets
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_interactive) as progress:
        for suffix in pictures.moving:
            file = pictures.folder / f"{name}{suffix}"
            task = progress.add_task(printable(file.name), total=pictures.frames)

            def tell(done: int, frames: int, task: Any = task) -> None:
                progress.update(task, completed=done + 1)

            with attempts.one(), made_of(pictures.origin(image, "animation")):
                save_animation(animation, file, tell)
                yield file

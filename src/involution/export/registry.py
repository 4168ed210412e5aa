"""The formats of exported files and what each task exports: a file each, registered by name."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from involution.data.errors import nearest
from involution.export.errors import ExportError
from involution.extras import require

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from involution.engine.card import ModelCard
    from involution.engine.predictor import Predictor
    from involution.export.graph import Graph, Run
    from involution.export.metadata import Metadata

    # runs a file as `Run` does, on arrays
    ArrayRun = Callable[[Sequence[NDArray[Any]]], tuple[NDArray[Any], ...]]


@dataclass(frozen=True)
class Settings:
    """What is asked of an export, besides its place.

    Args:
        with_preprocessing: the graph takes 8-bit pictures of any size, and gives results for their own pixels.
        size: height and width of the images; None leaves them open where a task's images differ in size.
        opset: version of ONNX's operators; None for the one that is tested.
        operators: of ONNX: `standard` ones run anywhere, those of the `library` are faster.
        weights: type that they are stored as; what is computed stays float32.
        int8: what the graph is called with for each image that 8-bit numbers are calibrated on; None for float32.
    """

    with_preprocessing: bool = False
    size: tuple[int, int] | None = None
    opset: int | None = None
    operators: str = "standard"
    weights: str = "float32"
    int8: Sequence[tuple[Tensor, ...]] | None = None


@dataclass(frozen=True)
class Format:
    """A format of exported files.

    Attributes:
        name: as on the command line.
        suffix: what its files end in.
        description: one line for the help.
        runtime: what runs its files, as `predict --runtime` has it.
        packages: that running needs.
        writers: that writing needs besides, and torch.
        quantisers: what 8 bits need besides.
        write: writes the graph, with the JSON of its metadata, to a file.
        metadata: the JSON in a file, None where there is none; runs nothing that is in the file.
        load: makes a function that runs a file on tensors.
        recognises: whether a file is of this format, by its content.
        options: settings that it knows, besides `with_preprocessing` and `size`.
        check: raises `ExportError` for settings that it can't take.
        beside: what its files have beside them: suffixes.
        remark: what else is to be said of a file that was written, in a few words, or nothing.
        load_arrays: makes a function that runs a file on NumPy's arrays, without torch; None where it takes torch.
    """

    name: str
    suffix: str
    description: str
    runtime: str
    packages: tuple[str, ...]
    write: Callable[[Graph, str, Path, Settings], None]
    metadata: Callable[[Path], str | None]
    load: Callable[[Path], Run]
    recognises: Callable[[Path], bool]
    options: tuple[str, ...] = ()
    check: Callable[[Settings], None] = lambda settings: None
    beside: tuple[str, ...] = ()
    remark: Callable[[Path, Graph], str] = lambda path, graph: ""
    quantisers: tuple[str, ...] = ()
    writers: tuple[str, ...] = ()
    load_arrays: Callable[[Path], ArrayRun] | None = None

    def require(self, writing: bool = False, int8: bool = False) -> None:
        """Raise `MissingExtra` for a package that is not installed."""
        require(*self.packages, *(self.writers if writing else ()), *(self.quantisers if int8 else ()))


@dataclass(frozen=True)
class TaskExport:
    """What a task exports and how a file of it is used.

    Attributes:
        task: its name.
        graph: from the network, its card and the settings to what is exported.
        network: from what runs a file and its metadata to a module that is called like the network.
        prepare: from a predictor and an image to what its network is called with.
        outputs: from a predictor, an image and what its network returned to tensors that can be compared.
        agreement: from these of all images, by PyTorch and by a file, and whether the file resizes, to the largest
            difference and what it should be below, and to words about what was found.
        multiple_of: what a network's inputs are filled up to a multiple of; None if to nothing.
        inside: from a card to what `with_preprocessing` puts into the graph, by the words of `metadata.STEPS`.
        opens: sizes of its images that are left open: batch, height, width.
        fixes: those that a size fixes.
        check: raises `ExportError` for a network or settings that it can't export, before any work.
    """

    task: str
    graph: Callable[[nn.Module, ModelCard, Settings], Graph]
    network: Callable[[Run, Metadata], nn.Module]
    prepare: Callable[[Predictor[Any], Any], Any]
    outputs: Callable[[Predictor[Any], Any, Any], tuple[Tensor, ...]]
    agreement: Callable[[Sequence[tuple[Tensor, ...]], Sequence[tuple[Tensor, ...]], bool], tuple[float, float, str]]
    multiple_of: Callable[[nn.Module], int | None] = lambda network: None
    inside: Callable[[ModelCard], tuple[str, ...]] = lambda card: ()
    opens: tuple[str, ...] = ("batch", "height", "width")
    fixes: tuple[str, ...] = ("height", "width")
    check: Callable[[nn.Module, ModelCard, Settings], None] = lambda network, card, settings: None


_FORMATS: dict[str, Format] = {}
_TASKS: dict[str, TaskExport] = {}


def register(found: Format) -> Format:
    """Make a format known by its name.

    Raises:
        ValueError: if there is one of that name already.
    """
    if found.name in _FORMATS:
        raise ValueError(f"there is already a format named {found.name}")
    _FORMATS[found.name] = found
    return found


def register_task(found: TaskExport) -> TaskExport:
    """Make known what a task exports.

    Raises:
        ValueError: if it is known already.
    """
    if found.task in _TASKS:
        raise ValueError(f"it is already known what {found.task} exports")
    _TASKS[found.task] = found
    return found


def on_tensors(load: Callable[[Path], ArrayRun]) -> Callable[[Path], Run]:
    """What runs files on tensors, of what runs them on arrays."""

    def loaded(path: Path) -> Run:
        import torch

        run = load(path)

        def on_tensors(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
            return tuple(torch.from_numpy(found) for found in run([tensor.numpy(force=True) for tensor in inputs]))

        return on_tensors

    return loaded


def formats() -> dict[str, Format]:
    """All formats by name, PyTorch's first.

    Example:
        >>> list(formats())[:2]
        ['pt2', 'aoti']
    """
    _load("formats")
    return dict(sorted(_FORMATS.items(), key=lambda item: (bool(item[1].packages), item[0] != "pt2", item[0])))


def get_format(name: str) -> Format:
    """The format of a name.

    Raises:
        ExportError: for an unknown one.
    """
    known = formats()
    if name not in known:
        raise ExportError(f"no format named {name!r} (there are {', '.join(known)}){nearest(name, known)}")
    return known[name]


def tasks() -> list[str]:
    """The tasks that export.

    Example:
        >>> tasks()
        ['classify', 'detect', 'segment']
    """
    _load("tasks")
    return sorted(_TASKS)


def get_task(task: str) -> TaskExport:
    """What a task exports.

    Raises:
        ExportError: if it exports nothing.
    """
    if task not in tasks():
        raise ExportError(f"a network of the task {task!r} can't be exported; wanted {', '.join(tasks())}")
    return _TASKS[task]


@functools.cache
def _load(folder: str) -> None:
    package = importlib.import_module(f"involution.export.{folder}")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")

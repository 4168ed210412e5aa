"""The network as a graph for other runtimes: tensors in, tensors out, with names and the sizes that are left open."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.symbolic_shapes import is_concrete_int

from involution.export.errors import ExportError
from involution.ops.backends import choose_fused

# runs a file: its inputs in order to its outputs in order
Run = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Input:
    """One input of a graph.

    Attributes:
        name: in the file.
        example: a tensor for the trace.
        open: place of each dimension that is left open -> its name; the place 0 is the batch.
    """

    name: str
    example: Tensor
    open: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """What is exported.

    Attributes:
        module: from the inputs in order to a tuple of tensors.
        inputs: its inputs.
        outputs: names of its outputs.
    """

    module: nn.Module
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]


def trace(graph: Graph) -> ExportedProgram:
    """The graph as a program of torch.export, in which each involution is one fused operator.

    Raises:
        ExportError: if the network can't be traced, or not with these sizes left open.
    """
    sizes = tuple(
        {place: Dim(name, min=1) if place == 0 else Dim.AUTO for place, name in one.open.items()}
        for one in graph.inputs
    )
    examples = tuple(one.example for one in graph.inputs)
    try:
        with torch.no_grad(), choose_fused(True), _any_memory_order(), warnings.catch_warnings():
            # of libraries about their own parts
            warnings.simplefilter("ignore")
            program = torch.export.export(graph.module.eval(), examples, dynamic_shapes=sizes)
    # it fails in many ways, with pages of text
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ExportError(f"torch.export can't trace this network: {first[:300]}") from error
    _forget_checks(program)
    for one, shape in zip(graph.inputs, _shapes(program, "placeholder"), strict=True):
        for place, name in one.open.items():
            if is_concrete_int(shape[place]):
                raise ExportError(f"this network can't leave the {name} open; give a --size, such as 512x512")
    return program


def _forget_checks(program: ExportedProgram) -> None:
    """Drop the checks of tensors' types, which hold wherever the trace did.

    A constant that one of them reads is lost in PyTorch 2.14 when it freezes the rest of the graph.
    """
    for node in list(program.graph.nodes):
        if node.target == torch.ops.aten._assert_tensor_metadata.default:
            program.graph.erase_node(node)
    program.graph_module.recompile()


@contextmanager
def _any_memory_order() -> Iterator[None]:
    """Let the trace note nothing of its tensors' memory order.

    What it notes nobody reads, but it makes the program refuse images in which a crop would not be, as in the example,
    the whole tensor.
    """
    note: Any = proxy_tensor._extract_tensor_metadata
    proxy_tensor._extract_tensor_metadata = partial(note, include_contiguity=False)
    try:
        yield
    finally:
        proxy_tensor._extract_tensor_metadata = note


def input_shapes(graph: Graph) -> list[list[int | str]]:
    """Shape of each input, with names in place of the sizes that are left open."""
    return [[one.open.get(place, size) for place, size in enumerate(one.example.shape)] for one in graph.inputs]


def _shapes(program: ExportedProgram, kind: str) -> list[Any]:
    names = set(program.graph_signature.user_inputs)
    nodes = [node for node in program.graph.nodes if node.op == kind and node.name in names]
    return [node.meta["val"].shape for node in nodes]

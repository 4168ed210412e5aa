"""ONNX models in which sizes that the graph computes are read from the shapes of its tensors.

OpenVINO 2026.4 knows in time what is computed from shapes. Where a graph computes sizes from values, as those of an
image that it resizes, OpenVINO reads them before they are there, so that a detector of two stages finds nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

# what lies between a number and the end of the range that is made of it
_BETWEEN = ("Cast", "Gather", "Mul")


@dataclass(frozen=True)
class _Size:
    """A dimension of a tensor that is a multiple of a number."""

    tensor: str
    axis: int
    factor: int


def read_sizes(model: ModelProto) -> None:
    """Let whatever does not lead to an image of a computed size read that size from the image, in place."""
    makers = {name: node for node in model.graph.node for name in node.output}
    numbers, sizes = _find(model, makers)
    nodes = list(model.graph.node)
    for symbol, size in sizes.items():
        before = _leading_to(makers[size.tensor], makers)
        rest = [node for node in nodes if id(node) not in before]
        read = _reading(model, f"{symbol}_read", size)
        makers |= {node.output[0]: node for node in read}
        for node in rest:
            for place, name in enumerate(node.input):
                if name == numbers[symbol]:
                    node.input[place] = read[-1].output[0]
        nodes = [*(node for node in nodes if id(node) in before), *read, *rest]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _find(model: ModelProto, makers: Mapping[str, NodeProto]) -> tuple[dict[str, str], dict[str, _Size]]:
    """The computed numbers by their symbols, and for each the first image that has a multiple of it as a size."""
    shapes = {one.name: [size.dim_param for size in one.type.tensor_type.shape.dim] for one in model.graph.value_info}
    numbers: dict[str, str] = {}
    sizes: dict[str, _Size] = {}
    for node in model.graph.node:
        shape = shapes.get(node.output[0], [])
        for axis, text in enumerate(shape):
            # as torch.export names what it can't know
            found = re.fullmatch(r"(?:(\d+)\*)?(u\d+)", text)
            if found is None:
                continue
            if node.op_type == "Range" and (number := _number(node.input[1], makers)):
                numbers.setdefault(found[2], number)
            elif len(shape) == 4 and found[2] in numbers:
                sizes.setdefault(found[2], _Size(node.output[0], axis, int(found[1] or 1)))
    return numbers, sizes


def _number(name: str, makers: Mapping[str, NodeProto]) -> str | None:
    """The value that the end of a range is made of."""
    node = makers.get(name)
    if node is None or node.op_type not in _BETWEEN:
        return None
    return name if node.op_type == "Gather" else next(filter(None, (_number(one, makers) for one in node.input)), None)


def _leading_to(node: NodeProto, makers: Mapping[str, NodeProto]) -> set[int]:
    found, left = {id(node)}, [node]
    while left:
        for one in (makers[name] for name in left.pop().input if name in makers):
            if id(one) not in found:
                found.add(id(one))
                left.append(one)
    return found


def _reading(model: ModelProto, name: str, size: _Size) -> list[NodeProto]:
    """Nodes of which the last gives the number."""
    for part, value in (("axis", size.axis), ("factor", size.factor)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), f"{name}_{part}"))
    return [
        helper.make_node("Shape", [size.tensor], [f"{name}_shape"]),
        helper.make_node("Gather", [f"{name}_shape", f"{name}_axis"], [f"{name}_size"], axis=0),
        helper.make_node("Div", [f"{name}_size", f"{name}_factor"], [name]),
    ]

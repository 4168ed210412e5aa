"""Reads ONNX models: what is known of their tensors, and which nodes are needed; puts other nodes into them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

_FOLDED = ("Cast", "Constant", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


@dataclass(frozen=True)
class Known:
    """What is known of a tensor.

    Attributes:
        kind: type of its elements.
        sizes: for each dimension a number, a name, or None.
    """

    kind: int
    sizes: tuple[int | str | None, ...]


class Values:
    """The values of a graph's constants, also where a few operations lie between."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._stored = {one.name: one for one in model.graph.initializer}
        # an input's initializer is only its default
        for one in model.graph.input:
            self._stored.pop(one.name, None)
        self._makers = {name: node for node in model.graph.node for name in node.output}

    def get(self, name: str) -> np.ndarray | None:
        """Return the value of a tensor, or None if the graph computes it."""
        if name in self._stored:
            return numpy_helper.to_array(self._stored[name])
        node = self._makers.get(name)
        if node is None or node.op_type not in _FOLDED or node.domain:
            return None
        given = {one: self.get(one) for one in node.input if one}
        if any(value is None for value in given.values()):
            return None
        empty = [helper.make_empty_tensor_value_info(one) for one in (*given, name)]
        graph = helper.make_graph([node], "constant", empty[:-1], empty[-1:])
        step = helper.make_model(graph, opset_imports=self._model.opset_import)
        results: Any = ReferenceEvaluator(step).run(None, given)
        return results[0]


def infer(
    model: ModelProto, tell: Callable[[NodeProto, dict[str, Known]], Known | None]
) -> tuple[ModelProto, dict[str, Known]]:
    """Infer types and shapes, with help for the outputs of nodes that ONNX doesn't know.

    Args:
        model: It is not changed.
        tell: Returns what is known of a node's first output, given what is known, or None.

    Returns:
        The model with shapes, and what is known by the tensors' names.
    """
    # behind a node that it doesn't know ONNX infers nothing, so this goes on as long as there is news
    while True:
        model = shape_inference.infer_shapes(model, data_prop=True)
        known = _known(model.graph)
        told = {
            node.output[0]: one
            for node in model.graph.node
            if node.output[0] not in known and (one := tell(node, known)) is not None
        }
        if not told:
            return model, known
        model.graph.value_info.extend(
            helper.make_tensor_value_info(name, one.kind, one.sizes) for name, one in told.items()
        )


def all_nodes(nodes: Any) -> Iterator[NodeProto]:
    """Yield nodes and those in their branches and loops."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from all_nodes(graph.node)


def reads(node: NodeProto) -> Iterator[str]:
    """Yield the names that a node reads, also in its branches."""
    for one in all_nodes([node]):
        yield from one.input


def all_names(graph: GraphProto) -> set[str]:
    """Return every name in a graph."""
    names = {one.name for one in (*graph.input, *graph.initializer, *graph.node)}
    return names | {name for node in all_nodes(graph.node) for name in (*node.input, *node.output)}


def without_unused(body: list[NodeProto], outputs: list[str]) -> list[NodeProto]:
    """Return the nodes that outputs depend on."""
    needed, kept = set(outputs), []
    for node in reversed(body):
        if needed.intersection(node.output):
            needed.update(reads(node))
            kept.append(node)
    return kept[::-1]


def with_body(model: ModelProto, body: list[NodeProto], constants: Iterable[TensorProto]) -> ModelProto:
    """Return the model with other nodes and more constants, without what nobody reads any more."""
    outputs = [one.name for one in model.graph.output]
    body = without_unused(body, outputs)
    read = {*outputs, *(name for node in body for name in reads(node))}
    written = {name for node in body for name in node.output}
    changed = ModelProto()
    changed.CopyFrom(model)
    for field in (changed.graph.node, changed.graph.initializer, changed.graph.value_info):
        del field[:]
    changed.graph.node.extend(body)
    changed.graph.initializer.extend(one for one in (*model.graph.initializer, *constants) if one.name in read)
    changed.graph.value_info.extend(one for one in model.graph.value_info if one.name in written)
    return changed


def _known(graph: GraphProto) -> dict[str, Known]:
    tensors = {one.name: Known(one.data_type, tuple(one.dims)) for one in graph.initializer}
    for one in (*graph.value_info, *graph.output, *graph.input):
        told = one.type.tensor_type
        if told.HasField("shape"):
            sizes = (d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in told.shape.dim)
            tensors[one.name] = Known(told.elem_type, tuple(sizes))
    return tensors

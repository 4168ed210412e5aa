"""Writes ONNX nodes: constants are shared, equal nodes are written once, and integers are computed where they can be.

Opset 13 is the lowest in which all of these operators have the form used here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper


class Nodes:
    """Nodes and constants to be put into a graph.

    Attributes:
        constants: all constants that were written.

    Args:
        taken: names that the graph has already.
        prefix: what all new names begin with.
    """

    def __init__(self, taken: Iterable[str], prefix: str) -> None:
        self.constants: list[TensorProto] = []
        self._taken, self._prefix, self._count = set(taken), prefix, 0
        self._new: list[NodeProto] = []
        self._known: dict[Any, Any] = {}

    def take(self) -> list[NodeProto]:
        """Return the nodes that were written since the last call."""
        new, self._new = self._new, []
        return new

    def op(self, kind: str, *inputs: str | np.ndarray, output: str | None = None, **attributes: Any) -> str:
        """Write one node and return the name of its output; an array among the inputs becomes a constant."""
        names = [one if isinstance(one, str) else self.constant(one) for one in inputs]
        key = (kind, *names, *sorted((k, tuple(v) if isinstance(v, list) else v) for k, v in attributes.items()))
        if output is None and key in self._known:
            return self._known[key]
        name = output or self._name(kind)
        self._new.append(helper.make_node(kind, names, [name], name=f"{name}/{kind}", **attributes))
        if output is None:
            self._known[key] = name
        return name

    def constant(self, array: np.ndarray) -> str:
        """Return the name of a constant; equal arrays share one."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = name = self._name("constant")
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return self._known[key]

    def reshape(self, x: str, *sizes: int | Ints) -> str:
        """Reshape: 0 keeps the size at this place, −1 is what remains; not both where the batch may be empty."""
        if any(isinstance(size, Ints) and size.known is None for size in sizes):
            parts = [size if isinstance(size, Ints) else self.ints(size) for size in sizes]
            shape: Any = self.op("Concat", *(part.reshape(1).name for part in parts), axis=0)
        else:
            shape = np.array([int(size) for size in sizes], np.int64)
        return self.op("Reshape", x, shape)

    def transpose(self, x: str, *order: int) -> str:
        """Transpose."""
        return self.op("Transpose", x, perm=list(order))

    def gather(self, x: str, index: Ints, axis: int) -> str:
        """Take slices of `x` along an axis by a flat index; where it is constant it takes half the space."""
        if index.known is not None and index.known.max(initial=0) < 2**31:
            return self.op("Gather", x, index.known.ravel().astype(np.int32), axis=axis)
        return self.op("Gather", x, index.reshape(-1).name, axis=axis)

    def ints(self, value: Any) -> Ints:
        """Return integers as an operand."""
        return value if isinstance(value, Ints) else Ints(self, np.asarray(value, np.int64))

    def size(self, x: str, place: int, known: int | str | None) -> Ints:
        """Return one size of `x`, if it isn't known by a node; sizes of one name are equal and read once."""
        if isinstance(known, int):
            return self.ints(known)
        key = ("size", known) if known else ("size", x, place)
        if key not in self._known:
            self._known[key] = Ints(self, self.op("Gather", self.op("Shape", x), np.array(place, np.int64), axis=0))
        return self._known[key]

    def arange(self, end: int | Ints) -> Ints:
        """Return 0, 1, … below `end`."""
        end = self.ints(end)
        if end.known is not None:
            return Ints(self, np.arange(int(end.known), dtype=np.int64))
        zero, one = (np.array(i, np.int64) for i in (0, 1))
        return Ints(self, self.op("Range", zero, end.name, one))

    def _name(self, kind: str) -> str:
        while True:
            self._count += 1
            name = f"{self._prefix}{kind}_{self._count}"
            if name not in self._taken:
                return name


class Ints:
    """Integers of the graph: an array as long as all that they come from is known, else the output of a node.

    Attributes:
        known: the array, or None.
    """

    def __init__(self, nodes: Nodes, value: np.ndarray | str) -> None:
        self.nodes = nodes
        self.known = None if isinstance(value, str) else value
        self._name = value if isinstance(value, str) else None

    @property
    def name(self) -> str:
        """The tensor's name; asking for it writes the constant."""
        return self._name or self.nodes.constant(cast("np.ndarray", self.known))

    def __int__(self) -> int:
        return int(cast("np.ndarray", self.known))

    def _apply(self, kind: str, fold: Callable[[Any, Any], Any], other: int | Ints) -> Ints:
        other = self.nodes.ints(other)
        if self.known is not None and other.known is not None:
            return Ints(self.nodes, np.asarray(fold(self.known, other.known)))
        return Ints(self.nodes, self.nodes.op(kind, self.name, other.name))

    def __add__(self, other: int | Ints) -> Ints:
        return self._apply("Add", np.add, other)

    def __sub__(self, other: int | Ints) -> Ints:
        return self._apply("Sub", np.subtract, other)

    def __mul__(self, other: int | Ints) -> Ints:
        return self._apply("Mul", np.multiply, other)

    # of numbers that are not negative, for which ONNX and Python agree
    def __floordiv__(self, other: int | Ints) -> Ints:
        return self._apply("Div", np.floor_divide, other)

    def __mod__(self, other: int | Ints) -> Ints:
        return self._apply("Mod", np.mod, other)

    def at_most(self, other: int | Ints) -> Ints:
        """Return the smaller of both."""
        return self._apply("Min", np.minimum, other)

    def at_least(self, other: int | Ints) -> Ints:
        """Return the larger of both."""
        return self._apply("Max", np.maximum, other)

    def reshape(self, *shape: int) -> Ints:
        """Reshape; −1 is what remains."""
        if self.known is not None:
            return Ints(self.nodes, self.known.reshape(shape))
        return Ints(self.nodes, self.nodes.op("Reshape", self.name, np.array(shape, np.int64)))

    def along(self, place: int, dims: int) -> Ints:
        """Return a row of integers as one axis of `dims`."""
        shape: Sequence[int] = [-1 if i == place else 1 for i in range(dims)]
        return self.reshape(*shape)

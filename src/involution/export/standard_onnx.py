"""ONNX that runs anywhere: involution nodes replaced by standard operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx import ModelProto, NodeProto, TensorProto, helper

from involution.export.contract import ATTRIBUTES, DOMAIN, DYNAMIC_INVOLUTION, INPUTS, INVOLUTION, VERSION
from involution.export.errors import ExportError
from involution.export.onnx_bands import Axis, Bands
from involution.export.onnx_nodes import Nodes
from involution.export.onnx_reading import Known, Values, all_names, all_nodes, infer, with_body
from involution.export.onnx_tiles import choose_tile

MIN_OPSET = 13
"""The lowest opset that the decomposition can be written in."""

_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def expand(model: ModelProto, *, tile: tuple[int, int] | None = None) -> ModelProto:
    """Replace each involution of an ONNX model by standard operators.

    Inputs, outputs, opset and everything around the involutions stay as they are, and sizes that were open stay open.
    Half types are computed in float32, as by the kernels of this package.

    Args:
        model: With nodes as in `involution.export.contract`.
        tile: Outputs (vertical, horizontal) that share a window, for all layers; by default as measured.

    Returns:
        A new model.

    Raises:
        ExportError: If the opset is too old, or a node is not as agreed.
    """
    if any(_is_involution(node) for function in model.functions for node in all_nodes(function.node)):
        model = onnx.inliner.inline_local_functions(model)
    _check_model(model)
    model, known = infer(model, _output)
    values, nodes = Values(model), Nodes(all_names(model.graph), "involution/")
    body: list[NodeProto] = []
    for node in model.graph.node:
        if _is_involution(node):
            _Layer(node, known, values, nodes).write(tile)
            body += nodes.take()
        else:
            body.append(node)
    changed = with_body(model, body, nodes.constants)
    del changed.opset_import[:]
    changed.opset_import.extend(one for one in model.opset_import if one.domain != DOMAIN)
    return changed


class _Layer:
    """One involution, from its node."""

    def __init__(self, node: NodeProto, known: dict[str, Known], values: Values, nodes: Nodes) -> None:
        self.node, self.nodes, self.values = node, nodes, values
        names = INPUTS[node.op_type]
        self.inputs = {name: given for name, given in zip(names, node.input, strict=False) if given}
        self.options = options_of(node)
        self.known = {name: known[given] for name, given in self.inputs.items() if given in known}
        self.is_last = bool(self.options["channels_last"])
        kind = self._of("input").kind
        self.half = kind if kind in _HALF else None
        self.dtype = np.dtype(np.float64 if kind == TensorProto.DOUBLE else np.float32)

    def write(self, tile: tuple[int, int] | None) -> None:
        """Write the layer's nodes."""
        nodes, channels = self.nodes, self._whole("input", 3 if self.is_last else 1, 4)
        groups, kernel = self._kernel()
        if channels % groups:
            raise self._error(f"{groups} groups don't divide {channels} channels")
        source = "weight" if self.node.op_type == INVOLUTION else "reduced"
        out_places = (1, 2) if self.is_last else ((4, 5) if source == "weight" else (2, 3))
        in_places = (1, 2) if self.is_last else (2, 3)
        sizes = [self._of(source).sizes[place] for place in out_places]
        known = tuple(size if isinstance(size, int) else None for size in sizes)
        stride, padding, dilation = (self.options[name] for name in ("stride", "padding", "dilation"))
        tile = choose_tile(known, stride, kernel, dilation, tile)
        y, x = (
            Axis(
                nodes,
                nodes.size(self.inputs["input"], in_places[i], self._of("input").sizes[in_places[i]]),
                nodes.size(self.inputs[source], out_places[i], sizes[i]),
                kernel[i],
                stride[i],
                padding[i],
                dilation[i],
                tile[i],
            )
            for i in (0, 1)
        )
        bands = Bands(nodes, y, x, groups, channels, self.dtype)
        out = bands.apply(self._channels_last("input"), self._band_matrices(bands, source, kernel))
        self._finish(out, channels)

    def _band_matrices(self, bands: Bands, source: str, kernel: tuple[int, int]) -> str:
        features = self._channels_last(source)
        if source == "weight":
            return bands.from_map(features)
        weight, bias = self._value("span_weight"), self._value("span_bias")
        if weight is not None and (bias is not None or "span_bias" not in self.inputs):
            return bands.from_features(features, weight, bias)
        # a generator that the graph computes
        nodes, taps = self.nodes, bands.groups * kernel[0] * kernel[1]
        flat = nodes.reshape(self._cast(self.inputs["span_weight"]), taps, -1)
        kernels = nodes.op("MatMul", features, nodes.transpose(flat, 1, 0))
        if "span_bias" in self.inputs:
            kernels = nodes.op("Add", kernels, nodes.reshape(self._cast(self.inputs["span_bias"]), -1))
        return bands.from_map(kernels)

    def _finish(self, out: str, channels: int) -> None:
        # the affine map and ReLU that follow, the memory order and the type
        nodes = self.nodes
        steps: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        scale, shift = (self._factor(name) for name in ("scale", "shift"))
        pointwise = not self.is_last and self.dtype == np.float32 and (scale is not None or shift is not None)
        if pointwise:
            # as a convolution of single channels, which runtimes join with the ReLU and keep in their own memory order
            weight = nodes.reshape(scale, channels, 1, 1, 1) if scale else np.ones((channels, 1, 1, 1), np.float32)
            steps += [("Transpose", (), {"perm": [0, 3, 1, 2]})]
            steps += [("Conv", (weight, *([shift] if shift else [])), {"kernel_shape": [1, 1], "group": channels})]
        else:
            steps += [("Mul", (scale,), {})] if scale else []
            steps += [("Add", (shift,), {})] if shift else []
        steps += [("Relu", (), {})] if self.options.get("relu") else []
        if not pointwise and not self.is_last:
            steps += [("Transpose", (), {"perm": [0, 3, 1, 2]})]
        steps += [("Cast", (), {"to": self.half})] if self.half else []
        for i, (kind, others, attributes) in enumerate(steps or [("Identity", (), {})]):
            name = self.node.output[0] if i == max(0, len(steps) - 1) else None
            out = nodes.op(kind, out, *others, output=name, **attributes)

    def _kernel(self) -> tuple[int, tuple[int, int]]:
        # G and (K_h, K_w)
        if self.node.op_type == DYNAMIC_INVOLUTION:
            groups, height, width = (self._whole("span_weight", place, 4) for place in range(3))
            if self._whole("reduced", 3 if self.is_last else 1, 4) != self._whole("span_weight", 3, 4):
                raise self._error("reduced and span_weight have different numbers of features")
        else:
            groups, height, width = (self._whole("weight", p, 6) for p in ((3, 4, 5) if self.is_last else (1, 2, 3)))
        return groups, (height, width)

    def _of(self, name: str) -> Known:
        if name not in self.known:
            missing = "its type and shape are not known" if name in self.inputs else "it is missing"
            raise self._error(f"it needs {name}, but {missing}")
        return self.known[name]

    def _whole(self, name: str, place: int, rank: int) -> int:
        sizes = self._of(name).sizes
        if len(sizes) != rank:
            raise self._error(f"{name} must have {rank} dimensions; got {list(sizes)}")
        size = sizes[place]
        if not isinstance(size, int) or size < 1:
            raise self._error(f"size {place} of {name} must be a number of at least 1; got {list(sizes)}")
        return size

    def _error(self, what: str) -> ExportError:
        return ExportError(f"{self.node.op_type} {self.node.name or self.node.output[0]!r}: {what}")

    def _value(self, name: str) -> np.ndarray | None:
        value = self.values.get(self.inputs[name]) if name in self.inputs else None
        return None if value is None else value.astype(self.dtype)

    def _factor(self, name: str) -> str | None:
        if name not in self.inputs:
            return None
        value = self._value(name)
        return self._cast(self.inputs[name]) if value is None else self.nodes.constant(value)

    def _cast(self, name: str) -> str:
        return self.nodes.op("Cast", name, to=TensorProto.FLOAT) if self.half else name

    def _channels_last(self, name: str) -> str:
        x = self._cast(self.inputs[name])
        if self.is_last:
            return x
        return self.nodes.transpose(x, *((0, 4, 5, 1, 2, 3) if name == "weight" else (0, 2, 3, 1)))


def _is_involution(node: NodeProto) -> bool:
    return node.domain == DOMAIN


def _check_model(model: ModelProto) -> None:
    versions = {one.domain or "ai.onnx": one.version for one in model.opset_import}
    opset, newest = versions.get("ai.onnx", 0), onnx.defs.onnx_opset_version()
    if not MIN_OPSET <= opset <= newest:
        raise ExportError(f"standard operators need an ONNX opset from {MIN_OPSET} to {newest}; got {opset}")
    inside = [node for node in all_nodes(model.graph.node) if _is_involution(node)]
    if inside and versions.get(DOMAIN) != VERSION:
        raise ExportError(f"domain {DOMAIN} must have version {VERSION}; got {versions.get(DOMAIN)}")
    for node in inside:
        if node.op_type not in INPUTS:
            raise ExportError(f"domain {DOMAIN} has {', '.join(INPUTS)}; got {node.op_type}")
    if len(inside) > sum(map(_is_involution, model.graph.node)):
        raise ExportError("an involution inside a branch or a loop can't be replaced; export without control flow")


def options_of(node: NodeProto) -> dict[str, Any]:
    """Return the attributes of an involution, with the defaults of those that are left out.

    Raises:
        ExportError: For one that it has not.
    """
    options: dict[str, Any] = dict(ATTRIBUTES[node.op_type])
    for attribute in node.attribute:
        if attribute.name not in options:
            raise ExportError(f"{node.op_type} has {', '.join(options)}; got {attribute.name}")
        value = helper.get_attribute_value(attribute)
        options[attribute.name] = tuple(value) if isinstance(value, list) else value
    return options


def _output(node: NodeProto, known: dict[str, Known]) -> Known | None:
    # an involution's output, given its input and the map or reduced features
    if not _is_involution(node) or any(name not in known for name in node.input[:2]):
        return None
    x, source = (known[name] for name in node.input[:2])
    if options_of(node)["channels_last"]:
        return Known(x.kind, (x.sizes[0], *source.sizes[1:3], x.sizes[-1]))
    return Known(x.kind, (*x.sizes[:2], *source.sizes[-2:]))

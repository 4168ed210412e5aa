"""Averages before pointwise convolutions, which generators with a stride have, as one strided convolution.

In 8 bits ONNX Runtime takes longer for such an average than for the convolution.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from involution.export.onnx_reading import Values, with_body

# what neither may have otherwise, where it is given
_PLAIN = {"auto_pad": b"NOTSET", "pads": [0, 0, 0, 0], "dilations": [1, 1], "ceil_mode": 0, "group": 1}


def join_pooling(model: ModelProto) -> ModelProto:
    """Replace averages without overlap or padding that one pointwise convolution alone reads.

    Args:
        model: of float32; it is not changed.

    Returns:
        A new model that computes the same.
    """
    values = Values(model)
    makers = {node.output[0]: node for node in model.graph.node}
    read = [*(name for node in model.graph.node for name in node.input), *(one.name for one in model.graph.output)]
    body: list[NodeProto] = []
    constants: list[TensorProto] = []
    for node in model.graph.node:
        pool = makers.get(node.input[0]) if node.input else None
        weight = values.get(node.input[1]) if node.op_type == "Conv" else None
        if pool is None or weight is None or pool.op_type != "AveragePool" or read.count(pool.output[0]) > 1:
            body.append(node)
            continue
        window, options = _options(pool), _options(node)
        size, steps = window["kernel_shape"], options.get("strides", [1, 1])
        pointwise = weight.shape[2:] == (1, 1) and steps == [1, 1] and _plain(options)
        if not pointwise or window.get("strides") != size or not _plain(window):
            body.append(node)
            continue
        each = np.repeat(np.repeat(weight, size[0], 2), size[1], 3) / np.float32(np.prod(size))
        constants.append(numpy_helper.from_array(each, f"{node.output[0]}/averaged"))
        given = [pool.input[0], constants[-1].name, *node.input[2:]]
        options |= {"kernel_shape": size, "strides": size}
        body.append(helper.make_node("Conv", given, node.output, name=node.name, **options))
    return with_body(model, body, constants)


def _options(node: NodeProto) -> dict[str, Any]:
    return {one.name: helper.get_attribute_value(one) for one in node.attribute}


def _plain(options: dict[str, Any]) -> bool:
    return all(options.get(name, value) == value for name, value in _PLAIN.items())

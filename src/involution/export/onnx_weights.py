"""ONNX models whose weights are stored as half types: half the size, the same operators."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

# numbers worth it: others are scales and shifts
_LEAST = 256


def store_as(model: ModelProto, name: str) -> None:
    """Store large float32 constants as another type, in place; a runtime widens them once, when it loads the file.

    Args:
        model: of float32.
        name: float16 or bfloat16.
    """
    kind = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}[name]
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    casts = []
    for constant in model.graph.initializer:
        if constant.data_type != TensorProto.FLOAT or int(np.prod(constant.dims)) < _LEAST:
            continue
        whole, stored = constant.name, f"{constant.name}/{name}"
        values = numpy_helper.to_array(constant).astype(dtype)
        constant.CopyFrom(onnx.numpy_helper.from_array(values, stored))
        casts.append(helper.make_node("Cast", [stored], [whole], name=f"{whole}/Cast", to=TensorProto.FLOAT))
    body = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(body)

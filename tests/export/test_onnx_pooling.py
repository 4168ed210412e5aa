"""Averages and pointwise convolutions that become one: what they compute, and what stays as it is."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from involution.export.onnx_pooling import join_pooling

ort = pytest.importorskip("onnxruntime")
PLAIN = {"kernel_shape": [2, 2], "strides": [2, 2]}


def model_of(pool, conv, seen=False, weight=(5, 3, 1, 1)):
    rng = np.random.default_rng(0)
    parts = {"weight": rng.normal(size=weight), "bias": rng.normal(size=weight[0])}
    nodes = [
        helper.make_node("AveragePool", ["x"], ["mean"], **pool),
        helper.make_node("Conv", ["mean", "weight", "bias"], ["y"], name="conv", **conv),
    ]
    names = ["y", "mean"] if seen else ["y"]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in parts.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def run(model, x):
    running = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return running.run(None, {"x": x})[0]


def kinds(model):
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("size", [(8, 6), (9, 7), (2, 3)])
@pytest.mark.parametrize("window", [[2, 2], [1, 2], [3, 2]])
def test_one_convolution_computes_the_same(window, size):
    model = model_of({"kernel_shape": window, "strides": window, "pads": [0] * 4, "count_include_pad": 1}, {})
    joined = join_pooling(model)
    assert kinds(joined) == ["Conv"]
    assert joined.graph.node[0].name == "conv"
    assert [one.name for one in joined.graph.initializer] == ["bias", "y/averaged"]
    x = np.random.default_rng(1).normal(size=(2, 3, 3 * size[0], size[1])).astype(np.float32)
    np.testing.assert_allclose(run(joined, x), run(model, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("pool", "conv", "options"),
    [
        (PLAIN | {"strides": [1, 1]}, {}, {}),
        ({"kernel_shape": [2, 2]}, {}, {}),
        (PLAIN | {"pads": [1, 1, 0, 0]}, {}, {}),
        (PLAIN | {"ceil_mode": 1}, {}, {}),
        (PLAIN | {"auto_pad": "SAME_UPPER"}, {}, {}),
        (PLAIN, {"strides": [2, 2]}, {}),
        (PLAIN, {"pads": [0, 1, 0, 1]}, {}),
        (PLAIN, {"group": 3}, {"weight": (3, 1, 1, 1)}),
        (PLAIN, {}, {"weight": (5, 3, 2, 2)}),
        (PLAIN, {}, {"seen": True}),
    ],
)
def test_what_is_not_plain_stays(pool, conv, options):
    model = model_of(pool, conv, **options)
    assert kinds(join_pooling(model)) == ["AveragePool", "Conv"]

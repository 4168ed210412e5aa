"""The custom operators in ONNX Runtime: values against float64 truth, shapes, threads, and what is refused."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from export_nodes import DYNAMIC_SHAPES, STATIC_SHAPES, TYPES, WRONG_ATTRIBUTES, WRONG_SHAPES, Case, last, single
from onnx import TensorProto, helper
from tolerances import assert_near

from involution.export import LibraryError, contract, libraries, onnx_library

ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(not (libraries._NATIVE / libraries._ONNXRUNTIME).exists(), reason="not compiled here")
NO_OPTIMISATION = ort.GraphOptimizationLevel.ORT_DISABLE_ALL


def session(model, threads=1, level=None):
    options = ort.SessionOptions()
    # errors come as exceptions, and need not be printed as well
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if level is not None:
        options.graph_optimization_level = level
    options.register_custom_ops_library(onnx_library())
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def check(case, threads=1, level=None):
    out = torch.from_numpy(session(case.model(), threads, level).run(None, case.feeds())[0])
    truth, largest = case.truth()
    if case.channels_last:
        truth = last(truth)
    # the map itself sums up features
    assert_near(out.to(case.dtype), truth, vars(case), roundings=2, largest=largest)


@pytest.mark.parametrize("block", range(8))
def test_table(block):
    for seed in range(20 * block, 20 * (block + 1)):
        check(Case(seed), threads=1 + seed % 2)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_type(dtype):
    for seed in range(400, 406):
        check(Case(seed, [dtype]), level=NO_OPTIMISATION)


def large(dynamic):
    """One that is worth several threads."""
    case = Case(0, [torch.float32])
    case.dynamic, case.channels_last, case.relu = dynamic, 0, 0
    case.kernel, case.stride, case.dilation, case.padding = (7, 7), (1, 1), (1, 1), (3, 3)
    case.inputs = {"input": torch.randn(2, 64, 57, 55)}
    if dynamic:
        case.inputs |= {"reduced": torch.randn(2, 16, 57, 55), "span_weight": torch.randn(4, 7, 7, 16)}
    else:
        case.inputs["weight"] = torch.randn(2, 4, 7, 7, 57, 55)
    return case


@pytest.mark.parametrize("dynamic", [False, True])
def test_threads_do_not_change_a_bit(dynamic):
    case = large(dynamic)
    outputs = [session(case.model(), threads).run(None, case.feeds())[0] for threads in (1, 2, 3)]
    assert all(np.array_equal(outputs[0], other) for other in outputs[1:])
    check(case, threads=2)


def test_two_sessions_at_once():
    from concurrent.futures import ThreadPoolExecutor

    case = large(True)
    truth = session(case.model()).run(None, case.feeds())[0]
    sessions = [session(case.model(), threads=2) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        outputs = pool.map(lambda s: [s.run(None, case.feeds())[0] for _ in range(4)], sessions)
    assert all(np.array_equal(truth, out) for outs in outputs for out in outs)


def test_sizes_may_change_from_run_to_run():
    dims = {"input": ["N", 8, "H", "W"], "reduced": ["N", 4, "H_o", "W_o"], "span_weight": [2, 3, 3, 4]}
    running = session(single(contract.DYNAMIC_INVOLUTION, dims, {"padding": [1, 1]}))
    span = torch.randn(2, 3, 3, 4)
    for batch, height, width in ((1, 5, 7), (3, 9, 2), (2, 1, 1)):
        x, reduced = torch.randn(batch, 8, height, width), torch.randn(batch, 4, height, width)
        out = running.run(None, {"input": x.numpy(), "reduced": reduced.numpy(), "span_weight": span.numpy()})[0]
        wanted = torch.ops.involution.dynamic_involution2d(x, reduced, span, None, [1, 1], [1, 1], [1, 1])
        torch.testing.assert_close(torch.from_numpy(out), wanted)


def test_an_empty_tensor_is_an_absent_one():
    case = large(True)
    case.inputs |= {"span_bias": torch.zeros(0), "scale": torch.zeros(0), "shift": torch.randn(64)}
    out = torch.from_numpy(session(case.model()).run(None, case.feeds())[0])
    del case.inputs["span_bias"], case.inputs["scale"]
    truth, largest = case.truth()
    assert_near(out.float(), truth, roundings=2, largest=largest)


@pytest.mark.parametrize(
    ("op", "attributes", "shapes", "wanted"),
    [
        (contract.DYNAMIC_INVOLUTION, {}, {"input": ["N", 8, "H", "W"], "reduced": ["N", 4, 5, 6]}, ["N", 8, 5, 6]),
        (contract.DYNAMIC_INVOLUTION, {}, {"reduced": [1, 4, "H_o", "W_o"]}, [1, 8, "H_o", "W_o"]),
        (
            contract.DYNAMIC_INVOLUTION,
            {"channels_last": 1},
            {"input": ["N", "H", "W", 8], "reduced": ["N", 5, 6, 4]},
            ["N", 5, 6, 8],
        ),
        (contract.INVOLUTION, {}, {"weight": ["N", 2, 3, 3, "H_o", 6]}, [1, 8, "H_o", 6]),
        (
            contract.INVOLUTION,
            {"channels_last": 1},
            {"input": [2, 9, 9, 8], "weight": [2, 5, 6, 2, 3, 3]},
            [2, 5, 6, 8],
        ),
    ],
)
def test_shapes_are_inferred(op, attributes, shapes, wanted):
    all_shapes = DYNAMIC_SHAPES if op == contract.DYNAMIC_INVOLUTION else STATIC_SHAPES
    assert session(single(op, all_shapes | shapes, attributes)).get_outputs()[0].shape == wanted


def test_sizes_without_names_stay_open_and_are_not_taken_for_equal():
    shapes = DYNAMIC_SHAPES | {"reduced": [1, 4, None, None]}
    shape = session(single(contract.DYNAMIC_INVOLUTION, shapes)).get_outputs()[0].shape
    assert shape[:2] == [1, 8]
    assert not any(isinstance(size, int) for size in shape[2:])
    assert shape[2] != shape[3]


def test_an_unknown_rank_is_no_error():
    model = single(contract.INVOLUTION, {"input": None, "weight": None})
    zeros = {name: np.zeros(shape, np.float32) for name, shape in STATIC_SHAPES.items()}
    assert session(model).run(None, zeros)[0].shape == (1, 8, 9, 9)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        *WRONG_ATTRIBUTES,
        ({"stride": 2}, "stride must be two integers; got one"),
        ({"stride": [1.5, 2.5]}, "stride must be two integers; got something else"),
        ({"padding": "same"}, "padding must be two integers; got something else"),
        ({"dilation": helper.make_tensor("d", TensorProto.INT64, [2], [1, 1])}, "dilation must be two integers"),
        ({"relu": [1, 1]}, "relu must be an integer; got 2"),
        ({"channels_last": "yes"}, "channels_last must be an integer; got something else"),
    ],
)
def test_wrong_attributes_are_refused(attributes, message):
    with pytest.raises(Exception, match=f"DynamicInvolution2d: {message}") as caught:
        session(single(contract.DYNAMIC_INVOLUTION, DYNAMIC_SHAPES, attributes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("op", "changed", "shape", "message"), WRONG_SHAPES)
def test_wrong_shapes_are_refused(op, changed, shape, message):
    shapes = DYNAMIC_SHAPES if op == contract.DYNAMIC_INVOLUTION else STATIC_SHAPES
    running = session(single(op, dict.fromkeys(shapes)))
    feeds = {name: np.zeros(shape, np.float32) for name, shape in (shapes | {changed: shape}).items()}
    with pytest.raises(Exception, match=f"{op}: .*{message}") as caught:
        running.run(None, feeds)
    assert "\n" not in str(caught.value)


def test_windows_far_outside_read_nothing():
    geometry = {"stride": [2**31 - 1, 1], "padding": [2**31 - 1, 0], "dilation": [2**31 - 1, 2**31 - 1]}
    running = session(single(contract.INVOLUTION, dict.fromkeys(STATIC_SHAPES), geometry))
    x, weight = np.ones((1, 8, 9, 9), np.float32), np.ones((1, 2, 3, 3, 5, 40), np.float32)
    out = running.run(None, {"input": x, "weight": weight})[0]
    # with -p + u·d = 0 for the second tap of the first row, and with the third of the second row an image behind
    truth = reference_of(x, weight, geometry)
    assert np.array_equal(out, truth)


def reference_of(x, weight, geometry):
    from involution.ops import reference

    tensors = torch.from_numpy(x), torch.from_numpy(weight)
    return reference.loop(*tensors, *(geometry[name] for name in ("stride", "padding", "dilation"))).numpy()


def test_tensors_of_two_types_are_refused():
    types = {"weight": TensorProto.DOUBLE}
    with pytest.raises(Exception, match="no kernel def matches"):
        session(single(contract.INVOLUTION, STATIC_SHAPES, types=types))


def test_a_missing_input_is_refused():
    model = single(contract.INVOLUTION, STATIC_SHAPES)
    model.graph.node[0].input.pop()
    with pytest.raises(Exception, match="has input size 1 not in range"):
        session(model)


WITHOUT_TORCH = """
import sys
import numpy as np
import onnxruntime as ort
options = ort.SessionOptions()
options.register_custom_ops_library(sys.argv[1])
ort.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
print(*sorted({"torch", "involution"} & sys.modules.keys()), "ran")
"""


def in_a_process(tmp_path, **environment):
    path = tmp_path / "model.onnx"
    path.write_bytes(single(contract.INVOLUTION, STATIC_SHAPES).SerializeToString())
    command = [sys.executable, "-c", WITHOUT_TORCH, onnx_library(), str(path)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)


def test_neither_torch_nor_this_package_is_needed(tmp_path):
    assert in_a_process(tmp_path).stdout.split() == ["ran"]


def test_the_instruction_set_can_be_chosen(tmp_path):
    assert in_a_process(tmp_path, INVOLUTION_CPU="baseline").returncode == 0
    done = in_a_process(tmp_path, INVOLUTION_CPU="mmx")
    assert "INVOLUTION_CPU must be one of" in done.stderr.splitlines()[-1]


def test_an_installation_without_the_library_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(libraries, "_NATIVE", tmp_path)
    with pytest.raises(LibraryError, match=r"has no library for ONNX Runtime \(.*\): INVOLUTION_BUILD"):
        onnx_library()

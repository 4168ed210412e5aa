"""Involutions in 8 bits in ONNX Runtime: the node with each instruction set, and where exports put it."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from export_nodes import QuantisedCase, file, last
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from involution import Involution2d
from involution.export import LibraryError, contract, libraries, onnx_library
from involution.export.formats.onnx import _session
from involution.export.graph import Graph, Input
from involution.export.onnx_involutions import quantise_involutions
from involution.export.registry import Settings, get_format
from involution.models import RedNet
from involution.models.fuse import fuse
from involution.ops import native, reference

ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(not (libraries._NATIVE / libraries._ONNXRUNTIME).exists(), reason="not compiled here")
SETS = [] if native.reason else native.instruction_sets()
PARTS = contract.QUANTISED_INPUTS[2:]


def session(model, threads=1, profile=None):
    options = ort.SessionOptions()
    # errors come as exceptions, and need not be printed as well
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if profile is not None:
        options.optimized_model_filepath = str(profile)
    options.register_custom_ops_library(onnx_library())
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def of_node(feeds, constants, attributes):
    """A file of the node alone."""
    parts = [numpy_helper.from_array(one, name) for one, name in zip(constants, PARTS, strict=True)]
    names = contract.QUANTISED_INPUTS[: 2 + len(parts)]
    node = helper.make_node(contract.QUANTISED_INVOLUTION, names, ["output"], domain=contract.DOMAIN, **attributes)
    kinds = [helper.np_dtype_to_tensor_dtype(one.dtype) for one in feeds]
    inputs = [
        helper.make_tensor_value_info(name, kind, one.shape)
        for name, kind, one in zip(names, kinds, feeds, strict=False)
    ]
    made = file([node], inputs, [helper.make_tensor_value_info("output", TensorProto.UINT8, None)])
    made.graph.initializer.extend(parts)
    return made


def run(running, *feeds):
    return running.run(None, {one.name: feed for one, feed in zip(running.get_inputs(), feeds, strict=True)})[0]


@pytest.mark.parametrize("block", range(4), ids="float64-{}".format)
def test_levels_are_those_of(block):
    for seed in range(20 * block, 20 * (block + 1)):
        case = QuantisedCase(seed)
        running = session(of_node(case.feeds(), case.constants, case.attributes()), threads=1 + seed % 2)
        found = run(running, *case.feeds())
        truth = (last(case.truth) if case.last else case.truth).numpy()
        assert found.dtype == np.uint8
        # a level away is only what lies between two
        assert np.abs(found - truth.clip(0, 255)).max() <= 0.505, seed


def around(case):
    """A file of an involution between quantisers as ONNX Runtime's tools write them, and its inputs."""
    ranges = {"input": (0.02, case.zero), "reduced": (0.01, 7), "output": (case.step, case.output_zero)}
    constants = [
        numpy_helper.from_array(np.asarray(value, dtype), f"{name}_{what}")
        for name, (step, zero) in ranges.items()
        for what, value, dtype in (("scale", step, np.float32), ("zero", zero, np.uint8))
    ]
    constants += [numpy_helper.from_array(value, name) for name, value in case.parts.items()]
    nodes = []
    for name in ranges:
        given = [f"{name}_scale", f"{name}_zero"]
        nodes += [
            helper.make_node("QuantizeLinear", [name, *given], [f"{name}_levels"]),
            helper.make_node("DequantizeLinear", [f"{name}_levels", *given], [f"{name}_number"]),
        ]
    given = ["input_number", "reduced_number", *case.parts]
    node = helper.make_node(
        contract.DYNAMIC_INVOLUTION, given, ["output"], domain=contract.DOMAIN, **case.geometry, relu=case.relu
    )
    shapes = {name: list(case.feeds[name].shape) for name in ("input", "reduced")}
    made = file(
        [*nodes[:4], node, *nodes[4:]],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("output_number", TensorProto.FLOAT, None)],
    )
    made.graph.initializer.extend(constants)
    sizes = [*shapes["input"][:2], *shapes["reduced"][2:]]
    made.graph.value_info.append(helper.make_tensor_value_info("output", TensorProto.FLOAT, sizes))
    return made, ranges


def simulated(x, step, zero):
    """Levels of numbers, in float64."""
    return (x.double() / step + zero).round().clamp(0, 255)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("kernel", [3, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("relu", "zero"), [(1, 0), (0, 131)])
def test_a_folded_involution_is_within_a_level_of_simulated_quantisation(groups, kernel, stride, relu, zero):
    torch.manual_seed(groups + 10 * kernel + stride)
    x, taps = torch.randn(2, 16 * groups, 13, 9) - 0.5 * (1 - relu), (groups, kernel, kernel)
    reduced = torch.randn(2, 20, -(-13 // stride), -(-9 // stride)).relu()
    span, bias = torch.randn(*taps, 20) / 20, torch.randn(taps) / 10
    scale, shift = torch.rand(16 * groups) + 0.5, torch.randn(16 * groups)
    names = ("span_weight", "span_bias", "scale", "shift")
    case = SimpleNamespace(
        zero=128 * (1 - relu),
        output_zero=zero,
        step=0.05,
        relu=relu,
        geometry={"stride": [stride] * 2, "padding": [kernel // 2] * 2},
        parts={name: one.numpy() for name, one in zip(names, (span, bias, scale, shift), strict=True)},
        feeds={"input": x, "reduced": reduced},
    )
    made, ranges = around(case)
    folded, said = quantise_involutions(made)
    assert said == "1 of 1 involutions in 8 bits"
    assert [node.op_type for node in folded.graph.node].count("QuantizeLinear") == 2
    found = run(session(folded), x.numpy(), reduced.numpy())

    levels = {name: simulated(one, *ranges[name]) for name, one in case.feeds.items()}
    numbers = {name: (one - ranges[name][1]) * ranges[name][0] for name, one in levels.items()}
    per_tap = span.double().abs().amax(3, keepdim=True) / 127
    weight = reference.span(numbers["reduced"], (span / per_tap).round() * per_tap, bias.double())
    geometry = [stride] * 2, [kernel // 2] * 2, [1, 1]
    out = reference.composite(numbers["input"], weight, *geometry)
    out = out * scale.double()[:, None, None] + shift.double()[:, None, None]
    wanted = simulated(out.relu() if relu else out, *ranges["output"])
    assert len(wanted.unique()) > 40
    assert np.abs(found / case.step + zero - wanted.numpy()).max() <= 1 + 1e-3


@pytest.mark.parametrize("name", SETS[1:])
def test_other_instruction_sets(name):
    environment = {**os.environ, "INVOLUTION_CPU": name}
    environment.pop("PYTEST_XDIST_WORKER", None)
    # a quarter of the table; OpenVINO's tests run half of it on the same kernels
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "float64-0 or folded"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


GEOMETRY = {"stride": [1, 1], "padding": [1, 1], "channels_last": 1}
TAKES = [(2, 3, 3, 4), (2, 3, 3), (8,), (8,), (2, 3, 3)]


def small(changed):
    values = [np.zeros((1, 5, 5, 8), np.uint8), np.zeros((1, 5, 5, 4), np.uint8)]
    values += [np.zeros(shape, np.int8 if i == 0 else np.float32) for i, shape in enumerate(TAKES)]
    for place, value in changed.items():
        if isinstance(place, int):
            values[place] = value
    attributes = GEOMETRY | {key: value for key, value in changed.items() if isinstance(key, str)}
    return of_node(values[:2], values[2:], attributes), values[:2]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"zero": 256}, "QuantisedInvolution2d: zero must be 0 to 255; got 256"),
        ({"zero": [1, 1]}, "QuantisedInvolution2d: zero must be an integer; got 2"),
        ({0: np.zeros((1, 5, 5, 8), np.float32)}, "input|tensor.float."),
        ({2: np.zeros((2, 3, 3, 4), np.uint8)}, "span_weight|tensor.uint8."),
    ],
)
def test_what_does_not_fit_is_refused(changed, message):
    model, _ = small(changed)
    with pytest.raises(Exception, match=message):
        session(model)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({6: np.zeros((2, 3), np.float32)}, r"span_scale must be .* = \[2, 3, 3\]"),
        ({3: np.zeros(0, np.float32)}, r"span_bias must be .* = \[2, 3, 3\]"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changed, message):
    model, feeds = small(changed)
    with pytest.raises(Exception, match=f"QuantisedInvolution2d: {message}") as caught:
        run(session(model), *feeds)
    assert "\n" not in str(caught.value)


def test_the_shape_and_type_are_inferred():
    model, _ = small({})
    (output,) = session(model).get_outputs()
    assert (output.shape, output.type) == ([1, 5, 5, 8], "tensor(uint8)")


class Neck(nn.Module):
    """Signed values, read by two involutions."""

    def __init__(self):
        super().__init__()
        self.lateral = nn.Conv2d(3, 32, 1)
        self.involutions = nn.ModuleList(Involution2d(32, 3) for _ in range(2))
        self.heads = nn.ModuleList(nn.Conv2d(32, 8, 1) for _ in range(2))

    def forward(self, x):
        x = self.lateral(x)
        pairs = zip(self.heads, self.involutions, strict=True)
        return torch.cat([head(involution(x)) for head, involution in pairs], 1)


class Rectified(Neck):
    """With a ReLU behind each that is not part of it."""

    def forward(self, x):
        x = self.lateral(x)
        pairs = zip(self.heads, self.involutions, strict=True)
        return torch.cat([head(involution(x).relu()) for head, involution in pairs], 1)


class Bare(Neck):
    """One of which is seen by what has no 8 bits."""

    def forward(self, x):
        x = self.lateral(x)
        return self.heads[0](self.involutions[0](x)) + self.involutions[1](x).sin().mean(1, keepdim=True)


def enlivened(network):
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return network


def exported(network, folder, **settings):
    """A network's file in 8 bits, what was said of it, and how near its output is to PyTorch's."""
    fuse(network.eval())
    graph = Graph(network, (Input("images", torch.randn(2, 3, 48, 40), {0: "batch"}),), ("out",))
    images = [(torch.randn(1, 3, 48, 40),) for _ in range(4)]
    path, format = folder / "model.onnx", get_format("onnx")
    format.write(graph, "{}", path, Settings(int8=images, **settings))
    (found,) = format.load(path)(images[0])
    with torch.inference_mode():
        wanted = network(*images[0])
    near = float(torch.corrcoef(torch.stack([found.flatten(), wanted.flatten()]))[0, 1])
    return onnx.load(path), format.remark(path, graph), near


def kinds(model):
    return [node.op_type for node in model.graph.node]


def test_bytes_go_from_convolution_to_involution_to_convolution(tmp_path):
    model, said, near = exported(enlivened(RedNet((1, 1), num_classes=16)), tmp_path, operators="library")
    assert said == "3 of 3 involutions in 8 bits"
    assert kinds(model).count(contract.QUANTISED_INVOLUTION) == 3
    assert contract.DYNAMIC_INVOLUTION not in kinds(model)
    session(model, profile=tmp_path / "ran.onnx")
    ran = kinds(onnx.load(tmp_path / "ran.onnx"))
    # nothing converts between the first layer, whose results become levels, and the mean of the pixels, which is of
    # numbers, nor behind the last layer, which writes numbers
    assert (ran.count("QuantizeLinear"), ran.count("DequantizeLinear"), ran.count("Transpose")) == (2, 1, 2)
    assert near > 0.98


def test_signed_values_get_a_level_for_zero(tmp_path):
    torch.manual_seed(0)
    model, said, near = exported(Neck(), tmp_path, operators="library")
    assert said == "2 of 2 involutions in 8 bits"
    nodes = [node for node in model.graph.node if node.op_type == contract.QUANTISED_INVOLUTION]
    attributes = [{one.name: helper.get_attribute_value(one) for one in node.attribute} for node in nodes]
    assert all(0 < one["zero"] < 255 for one in attributes)
    # both read the same levels
    assert len({node.input[0] for node in nodes}) == 1
    assert near > 0.98


def test_a_relu_behind_is_what_the_lowest_level_does(tmp_path):
    torch.manual_seed(0)
    model, said, near = exported(Rectified(), tmp_path, operators="library")
    assert said == "2 of 2 involutions in 8 bits"
    assert "Relu" not in kinds(model)
    assert near > 0.98


def test_what_stays_in_float32_is_told(tmp_path):
    torch.manual_seed(0)
    model, said, near = exported(Bare(), tmp_path, operators="library")
    assert said == "1 of 2 involutions in 8 bits; 1 in float32, as what they write is read in float32"
    assert {contract.QUANTISED_INVOLUTION, contract.DYNAMIC_INVOLUTION} <= {*kinds(model)}
    assert near > 0.95


def test_standard_operators_have_none_in_8_bits(tmp_path):
    torch.manual_seed(0)
    model, said, near = exported(Neck(), tmp_path)
    assert said.startswith("involutions in float32, as standard operators compute them; ")
    assert said.endswith(" times the time of --operators library")
    assert not any(node.domain for node in model.graph.node)
    assert near > 0.98


def test_a_network_without_involutions_says_nothing(tmp_path):
    _, said, _ = exported(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)), tmp_path)
    assert said == ""


def test_a_file_for_a_newer_library_says_so(tmp_path):
    model, _ = small({})
    model.graph.node[0].op_type = "LaterInvolution2d"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(
        LibraryError, match=r"model.onnx: needs LaterInvolution2d, which .*; a newer one is needed: "
    ) as caught:
        _session(tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)

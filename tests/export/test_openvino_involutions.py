"""Involutions in 8 bits in OpenVINO: the node against float64 with each instruction set, and where exports put it."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from export_nodes import QuantisedCase, last
from torch import nn

from involution import Involution2d
from involution.export import LibraryError, contract, openvino_library
from involution.export.graph import Graph, Input, trace
from involution.models import RedNet
from involution.models.fuse import fuse
from involution.ops import native

ov = pytest.importorskip("openvino")
pytest.importorskip("nncf")
ops = pytest.importorskip("openvino.opset13")
SETS = [] if native.reason else native.instruction_sets()


@pytest.fixture(scope="module")
def library():
    try:
        return openvino_library()
    except LibraryError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def core(library):
    core = ov.Core()
    core.add_extension(library)
    return core


@pytest.fixture(scope="module")
def factory(library):
    from openvino.utils.node_factory import NodeFactory

    factory = NodeFactory()
    factory.add_extension(library)
    return factory


def model_of(factory, feeds, constants, attributes):
    inputs = [ops.parameter(list(one.shape), one.dtype) for one in feeds]
    parts = [one.output(0) for one in (*inputs, *map(ops.constant, constants))]
    return ov.Model([ops.result(factory.create(contract.QUANTISED_INVOLUTION, parts, attributes).output(0))], inputs)


def run(core, model, feeds, threads=1):
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    return np.array(core.compile_model(model, "CPU", settings)(feeds)[0])


@pytest.mark.parametrize("block", range(4))
def test_levels_are_those_of_float64(core, factory, block):
    for seed in range(20 * block, 20 * (block + 1)):
        case = QuantisedCase(seed)
        model = model_of(factory, case.feeds(), case.constants, case.attributes())
        found = run(core, model, case.feeds(), threads=1 + seed % 2)
        truth = (last(case.truth) if case.last else case.truth).numpy()
        assert found.dtype == np.uint8
        away = np.abs(found - truth.clip(0, 255))
        # a level away is only what lies between two
        assert away.max() <= 0.505, seed


@pytest.mark.parametrize("name", SETS[1:])
def test_other_instruction_sets(name):
    environment = {**os.environ, "INVOLUTION_CPU": name}
    environment.pop("PYTEST_XDIST_WORKER", None)
    # half of the table
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += [f"{__file__}::test_levels_are_those_of_float64[{block}]" for block in (0, 2)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_threads_do_not_change_a_level(core, factory):
    case = QuantisedCase(3)
    case.last, case.geometry, case.zero = 1, ([1, 1], [3, 3], [1, 1]), 0
    feeds = [np.random.default_rng(0).integers(0, 256, (2, 57, 55, size), np.uint8) for size in (64, 16)]
    rng = np.random.default_rng(1)
    constants = [rng.integers(-127, 128, (4, 7, 7, 16), np.int8), np.zeros((4, 7, 7), np.float32)]
    constants += [np.full(64, 1e-2, np.float32), np.full(64, 128, np.float32), np.full((4, 7, 7), 1e-3, np.float32)]
    model = model_of(factory, feeds, constants, case.attributes())
    one, two = (run(core, model, feeds, threads) for threads in (1, 2))
    assert np.array_equal(one, two)
    assert len(np.unique(one)) == 256


GEOMETRY = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "channels_last": 1, "zero": 0}
TAKES = [(2, 3, 3, 4), (2, 3, 3), (8,), (8,), (2, 3, 3)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"zero": 256}, "zero must be 0 to 255; got 256"),
        ({0: np.zeros((1, 5, 5, 8), np.float32)}, "input 0 must be u8; got f32"),
        ({2: np.zeros((2, 3, 3, 4), np.uint8)}, "input 2 must be i8; got u8"),
        ({6: np.zeros((2, 3), np.float32)}, r"span_scale must be .* = \[2, 3, 3\]"),
        ({3: np.zeros(0, np.float32)}, r"span_bias must be .* = \[2, 3, 3\]"),
    ],
)
def test_what_does_not_fit_is_refused(factory, changed, message):
    feeds = [np.zeros((1, 5, 5, 8), np.uint8), np.zeros((1, 5, 5, 4), np.uint8)]
    values = [*feeds, *(np.zeros(shape, np.int8 if i == 0 else np.float32) for i, shape in enumerate(TAKES))]
    attributes = GEOMETRY | {key: value for key, value in changed.items() if isinstance(key, str)}
    for place, value in changed.items():
        if isinstance(place, int):
            values[place] = value
    with pytest.raises(RuntimeError, match=message):
        model_of(factory, values[:2], values[2:], attributes)


class Neck(nn.Module):
    """Involutions without norm and ReLU, of which two read the same."""

    def __init__(self):
        super().__init__()
        self.lateral = nn.Conv2d(3, 32, 3, padding=1)
        self.involutions = nn.ModuleList([Involution2d(32, 7), Involution2d(32, 3)])
        self.heads = nn.ModuleList(nn.Conv2d(32, 4, 1) for _ in range(2))

    def forward(self, x):
        x = self.lateral(x)
        pairs = zip(self.heads, self.involutions, strict=True)
        return torch.cat([head(involution(x)) for head, involution in pairs], 1)


class Rectified(Neck):
    """Whose ReLUs are no part of the involutions."""

    def forward(self, x):
        x = self.lateral(x)
        pairs = zip(self.heads, self.involutions, strict=True)
        return torch.cat([head(involution(x).relu()) for head, involution in pairs], 1)


class Bare(Neck):
    """One of which is seen by what has no 8 bits."""

    def forward(self, x):
        x = self.lateral(x)
        return self.heads[0](self.involutions[0](x)) + self.involutions[1](x).sin().mean(1, keepdim=True)


def quantised(core, network, tmp_path):
    """A network's float32 model, its model in 8 bits, what was said, and an image."""
    import onnx

    from involution.export.onnx_program import to_onnx
    from involution.export.openvino_int8 import quantise

    fuse(network.eval())
    graph = Graph(network, (Input("images", torch.randn(2, 3, 48, 40), {0: "batch"}),), ("out",))
    onnx.save(to_onnx(trace(graph), graph, 20), tmp_path / "model.onnx")
    plain = core.read_model(tmp_path / "model.onnx")
    images = [(torch.randn(1, 3, 48, 40),) for _ in range(4)]
    found, said = quantise(plain.clone(), images)
    for model in (plain, found):
        model.reshape([1, 3, 48, 40])
    return plain, found, said, images[0][0].numpy()


def kinds(model):
    return [node.get_type_name() for node in model.get_ordered_ops()]


def layers(core, model):
    """Kind and output of what OpenVINO runs."""
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    words = [{key: str(info[key].astype(str)) for key in ("layerType", "outputPrecisions")} for info in infos]
    return [(info["layerType"], info["outputPrecisions"]) for info in words]


def enlivened(network):
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return network


def near(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


def test_bytes_go_from_convolution_to_involution_to_convolution(core, tmp_path):
    plain, found, said, image = quantised(core, enlivened(RedNet((1, 1), num_classes=16)), tmp_path)
    assert said == "3 of 3 involutions in 8 bits"
    assert kinds(found).count(contract.QUANTISED_INVOLUTION) == 3
    assert contract.DYNAMIC_INVOLUTION not in kinds(found)
    ran = layers(core, found)
    assert [precision for kind, precision in ran if kind == "Reference"] == ["u8"] * 3
    # nothing converts in between: one Subgraph makes levels of the image
    assert [kind for kind, _ in ran].count("Subgraph") <= 1
    assert {precision for kind, precision in ran if kind == "Convolution"} == {"u8"}
    assert near(run(core, plain, [image]), run(core, found, [image])) > 0.98


def test_signed_values_get_a_level_for_zero(core, tmp_path):
    torch.manual_seed(0)
    plain, found, said, image = quantised(core, Neck(), tmp_path)
    assert said == "2 of 2 involutions in 8 bits"
    nodes = [node for node in found.get_ops() if node.get_type_name() == contract.QUANTISED_INVOLUTION]
    assert all(0 < node.get_attributes()["zero"] < 255 for node in nodes)
    # both read the same levels
    assert len({node.input_value(0).get_node().input_value(0).get_node().get_friendly_name() for node in nodes}) == 1
    assert near(run(core, plain, [image]), run(core, found, [image])) > 0.98


def test_a_relu_behind_is_what_the_lowest_level_does(core, tmp_path):
    torch.manual_seed(0)
    plain, found, said, image = quantised(core, Rectified(), tmp_path)
    assert said == "2 of 2 involutions in 8 bits"
    # those of the generators are left
    assert (kinds(plain).count("Relu"), kinds(found).count("Relu")) == (4, 2)
    assert {precision for kind, precision in layers(core, found) if kind == "Reference"} == {"u8"}
    assert near(run(core, plain, [image]), run(core, found, [image])) > 0.98


def test_what_stays_in_float32_is_told(core, tmp_path):
    torch.manual_seed(0)
    plain, found, said, image = quantised(core, Bare(), tmp_path)
    assert said == "1 of 2 involutions in 8 bits; 1 in float32, as what they write is read in float32"
    assert {contract.QUANTISED_INVOLUTION, contract.DYNAMIC_INVOLUTION} <= {*kinds(found)}
    assert near(run(core, plain, [image]), run(core, found, [image])) > 0.95


def test_a_network_without_involutions_says_nothing(core, tmp_path):
    _, found, said, _ = quantised(core, nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)), tmp_path)
    assert said == ""
    assert contract.QUANTISED_INVOLUTION not in kinds(found)


def test_a_file_says_which_node_is_missing_without_the_extension(core, tmp_path):
    torch.manual_seed(0)
    _, found, _, image = quantised(core, Neck(), tmp_path)
    ov.save_model(found, tmp_path / "model.xml", compress_to_fp16=False)
    assert np.array_equal(run(core, core.read_model(tmp_path / "model.xml"), [image]), run(core, found, [image]))
    with pytest.raises(RuntimeError, match=r"QuantisedInvolution2d.*involution"):
        ov.Core().read_model(tmp_path / "model.xml")

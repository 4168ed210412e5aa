"""The extension in OpenVINO: values against float64 truth, shapes, files, threads, what is refused, how it is built."""

import os
import re
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from export_nodes import DYNAMIC_SHAPES, STATIC_SHAPES, TYPES, WRONG_ATTRIBUTES, WRONG_SHAPES, Case, last, single
from onnx import TensorProto
from tolerances import assert_near

from involution.export import LibraryError, contract, libraries, openvino_library

ov = pytest.importorskip("openvino")
pytestmark = pytest.mark.skipif(not (libraries._NATIVE / libraries._KERNELS).exists(), reason="not compiled here")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    # compiled once for all workers
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INVOLUTION_CACHE", str(folder / "openvino"))
        return openvino_library()


@pytest.fixture(scope="module")
def core(library):
    core = ov.Core()
    core.add_extension(library)
    return core


def compiled(core, model, threads=1):
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    return core.compile_model(model, "CPU", settings)


def read(core, model):
    return core.read_model(model.SerializeToString())


def check(case, out, dtype):
    truth, largest = case.truth()
    if case.channels_last:
        truth = last(truth)
    # the map itself sums up features
    assert_near(torch.from_numpy(np.array(out)).to(dtype), truth, vars(case), roundings=2, largest=largest)


@pytest.mark.parametrize("block", range(6))
def test_table(core, block):
    for seed in range(12 * block, 12 * (block + 1)):
        # the CPU plugin computes all types in float32
        case = Case(seed, [torch.float32, torch.float32, torch.float16])
        out = compiled(core, read(core, case.model()), threads=1 + seed % 2)(case.feeds())[0]
        check(case, out, case.dtype)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_type(core, dtype):
    for seed in range(400, 412):
        case = Case(seed, [dtype])
        model, feeds = read(core, case.model()), case.feeds()
        out = [ov.Tensor(np.zeros(tuple(model.output().shape)))]
        # node by node, without a plugin that would choose the types
        assert model.evaluate(out, [ov.Tensor(feeds[node.friendly_name]) for node in model.get_parameters()])
        check(case, out[0].data, dtype)


def large():
    """One that is worth several threads."""
    case = Case(0, [torch.float32])
    case.dynamic, case.channels_last, case.relu = True, 0, 1
    case.kernel, case.stride, case.dilation, case.padding = (7, 7), (1, 1), (1, 1), (3, 3)
    case.inputs = {
        "input": torch.randn(2, 64, 57, 55),
        "reduced": torch.randn(2, 16, 57, 55),
        "span_weight": torch.randn(4, 7, 7, 16),
        "scale": torch.randn(64),
    }
    return case


def test_threads_do_not_change_a_bit(core):
    case = large()
    model = read(core, case.model())
    outputs = [compiled(core, model, threads)(case.feeds())[0] for threads in (1, 2)]
    assert np.array_equal(*outputs)
    check(case, outputs[0], torch.float32)


def test_several_streams_at_once(core):
    case = large()
    model = read(core, case.model())
    truth = compiled(core, model)(case.feeds())[0]
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "THROUGHPUT"}
    throughput = core.compile_model(model, "CPU", settings)

    def several(_):
        request = throughput.create_infer_request()
        return [np.array(request.infer(case.feeds())[0]) for _ in range(4)]

    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(truth, out) for outputs in pool.map(several, range(4)) for out in outputs)


def test_a_written_model_is_read_with_the_extension_alone(core, tmp_path):
    case = large()
    # weights in the file, and absent ones as well
    model = read(core, case.model())
    wanted = compiled(core, model)(case.feeds())[0]
    ov.save_model(model, tmp_path / "model.xml", compress_to_fp16=False)
    assert np.array_equal(compiled(core, core.read_model(tmp_path / "model.xml"))(case.feeds())[0], wanted)
    with pytest.raises(RuntimeError, match="DynamicInvolution2d"):
        ov.Core().read_model(tmp_path / "model.xml")


def test_sizes_may_change_from_run_to_run(core):
    dims = {"input": ["N", 8, "H", "W"], "reduced": ["N", 4, "H_o", "W_o"], "span_weight": [2, 3, 3, 4]}
    running = compiled(core, read(core, single(contract.DYNAMIC_INVOLUTION, dims, {"padding": [1, 1]})))
    span = torch.randn(2, 3, 3, 4)
    for batch, height, width in ((1, 5, 7), (3, 9, 2), (2, 1, 1)):
        x, reduced = torch.randn(batch, 8, height, width), torch.randn(batch, 4, height, width)
        out = running({"input": x.numpy(), "reduced": reduced.numpy(), "span_weight": span.numpy()})[0]
        wanted = torch.ops.involution.dynamic_involution2d(x, reduced, span, None, [1, 1], [1, 1], [1, 1])
        torch.testing.assert_close(torch.from_numpy(np.array(out)), wanted)


@pytest.mark.parametrize(
    ("op", "attributes", "shapes", "wanted"),
    [
        (contract.DYNAMIC_INVOLUTION, {}, {"input": ["N", 8, "H", "W"], "reduced": ["N", 4, 5, 6]}, "[?,8,5,6]"),
        (contract.DYNAMIC_INVOLUTION, {}, {"reduced": [1, 4, "H_o", "W_o"]}, "[1,8,?,?]"),
        (
            contract.DYNAMIC_INVOLUTION,
            {"channels_last": 1},
            {"input": ["N", "H", "W", 8], "reduced": ["N", 5, 6, 4]},
            "[?,5,6,8]",
        ),
        (contract.INVOLUTION, {}, {"weight": ["N", 2, 3, 3, "H_o", 6]}, "[1,8,?,6]"),
        (contract.INVOLUTION, {"channels_last": 1}, {"input": [2, 9, 9, 8], "weight": [2, 5, 6, 2, 3, 3]}, "[2,5,6,8]"),
        (contract.INVOLUTION, {}, {"input": None, "weight": None}, "[?,?,?,?]"),
    ],
)
def test_shapes_are_inferred(core, op, attributes, shapes, wanted):
    all_shapes = DYNAMIC_SHAPES if op == contract.DYNAMIC_INVOLUTION else STATIC_SHAPES
    model = read(core, single(op, all_shapes | shapes, attributes))
    assert str(model.output().partial_shape) == wanted


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        *WRONG_ATTRIBUTES,
        ({"stride": 2}, "stride must be two integers"),
        ({"padding": "same"}, "padding must be two integers"),
        ({"relu": [1, 1]}, "relu must be an integer"),
    ],
)
def test_wrong_attributes_are_refused(core, attributes, message):
    with pytest.raises(RuntimeError, match=message):
        read(core, single(contract.DYNAMIC_INVOLUTION, DYNAMIC_SHAPES, attributes))


@pytest.mark.parametrize(("op", "changed", "shape", "message"), WRONG_SHAPES)
def test_wrong_shapes_are_refused(core, op, changed, shape, message):
    shapes = DYNAMIC_SHAPES if op == contract.DYNAMIC_INVOLUTION else STATIC_SHAPES
    feeds = {name: np.zeros(size, np.float32) for name, size in (shapes | {changed: shape}).items()}
    # the sizes are open while the model is read, the ranks are not
    model = single(op, {name: [None] * value.ndim for name, value in feeds.items()})
    # a wrong rank is told when the model is read, and no sizes are known there
    wanted = message if len(shape) == len(shapes[changed]) else re.split(" = |; got", message)[0]
    with pytest.raises(RuntimeError, match=wanted):
        # node by node: on one thread the CPU plugin drops what any operator throws while sizes are open
        read(core, model).evaluate([ov.Tensor(ov.Type.f32, ov.Shape([0]))], [ov.Tensor(feeds[name]) for name in feeds])


@pytest.mark.parametrize(("op", "changed", "shape", "message"), WRONG_SHAPES)
def test_wrong_shapes_that_are_known_are_refused_when_read(core, op, changed, shape, message):
    shapes = DYNAMIC_SHAPES if op == contract.DYNAMIC_INVOLUTION else STATIC_SHAPES
    with pytest.raises(RuntimeError, match=message):
        read(core, single(op, {name: list(size) for name, size in (shapes | {changed: shape}).items()}))


def test_on_one_thread_a_wrong_size_of_an_open_one_is_told(core):
    dims = DYNAMIC_SHAPES | {"input": ["N", 8, "H", "W"], "reduced": ["M", 4, "H_o", "W_o"]}
    running = compiled(core, read(core, single(contract.DYNAMIC_INVOLUTION, dims)), threads=1)
    sizes = DYNAMIC_SHAPES | {"reduced": (2, 4, 9, 9)}
    feeds = {name: np.zeros(size, np.float32) for name, size in sizes.items()}
    request = running.create_infer_request()
    # what a call that is waited for drops, for any operator
    request.start_async(feeds)
    with pytest.raises(RuntimeError, match="reduced must have N = 1 as input has"):
        request.wait()


def test_tensors_of_two_types_are_refused(core):
    with pytest.raises(RuntimeError, match="all inputs must have one type; got f32 and f64"):
        read(core, single(contract.INVOLUTION, STATIC_SHAPES, types={"weight": TensorProto.DOUBLE}))


class Layer(torch.nn.Module):
    def __init__(self, op):
        super().__init__()
        self.op = op
        self.span = torch.nn.Parameter(torch.randn(2, 3, 3, 4))
        self.shift = torch.nn.Parameter(torch.randn(32))

    def forward(self, x):
        reduced, geometry = x[:, :4].relu(), ([1, 1], [1, 1], [1, 1])
        ops = torch.ops.involution
        if self.op == "involution2d":
            weight = torch.einsum("guvr,nrhw->nguvhw", self.span, reduced)
            return ops.involution2d(x, weight, *geometry)
        if self.op == "dynamic_involution2d":
            return ops.dynamic_involution2d(x, reduced, self.span, self.shift[:18].view(2, 3, 3), *geometry)
        return ops.dynamic_involution2d_affine(x, reduced, self.span, None, *geometry, None, self.shift, True)


@pytest.mark.parametrize("op", ["involution2d", "dynamic_involution2d", "dynamic_involution2d_affine"])
def test_torch_programs_are_converted(core, library, op):
    layer, x = Layer(op).eval(), torch.randn(2, 32, 7, 9)
    program = torch.export.export(layer, (x,))
    model = ov.convert_model(program, extension=library)
    out = compiled(core, model)(x.numpy())[0]
    torch.testing.assert_close(torch.from_numpy(np.array(out)), layer(x).detach(), rtol=1e-4, atol=1e-4)


STUB = """#!{python}
import sys, time
with open({log!r}, "a") as log:
    log.write("compiled\\n")
{body}
"""


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Puts a compiler in place that only does what it is told; returns the list of its calls."""
    monkeypatch.setenv("INVOLUTION_CACHE", str(tmp_path / "cache"))
    log, file = tmp_path / "log", tmp_path / "stub"

    def make(body):
        file.write_text(STUB.format(python=sys.executable, log=str(log), body=body))
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("CXX", str(file))
        return lambda: log.read_text().split() if log.exists() else []

    return make


WRITES = 'out = sys.argv[sys.argv.index("-o") + 1]\nopen(out, "w").write("half")\n'


def test_of_two_builders_one_compiles_and_the_other_waits(compiler, tmp_path):
    calls = compiler(WRITES + 'time.sleep(2)\nopen(out, "a").write(" and half")')
    script = "from involution.export import openvino_library as f; p = f(); print(p, open(p).read())"
    running = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {process.communicate(timeout=120)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert len(said) == 1
    assert said.pop().endswith("half and half\n")
    assert calls() == ["compiled"]
    # and the third finds it
    openvino_library()
    assert calls() == ["compiled"]
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == [".so"]


def test_a_failed_build_leaves_nothing_and_says_why(compiler, tmp_path):
    calls = compiler(WRITES + 'print("x.cpp:1: note: a\\nx.cpp:2: error: no such thing", file=sys.stderr)\nsys.exit(1)')
    for _ in range(2):
        with pytest.raises(
            LibraryError, match=r"OpenVINO .* can't be compiled by .*stub: x.cpp:2: error: no such"
        ) as e:
            openvino_library()
        assert "\n" not in str(e.value)
    assert len(calls()) == 2
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} <= {".lock"}


def test_without_a_compiler_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("INVOLUTION_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "nonsense-c++ -O1")
    with pytest.raises(
        LibraryError, match=r"there is no C\+\+ compiler \(nonsense-c\+\+\): install one, or name it by CXX"
    ):
        openvino_library()


def test_without_kernels_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(libraries, "_NATIVE", tmp_path)
    with pytest.raises(LibraryError, match=r"has no kernels for OpenVINO \(kernels.o\): INVOLUTION_BUILD_NATIVE=1"):
        openvino_library()


def test_another_version_or_other_kernels_are_another_file(compiler, monkeypatch, tmp_path):
    compiler(WRITES)
    one = openvino_library()
    monkeypatch.setattr(ov, "get_version", lambda: "2099.1.0-1-abc")
    other = openvino_library()
    assert "openvino-2099.1.0-" in other
    assert other != one


def test_a_cache_that_can_not_be_written_is_told(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INVOLUTION_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match="INVOLUTION_CACHE chooses another place"):
        openvino_library()

"""The fused operator by tensor cores against float64: on a GPU, or one thread after the other where there is none."""

import math
from importlib.util import find_spec

import pytest
import torch
from cases import DEVICE, close, double
from cuda_kernels import emulated

from involution.ops import backends, cuda, dynamic
from involution.ops.cuda import compiler, fused

# the truth, on a GPU
pytestmark = pytest.mark.filterwarnings("ignore:using plain PyTorch, which is slower.*float64")
needs_a_compiler = pytest.mark.skipif(
    DEVICE == "cpu" and emulated.COMPILER is None, reason="needs a GPU or a C++ compiler"
)
H100 = fused.Gpu(132, 232448, 233472)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    if DEVICE == "cpu":
        monkeypatch.setattr(cuda, "run", emulated.run)


def image(*size, dtype):
    return torch.randn(size, device=DEVICE).to(dtype).contiguous(memory_format=torch.channels_last)


def operands(batch, groups, width, kernel, size, stride, padding, dilation, features, dtype):
    axes = zip(size, kernel, stride, padding, dilation, strict=True)
    out = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes]
    x, reduced = image(batch, groups * width, *size, dtype=dtype), image(batch, features, *out, dtype=dtype)
    span = (torch.randn(groups, *kernel, features, device=DEVICE) * features**-0.5).to(dtype)
    bias = torch.randn(groups, *kernel, device=DEVICE).to(dtype)
    return (x, reduced, span, bias), (list(stride), list(padding), list(dilation))


def by_tensor_cores(tensors, geometry, affine=(None, None, False)):
    kernel = cuda.Geometry(tuple(tensors[2].shape[1:3]), *map(tuple, geometry))
    return cuda._by_tensor_cores(*tensors, kernel, *affine)


PROBLEMS = {
    "a stem": (2, 2, 16, (3, 3), (9, 13), (1, 1), (1, 1), (1, 1), 8, torch.bfloat16),
    "a stage": (1, 2, 16, (7, 7), (11, 19), (1, 1), (3, 3), (1, 1), 48, torch.float16),
    "a stride": (1, 2, 16, (7, 7), (13, 17), (2, 2), (3, 3), (1, 1), 16, torch.bfloat16),
    "wide groups, dilated": (1, 1, 32, (5, 3), (9, 20), (2, 1), (1, 0), (1, 2), 40, torch.bfloat16),
}


@needs_a_compiler
@pytest.mark.parametrize("name", PROBLEMS)
def test_problems(name):
    tensors, geometry = operands(*PROBLEMS[name])
    truth = dynamic.plain(*double(*tensors), *geometry)
    close(by_tensor_cores(tensors, geometry), truth, tensors[0].dtype)


@needs_a_compiler
@pytest.mark.parametrize("tile", [fused.Tile(4, 16, 2), fused.Tile(10, 8, 1), fused.Tile(2, 24, 2)], ids=str)
def test_tiles(tile, monkeypatch):
    # of one image, or of several in turn
    monkeypatch.setattr(fused, "tiles", lambda problem, gpu: [(0.0, tile, 2)])
    fused.plan.cache_clear()
    fused.prepared.cache_clear()
    tensors, geometry = operands(3, 2, 16, (3, 3), (9, 21), (1, 1), (1, 1), (1, 1), 16, torch.bfloat16)
    close(by_tensor_cores(tensors, geometry), dynamic.plain(*double(*tensors), *geometry), torch.bfloat16)
    fused.plan.cache_clear()
    fused.prepared.cache_clear()


@needs_a_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_epilogue(dtype):
    tensors, geometry = operands(*PROBLEMS["a stem"])
    scale, shift = (torch.randn(32, device=DEVICE).to(dtype) for _ in range(2))
    for affine in ((scale, shift, True), (None, shift, False), (scale, None, True)):
        truth = dynamic.plain_affine(*double(*tensors), *geometry, *double(*affine[:2]), affine[2])
        close(by_tensor_cores(tensors, geometry, affine), truth, torch.bfloat16)


@needs_a_compiler
def test_what_is_infinite_or_nan_stays_where_it_belongs():
    # a zero beside a pixel's taps times an infinite input would be NaN
    tensors, geometry = operands(*PROBLEMS["a stage"])
    tensors[0][0, 3, 4, 4], tensors[0][0, 20, 0, 0], tensors[1][0, 0, 5, 7] = math.inf, math.nan, math.inf
    found, truth = by_tensor_cores(tensors, geometry), dynamic.plain(*double(*tensors), *geometry)
    assert torch.equal(found.isnan(), truth.isnan())
    assert torch.equal(found.isinf(), truth.isinf())
    assert found.isfinite().any()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dtype": torch.float32}, "float32"),
        ({"width": 8}, "groups of 8 channels"),
        ({"features": 12}, "12 features"),
        ({"geometry": cuda.Geometry((3, 9), (1, 1), (1, 1), (1, 1))}, "so wide a window"),
        ({"features": 128, "size": (256, 7, 7)}, "so many pixels"),
        ({"geometry": cuda.Geometry((3, 3), (1, 1), (1, 1), (400, 1))}, "does not fit into shared memory"),
    ],
    ids=str,
)
def test_what_it_leaves_to_others(change, reason):
    geometry = cuda.Geometry((3, 3), (1, 1), (1, 1), (1, 1))
    problem = fused.Problem(geometry, torch.bfloat16, 2, 16, 16, False, False, False, False, (1, 9, 9))
    fused.plan(problem, H100)
    with pytest.raises(backends.Unsupported, match=reason):
        fused.plan(problem._replace(**change), H100)


def test_the_operator_takes_it(monkeypatch):
    tensors, geometry = operands(*PROBLEMS["a stem"])
    monkeypatch.setattr(cuda, "_by_tensor_cores", lambda *args: "tensor cores")
    assert cuda.dynamic_forward(*tensors, *geometry) == "tensor cores"


@pytest.mark.skipif(find_spec("cuda") is None, reason="needs cuda-bindings")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_it_compiles_without_a_gpu(architecture):
    geometry = cuda.Geometry((7, 7), (1, 1), (3, 3), (1, 1))
    problem = fused.Problem(geometry, torch.bfloat16, 4, 16, 16, True, True, True, True, (32, 56, 56))
    constants, *_ = fused.plan(problem, H100)
    assert b"fused" in compiler.compile_to_cubin(constants, architecture)

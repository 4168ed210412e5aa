"""The CUDA kernels against float64: on a GPU, or compiled for the CPU where there is none."""

import math
from importlib.util import find_spec

import pytest
import torch
from cases import DEVICE, Case, close, double
from cuda_kernels import emulated

from involution.ops import backends, cuda, dynamic, reference
from involution.ops.cuda import compiler
from involution.ops.cuda.record import BACKEND
from involution.ops.schema import output_format

# the truth, on a GPU
pytestmark = pytest.mark.filterwarnings("ignore:using plain PyTorch, which is slower.*float64")
CASES, CHUNK = 24, 4
needs_a_compiler = pytest.mark.skipif(
    DEVICE == "cpu" and emulated.COMPILER is None, reason="needs a GPU or a C++ compiler"
)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    if DEVICE == "cpu":
        monkeypatch.setattr(cuda, "run", emulated.run)
        # PyTorch has a product with a float32 result for a GPU alone
        monkeypatch.setattr(cuda, "product_in_float", lambda a, b: a.float() @ b.float())


def supported(first, count=CHUNK):
    """Return cases that the kernels handle: from the first seed on, as many as wanted."""
    seed, found = 40 * first, []
    while len(found) < count:
        case = Case(seed)
        seed += 1
        # a group's channels in words of four bytes
        if not case.group_width * case.dtype.itemsize % 4:
            found.append(case)
    return found


def chunk(name):
    return pytest.mark.parametrize(name, range(0, CASES, CHUNK), ids=lambda first: f"{first}-{first + CHUNK - 1}")


@needs_a_compiler
@chunk("first")
def test_map(first):
    for case in supported(first):
        x, dy, w = case.x, case.dy, case.map
        found = cuda.forward(x, w, *case.geometry)
        close(found, reference.shift_forward(*double(x, w), *case.geometry), case.dtype)
        assert found.is_contiguous(memory_format=output_format(x))
        found = cuda.grad_input(dy, w, case.input_size, *case.geometry)
        close(found, reference.shift_grad_input(*double(dy, w), case.input_size, *case.geometry), case.dtype)
        rest = case.groups, case.kernel_size, *case.geometry
        close(cuda.grad_weight(dy, x, *rest), reference.shift_grad_weight(*double(dy, x), *rest), case.dtype)


@needs_a_compiler
@chunk("first")
def test_fused(first, monkeypatch):
    # one image at a time
    monkeypatch.setattr(cuda, "MAP_BYTES", 1)
    for case in supported(first):
        dy, *args = case.dy, case.x, *case.generators
        close(cuda.dynamic_forward(*args, *case.geometry), dynamic.plain(*double(*args), *case.geometry), case.dtype)
        found = cuda.dynamic_backward(dy, *args, *case.geometry, [True] * 4)
        truth = dynamic.plain_backward(*double(dy, *args), *case.geometry, [True] * 4)
        for actual, expected in zip(found, truth, strict=True):
            close(actual, expected, case.dtype, roundings=4)


@needs_a_compiler
def test_only_the_gradients_that_were_asked_for():
    case = supported(0, 1)[0]
    args = case.dy, case.x, *case.generators
    for wanted in range(4):
        mask = [i == wanted for i in range(4)]
        found = cuda.dynamic_backward(*args, *case.geometry, mask)
        assert [bool(gradient.numel()) for gradient in found] == mask
        close(found[wanted], dynamic.plain_backward(*double(*args), *case.geometry, mask)[wanted], case.dtype, 4)


@needs_a_compiler
def test_epilogue():
    case = supported(7, 1)[0]
    x, generators = case.x, case.generators
    scale, shift = case.tensor(x.shape[1]), case.tensor(x.shape[1])
    for rest in ((scale, shift, True), (None, shift, False), (scale, None, True)):
        truth = dynamic.plain_affine(*double(x, *generators), *case.geometry, *double(*rest[:2]), rest[2])
        close(cuda.dynamic_forward(x, *generators, *case.geometry, *rest), truth, case.dtype)


@needs_a_compiler
def test_what_lies_outside_adds_nothing():
    # an infinite weight or gradient times the zero outside the image would be NaN
    x = torch.ones(1, 4, 3, 3, device=DEVICE)
    w = torch.zeros(1, 1, 3, 3, 3, 3, device=DEVICE)
    w[0, 0, 0] = math.inf
    g = [1, 1], [1, 1], [1, 1]
    found = cuda.forward(x, w, *g)
    torch.testing.assert_close(found, reference.shift_forward(x, w, *g))
    assert found[:, :, 0].eq(0).all()
    dy = torch.full_like(x, math.inf)
    torch.testing.assert_close(
        cuda.grad_weight(dy, x, 1, [3, 3], *g), reference.shift_grad_weight(dy, x, 1, [3, 3], *g), equal_nan=True
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"group_width": 3}, "groups of 3 channels in float16"),
        ({"kernel_size": [3, 17]}, "kernel size 17"),
        ({"dilation": (1, 40)}, "dilation 40"),
        ({"stride": (5, 1)}, "stride"),
        ({"batch": 0}, "an empty tensor"),
    ],
    ids=str,
)
def test_what_the_kernels_leave_to_others(change, reason):
    case = Case(0)
    case.groups, case.group_width, case.batch, case.features = 2, 4, 1, 4
    case.kernel_size, case.stride, case.dilation, case.padding = [3, 3], (1, 1), (1, 1), (1, 1)
    case.input_size = case.output_size = [5, 5]
    case.dtype, case.orders = torch.float16, ["contiguous"] * 4
    for name, value in change.items():
        setattr(case, name, value)
    with pytest.raises(backends.Unsupported, match=reason):
        cuda.forward(case.x, case.map, *case.geometry)


def test_tensors_of_two_dtypes_are_left_to_others():
    x, w = torch.ones(1, 4, 3, 3), torch.ones(1, 1, 1, 1, 3, 3).half()
    with pytest.raises(backends.Unsupported, match="different dtypes"):
        cuda.forward(x, w, [1, 1], [0, 0], [1, 1])


@pytest.mark.parametrize("name", BACKEND.kernels)
def test_the_next_best_handles_what_they_leave(name):
    plain, kernel = backends._below(BACKEND, name)
    triton = backends.BACKENDS["triton"]
    assert plain == (triton.absence() is not None)
    assert kernel.__name__ == (BACKEND.kernels if plain else triton.kernels)[name].__name__ or plain


@pytest.mark.skipif(find_spec("cuda") is None, reason="needs cuda-bindings")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("kernel", compiler.KERNELS[:4])
def test_they_compile_without_a_gpu(kernel, architecture):
    geometry = cuda.Geometry((7, 7), (1, 1), (3, 3), (1, 1))
    constants = (
        cuda.packing(torch.bfloat16, 4, 7, 7)
        if kernel == "pack"
        else cuda.plan(kernel, geometry, torch.bfloat16, 4, 16, 56, True)
    )
    cubin = compiler.compile_to_cubin(constants, architecture)
    assert cubin.startswith(b"\x7fELF")
    assert kernel.encode() in cubin


@pytest.mark.skipif(find_spec("cuda") is None, reason="needs cuda-bindings")
def test_a_failing_compilation_names_the_cause():
    with pytest.raises(RuntimeError, match=r"does not compile for sm_90: .*KERNEL_NUMBER|identifier"):
        compiler.compile_to_cubin((("KERNEL_NUMBER", 0),), "sm_90")

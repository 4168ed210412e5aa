"""The GPU kernels against float64: on a GPU, or by Triton's interpreter."""

import math
import random

import pytest
import torch

pytest.importorskip("triton")

from involution.ops import dynamic, info, reference
from involution.ops import triton as launchers
from involution.ops.triton import launch
from involution.ops.triton.register import KERNELS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CASES, CHUNK = 200, 25
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


class Case:
    """A problem drawn from a seed: shapes, geometry, memory orders and a dtype."""

    def __init__(self, seed):
        draw = random.Random(seed)
        self.group_width = draw.choice((1, 2, 3, 4, 5, 8, 16, 16, 16, 20, 32, 70))
        self.groups = draw.choice((1, 1, 2, 3, 4, 5) if self.group_width <= 20 else (1, 2))
        self.kernel_size = draw.choice([(3, 3)] * 3 + [(1, 1), (2, 2), (5, 5), (7, 7), (2, 3), (1, 5), (4, 1)])
        self.stride = draw.choice(((1, 1), (2, 2), (1, 2), (3, 3)))
        self.dilation = draw.choice(((1, 1), (1, 1), (2, 2), (1, 3)))
        # up to borders larger than the image
        self.padding = draw.choice(((0, 0), (1, 1), (1, 1), (3, 3), (2, 0)))
        self.features = draw.choice((1, 3, 8, 16, 20))
        self.batch = draw.choice((1, 1, 1, 2))
        self.dtype = draw.choice((torch.float32, torch.float32, torch.bfloat16, torch.float16))
        self.bias = draw.random() < 0.8
        self.orders = [draw.choice(("contiguous", "channels_last", "sliced", "expanded")) for _ in range(4)]
        least = [
            (k - 1) * d + 1 - 2 * p for k, d, p in zip(self.kernel_size, self.dilation, self.padding, strict=False)
        ]
        self.input_size = [max(1, n) + draw.randrange(4) for n in least]
        self.generator = torch.Generator().manual_seed(seed)
        geometry = zip(self.input_size, self.kernel_size, self.stride, self.padding, self.dilation, strict=False)
        self.output_size = [(x + 2 * p - (k - 1) * d - 1) // s + 1 for x, k, s, p, d in geometry]

    @property
    def geometry(self):
        return list(self.stride), list(self.padding), list(self.dilation)

    def tensor(self, *size, order="contiguous"):
        tensor = torch.randn(size, generator=self.generator, dtype=torch.float64).to(self.dtype).to(DEVICE)
        if order == "channels_last":
            return tensor.contiguous(memory_format=torch.channels_last)
        if order == "expanded":
            return tensor[:1].expand(size)
        if order == "sliced":
            # amid NaN: what is read beside it shows
            wide = torch.full((*size[:-1], 2 * size[-1] + 1), math.nan, dtype=self.dtype, device=DEVICE)
            wide[..., 1::2] = tensor
            return wide[..., 1::2]
        return tensor

    @property
    def x(self):
        return self.tensor(self.batch, self.groups * self.group_width, *self.input_size, order=self.orders[0])

    @property
    def dy(self):
        return self.tensor(self.batch, self.groups * self.group_width, *self.output_size, order=self.orders[1])

    @property
    def map(self):
        size = (self.batch, self.groups * math.prod(self.kernel_size), *self.output_size)
        return self.tensor(*size, order=self.orders[2]).unflatten(1, (self.groups, *self.kernel_size))

    @property
    def generators(self):
        reduced = self.tensor(self.batch, self.features, *self.output_size, order=self.orders[3])
        span = self.tensor(self.groups, *self.kernel_size, self.features)
        return reduced, span, self.tensor(self.groups, *self.kernel_size) if self.bias else None


def close(actual, truth, dtype):
    assert actual.dtype == dtype
    assert actual.shape == truth.shape
    if not truth.numel():
        return
    error = (actual.double() - truth).abs().max()
    # sums of as many terms as there are taps, features and channels
    assert error <= TOLERANCE[dtype] * max(1, float(truth.abs().max())) * 4, float(error)


def double(*tensors):
    return [t if t is None else t.double() for t in tensors]


def chunk(name):
    return pytest.mark.parametrize(name, range(0, CASES, CHUNK), ids=lambda first: f"{first}-{first + CHUNK - 1}")


@chunk("first")
def test_forward(first):
    for case in map(Case, range(first, first + CHUNK)):
        x, w = case.x, case.map
        truth = reference.shift_forward(*double(x, w), *case.geometry)
        close(launchers.forward(x, w, *case.geometry), truth, case.dtype)


@chunk("first")
def test_grad_input(first):
    for case in map(Case, range(first, first + CHUNK)):
        dy, w = case.dy, case.map
        truth = reference.shift_grad_input(*double(dy, w), case.input_size, *case.geometry)
        close(launchers.grad_input(dy, w, case.input_size, *case.geometry), truth, case.dtype)


@chunk("first")
def test_grad_weight(first):
    for case in map(Case, range(first, first + CHUNK)):
        rest = case.groups, case.kernel_size, *case.geometry
        dy, x = case.dy, case.x
        close(launchers.grad_weight(dy, x, *rest), reference.shift_grad_weight(*double(dy, x), *rest), case.dtype)


@chunk("first")
def test_dynamic_forward(first):
    for case in map(Case, range(first, first + CHUNK)):
        x, generators = case.x, case.generators
        truth = dynamic.plain(*double(x, *generators), *case.geometry)
        close(launchers.dynamic_forward(x, *generators, *case.geometry), truth, case.dtype)


@pytest.mark.parametrize("which", [0, 1, 2], ids=["input", "reduced", "span and bias"])
@chunk("first")
def test_dynamic_backward(first, which):
    mask = [which == 0, which == 1, which == 2, which == 2]
    for case in map(Case, range(first, first + CHUNK)):
        args = case.dy, case.x, *case.generators
        found = launchers.dynamic_backward(*args, *case.geometry, mask)
        truth = dynamic.plain_backward(*double(*args), *case.geometry, mask)
        for actual, expected in zip(found, truth, strict=True):
            close(actual, expected, case.dtype)


@pytest.mark.parametrize("name", ["scale", "shift", "relu", "all"])
def test_epilogue(name):
    for case in map(Case, range(300, 310)):
        x, generators = case.x, case.generators
        channels = x.shape[1]
        scale = case.tensor(channels) if name in ("scale", "all") else None
        shift = case.tensor(channels) if name in ("shift", "all") else None
        rest = *case.geometry, scale, shift, name in ("relu", "all")
        truth = dynamic.plain_affine(*double(x, *generators), *case.geometry, *double(scale, shift), rest[-1])
        close(launchers.dynamic_forward(x, *generators, *rest), truth, case.dtype)


def test_offsets_of_64_bits(monkeypatch):
    # the kernels' other form, on tensors that do not need it
    monkeypatch.setattr(launch, "is_wide", lambda *tensors: True)
    for case in map(Case, range(6)):
        x, w, dy = case.x, case.map, case.dy
        close(
            launchers.forward(x, w, *case.geometry),
            reference.shift_forward(*double(x, w), *case.geometry),
            case.dtype,
        )
        args = dy, x, *case.generators
        found = launchers.dynamic_backward(*args, *case.geometry, [True] * 4)
        truth = dynamic.plain_backward(*double(*args), *case.geometry, [True] * 4)
        for actual, expected in zip(found, truth, strict=True):
            if expected.numel() and not (actual is found[3] and not case.bias):
                close(actual, expected, case.dtype)


def test_results_are_deterministic(deterministic):
    # fresh memory is NaN here: every element of the result and of the split sums is written
    case = Case(7)
    args = case.dy, case.x, *case.generators
    one = launchers.dynamic_backward(*args, *case.geometry, [True] * 4)
    two = launchers.dynamic_backward(*args, *case.geometry, [True] * 4)
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a, b)
        assert not a.isnan().any()


def test_rednet_shapes_take_many_programs():
    case = Case(0)
    case.groups, case.group_width, case.kernel_size, case.batch = 18, 16, (3, 3), 2
    case.stride = case.padding = case.dilation = (1, 1)
    case.input_size = case.output_size = [9, 9]
    case.features, case.dtype, case.bias = 72, torch.float32, True
    args = case.dy, case.x, *case.generators
    truth = dynamic.plain(*double(*args[1:]), *case.geometry)
    close(launchers.dynamic_forward(*args[1:], *case.geometry), truth, case.dtype)
    found = launchers.dynamic_backward(*args, *case.geometry, [True] * 4)
    for actual, expected in zip(found, dynamic.plain_backward(*double(*args), *case.geometry, [True] * 4), strict=True):
        close(actual, expected, case.dtype)


@pytest.mark.parametrize("size", [(0, 16, 5, 5), (1, 16, 0, 5)])
def test_empty(size):
    x = torch.randn(size, device=DEVICE)
    w = torch.randn(size[0], 1, 3, 3, *size[2:], device=DEVICE)
    assert KERNELS["involution2d"](x, w, [1, 1], [1, 1], [1, 1]).shape == x.shape


def test_fused_empty_batch():
    x, reduced = torch.randn(0, 16, 5, 5, device=DEVICE), torch.randn(0, 4, 5, 5, device=DEVICE)
    args = reduced, torch.randn(1, 3, 3, 4, device=DEVICE), None, [1, 1], [1, 1], [1, 1]
    assert KERNELS["dynamic_involution2d"](x, *args).shape == x.shape
    grads = KERNELS["dynamic_involution2d_backward"](x, x, *args, [True] * 4)
    assert [g.shape for g in grads] == [x.shape, reduced.shape, (1, 3, 3, 4), (1, 3, 3)]
    assert not grads[2].any()


def test_the_plain_form_serves_the_rest():
    x, w = torch.randn(1, 16, 5, 5, device=DEVICE).double(), torch.randn(1, 1, 3, 3, 5, 5, device=DEVICE).double()
    geometry = [1, 1], [1, 1], [1, 1]
    with pytest.raises(launchers.Unsupported, match=r"torch\.float64: the kernels compute in float32"):
        launchers.forward(x, w, *geometry)
    torch.testing.assert_close(KERNELS["involution2d"](x, w, *geometry), reference.shift_forward(x, w, *geometry))
    reduced, span = torch.randn(1, 300, 5, 5, device=DEVICE), torch.randn(1, 3, 3, 300, device=DEVICE)
    with pytest.raises(launchers.Unsupported, match="300 reduced features: the kernels keep at most 256"):
        launchers.dynamic_forward(x.float(), reduced, span, None, *geometry)
    torch.testing.assert_close(
        KERNELS["dynamic_involution2d"](x.float(), reduced, span, None, *geometry),
        dynamic.plain(x.float(), reduced, span, None, *geometry),
    )


def empty(*size):
    return torch.empty(size, device=DEVICE)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("forward", [(2, 16, 5, 5), (1, 1, 3, 3, 5, 5)], "input and map of the same batch"),
        ("forward", [(1, 16, 5, 5), (1, 3, 3, 3, 5, 5)], "channels in the map's groups"),
        ("forward", [(1, 16, 5, 5), (1, 9, 5, 5)], "a map"),
        ("grad_input", [(1, 16, 4, 5), (1, 1, 3, 3, 5, 5), [5, 5]], "grad and the map of the same size"),
        ("grad_weight", [(1, 16, 5, 5), (1, 8, 5, 5), 1, [3, 3]], "grad and input of the same batch and channels"),
        ("grad_weight", [(1, 16, 5, 5), (1, 16, 5, 5), 3, [3, 3]], "channels in 3 groups"),
        ("dynamic_forward", [(1, 16, 5, 5), (1, 4, 5, 5), (1, 3, 3, 5), None], "features"),
        ("dynamic_forward", [(1, 16, 5, 5), (1, 4, 5, 5), (3, 3, 3, 4), None], "channels in the span's groups"),
        ("dynamic_forward", [(1, 16, 5, 5), (1, 4, 5, 5), (1, 3, 3, 4), (1, 3, 1)], "a bias"),
        ("dynamic_backward", [(1, 16, 5, 4), (1, 16, 5, 5), (1, 4, 5, 5), (1, 3, 3, 4), None], "grad of the output's"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(name, args, message):
    args = [empty(*a) if isinstance(a, tuple) else a for a in args]
    mask = [[True] * 4] if name == "dynamic_backward" else []
    with pytest.raises(ValueError, match=message):
        getattr(launchers, name)(*args, [1, 1], [1, 1], [1, 1], *mask)


def test_cpu_tensors_need_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(RuntimeError, match="move them to a GPU, or set TRITON_INTERPRET=1"):
        launchers.forward(torch.randn(1, 1, 3, 3), torch.randn(1, 1, 1, 1, 3, 3), [1, 1], [0, 0], [1, 1])


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("device", ["CUDA", "XPU"])
def test_the_operators_have_them(name, device):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"involution::{name}", device)


def test_info_tells_what_serves_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    rows = {row.operator: row for row in info.served() if row.device == "cuda"}
    assert rows["involution2d"].kernel == rows["dynamic_involution2d"].kernel == "Triton"
    assert rows["involution2d"].dtypes == "float16, bfloat16, float32"
    assert rows["involution2d"].why_not == "plain PyTorch serves float64"
    assert "more than 256 reduced features" in rows["dynamic_involution2d_backward"].why_not
    assert rows["involution3d"].kernel == "plain PyTorch"
    assert rows["involution3d"].why_not == "no cuda kernel for this operator"

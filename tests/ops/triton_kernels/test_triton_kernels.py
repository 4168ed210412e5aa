"""The GPU kernels against float64: on a GPU, or by Triton's interpreter."""

import contextlib

import pytest
import torch
from cases import DEVICE, Case, close, double
from torch._subclasses.fake_tensor import FakeTensorMode

pytest.importorskip("triton")

from involution import involution2d
from involution.ops import backends, cuda, dynamic, info, reference
from involution.ops import triton as launchers
from involution.ops.triton import launch
from involution.ops.triton.record import BACKEND

# as the operators have them
SERVED = {name: backends.wrapped(BACKEND, name, kernel) for name, kernel in BACKEND.kernels.items()}

# the truth, on a GPU
pytestmark = pytest.mark.filterwarnings("ignore:using plain PyTorch, which is slower.*float64")
CASES, CHUNK = 200, 25
# the interpreter takes seconds for many of them; these are small, and have every choice and the same pairs of choices
FEW = (7, 17, 19, 25, 37, 41, 53, 58, 59, 67, 77, 87, 97, 110, 115, 118, 127, 128, 141, 143, 144, 150, 153, 165, 167)
FEW += (168, 176, 180, 183, 185, 189)


def chunks():
    every = [range(first, first + CHUNK) for first in range(0, CASES, CHUNK)]
    slow = [pytest.mark.slow] * (DEVICE == "cpu")
    return [pytest.param(FEW, id="few"), *(pytest.param(one, id=f"{one[0]}-{one[-1]}", marks=slow) for one in every)]


chunk = pytest.mark.parametrize("seeds", chunks())


def choices(seeds):
    """Each choice of some cases, and the pairs of those that a kernel might treat together."""
    found = set()
    for case in map(Case, seeds):
        width, kernel, stride, dilation = case.group_width, case.kernel_size, case.stride, case.dilation
        singles = [width, case.groups, kernel, stride, dilation, case.padding, case.features, case.batch, case.dtype]
        whole = width >= 16
        pairs = [(kernel, stride != (1, 1)), (kernel, dilation != (1, 1)), (stride, dilation)]
        pairs += [(case.padding, stride), (case.padding, dilation), (case.groups, whole), (case.features, whole)]
        pairs += [(one, case.dtype.itemsize) for one in (width, case.features)]
        pairs += [(case.dtype, case.bias), (case.dtype, case.orders[0]), (stride, width > 16)]
        found |= {*enumerate([*singles, *case.orders, *pairs])} | {(case.dtype, order) for order in case.orders}
    return found


def test_the_few_cases_have_every_choice():
    assert choices(FEW) == choices(range(CASES))


@chunk
def test_forward(seeds):
    for case in map(Case, seeds):
        x, w = case.x, case.map
        truth = reference.shift_forward(*double(x, w), *case.geometry)
        close(launchers.forward(x, w, *case.geometry), truth, case.dtype)


@chunk
def test_grad_input(seeds):
    for case in map(Case, seeds):
        dy, w = case.dy, case.map
        truth = reference.shift_grad_input(*double(dy, w), case.input_size, *case.geometry)
        close(launchers.grad_input(dy, w, case.input_size, *case.geometry), truth, case.dtype)


@chunk
def test_grad_weight(seeds):
    for case in map(Case, seeds):
        rest = case.groups, case.kernel_size, *case.geometry
        dy, x = case.dy, case.x
        close(launchers.grad_weight(dy, x, *rest), reference.shift_grad_weight(*double(dy, x), *rest), case.dtype)


@chunk
def test_dynamic_forward(seeds):
    for case in map(Case, seeds):
        x, generators = case.x, case.generators
        truth = dynamic.plain(*double(x, *generators), *case.geometry)
        close(launchers.dynamic_forward(x, *generators, *case.geometry), truth, case.dtype)


@pytest.mark.parametrize("which", [0, 1, 2], ids=["input", "reduced", "span and bias"])
@chunk
def test_dynamic_backward(seeds, which):
    mask = [which == 0, which == 1, which == 2, which == 2]
    for case in map(Case, seeds):
        args = case.dy, case.x, *case.generators
        found = launchers.dynamic_backward(*args, *case.geometry, mask)
        truth = dynamic.plain_backward(*double(*args), *case.geometry, mask)
        for actual, expected in zip(found, truth, strict=True):
            close(actual, expected, case.dtype, roundings=4)


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
                close(actual, expected, case.dtype, roundings=4)


def far_apart(tensor, dim):
    """Return the tensor with 2³⁰ elements between neighbours in one of its dimensions, of size 3."""
    distance = 2**30 + 8
    # pages that nobody touches take no memory
    storage = torch.empty(2 * distance + tensor.numel(), dtype=tensor.dtype, device=DEVICE)
    strides = list(tensor.stride())
    strides[dim] = distance
    return storage.as_strided(tensor.shape, strides).copy_(tensor)


@pytest.mark.parametrize(
    ("which", "dim"),
    [("x", 1), ("x", 2), ("x", 3), ("dy", 1), ("dy", 2), ("map", 2), ("map", 3), ("map", 4), ("reduced", 1)],
)
def test_tensors_of_more_than_31_bits(which, dim):
    case = Case(0)
    case.groups, case.group_width, case.batch, case.features, case.bias = 3, 1, 1, 3, True
    case.kernel_size = case.input_size = case.output_size = [3, 3]
    case.stride = case.padding = case.dilation = (1, 1)
    case.dtype, case.orders = torch.float16, ["contiguous"] * 4
    reduced, span, bias = case.generators
    tensors = {"x": case.x, "dy": case.dy, "map": case.map, "reduced": reduced}
    tensors[which] = far_apart(tensors[which], dim)
    x, dy, weight, reduced = tensors.values()
    assert launch.is_wide(tensors[which])
    g, rest = case.geometry, (3, [3, 3], *case.geometry)
    truth = reference.shift_forward(*double(x, weight), *g)
    close(launchers.forward(x, weight, *g), truth, case.dtype)
    truth = reference.shift_grad_input(*double(dy, weight), [3, 3], *g)
    close(launchers.grad_input(dy, weight, [3, 3], *g), truth, case.dtype)
    close(launchers.grad_weight(dy, x, *rest), reference.shift_grad_weight(*double(dy, x), *rest), case.dtype)
    args = x, reduced, span, bias
    close(launchers.dynamic_forward(*args, *g), dynamic.plain(*double(*args), *g), case.dtype)
    found = launchers.dynamic_backward(dy, *args, *g, [True] * 4)
    truths = dynamic.plain_backward(*double(dy, *args), *g, [True] * 4)
    for actual, expected in zip(found, truths, strict=True):
        close(actual, expected, case.dtype, roundings=4)


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
    case.groups, case.group_width, case.kernel_size, case.batch = 10, 16, (3, 3), 2
    case.stride = case.padding = case.dilation = (1, 1)
    case.input_size = case.output_size = [9, 9]
    case.features, case.dtype, case.bias = 72, torch.float32, True
    args = case.dy, case.x, *case.generators
    truth = dynamic.plain(*double(*args[1:]), *case.geometry)
    close(launchers.dynamic_forward(*args[1:], *case.geometry), truth, case.dtype)
    found = launchers.dynamic_backward(*args, *case.geometry, [True] * 4)
    for actual, expected in zip(found, dynamic.plain_backward(*double(*args), *case.geometry, [True] * 4), strict=True):
        close(actual, expected, case.dtype, roundings=4)


@pytest.mark.parametrize("size", [(0, 16, 5, 5), (1, 16, 0, 5)])
def test_empty(size):
    x = torch.randn(size, device=DEVICE)
    w = torch.randn(size[0], 1, 3, 3, *size[2:], device=DEVICE)
    assert SERVED["involution2d"](x, w, [1, 1], [1, 1], [1, 1]).shape == x.shape


def test_fused_empty_batch():
    x, reduced = torch.randn(0, 16, 5, 5, device=DEVICE), torch.randn(0, 4, 5, 5, device=DEVICE)
    args = reduced, torch.randn(1, 3, 3, 4, device=DEVICE), None, [1, 1], [1, 1], [1, 1]
    assert SERVED["dynamic_involution2d"](x, *args).shape == x.shape
    grads = SERVED["dynamic_involution2d_backward"](x, x, *args, [True] * 4)
    assert [g.shape for g in grads] == [x.shape, reduced.shape, (1, 3, 3, 4), (1, 3, 3)]
    assert not grads[2].any()


def test_the_plain_form_serves_the_rest(monkeypatch):
    monkeypatch.setattr(backends, "_told", set())
    x, w = torch.randn(1, 16, 5, 5, device=DEVICE).double(), torch.randn(1, 1, 3, 3, 5, 5, device=DEVICE).double()
    geometry = [1, 1], [1, 1], [1, 1]
    with pytest.raises(backends.Unsupported, match=r"torch\.float64: the kernels compute in float32"):
        launchers.forward(x, w, *geometry)
    with pytest.warns(backends.BackendWarning, match=r"involution2d: the Triton kernels do not support float64"):
        served = SERVED["involution2d"](x, w, *geometry)
    torch.testing.assert_close(served, reference.shift_forward(x, w, *geometry))
    reduced, span = torch.randn(1, 300, 5, 5, device=DEVICE), torch.randn(1, 3, 3, 300, device=DEVICE)
    with pytest.raises(backends.Unsupported, match="300 reduced features: the kernels keep at most 256"):
        launchers.dynamic_forward(x.float(), reduced, span, None, *geometry)
    with pytest.warns(backends.BackendWarning, match="dynamic_involution2d: 300 reduced features: the kernels keep at"):
        served = SERVED["dynamic_involution2d"](x.float(), reduced, span, None, *geometry)
    torch.testing.assert_close(served, dynamic.plain(x.float(), reduced, span, None, *geometry))


def empty(*size):
    return torch.empty(size, device=DEVICE)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("forward", [(2, 16, 5, 5), (1, 1, 3, 3, 5, 5)], "input and map of the same batch"),
        ("forward", [(1, 16, 5, 5), (1, 3, 3, 3, 5, 5)], "channels in the map's groups"),
        ("forward", [(1, 16, 5, 5), (1, 9, 5, 5)], "a map"),
        ("forward", [(16, 5, 5), (1, 1, 3, 3, 5, 5)], "input of four dimensions"),
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


class Launched:
    """Stands in for the kernels of a GPU: notes what was launched and on which device."""

    def __init__(self):
        self.launches, self.device = [], None

    def on(self, index):
        @contextlib.contextmanager
        def current():
            before, self.device = self.device, index
            yield
            self.device = before

        return current()

    def __getattr__(self, name):
        def launch(*args, **constants):
            self.launches.append((name, self.device))

        # kernel[grid](...)
        return type("Kernel", (), {"__getitem__": lambda _, grid: launch})()


@pytest.mark.skipif(torch.cuda.device_count() == 1, reason="its fake tensors are on a second GPU")
def test_launches_are_on_the_tensors_device_and_wait_for_nothing(monkeypatch):
    launched = Launched()
    monkeypatch.setattr(launchers, "kernels", launched, raising=False)
    monkeypatch.setattr(torch.accelerator, "device_index", launched.on)
    # a fake tensor has no values: whoever asked the device for one, and so waited for it, would fail
    with FakeTensorMode():
        x = torch.empty(2, 32, 5, 5, device="cuda:1", dtype=torch.float16)
        w = torch.empty(2, 2, 3, 3, 5, 5, device="cuda:1", dtype=torch.float16)
        reduced = torch.empty(2, 8, 5, 5, device="cuda:1", dtype=torch.float16)
        span = torch.empty(2, 3, 3, 8, device="cuda:1", dtype=torch.float16)
        g = [1, 1], [1, 1], [1, 1]
        outputs = [launchers.forward(x, w, *g), launchers.grad_input(x, w, [5, 5], *g)]
        outputs += [launchers.grad_weight(x, x, 2, [3, 3], *g), launchers.dynamic_forward(x, reduced, span, None, *g)]
        outputs += launchers.dynamic_backward(x, x, reduced, span, None, *g, [True] * 4)
    assert {output.device for output in outputs} == {torch.device("cuda:1")}
    assert {name for name, _ in launched.launches} == {name for name, _ in launch.CONFIGS}
    assert {device for _, device in launched.launches} == {1}


@pytest.mark.parametrize(
    "arguments",
    [
        {"weight": (2, 3, 3, 3, 5, 5)},
        {"weight": (2, 2, 3, 3, 4, 5)},
        {"weight": (1, 2, 3, 3, 5, 5)},
        {"weight": (2, 2, 3, 3, 5)},
        {"stride": 0},
        {"padding": -1},
        {"dilation": 3},
        {"dtype": torch.float64},
    ],
    ids=str,
)
def test_bad_input_on_a_gpu_gets_the_errors_of_the_cpu(arguments):
    given = {"weight": (2, 2, 3, 3, 5, 5), "stride": 1, "padding": 1, "dilation": 1, **arguments}
    messages = []
    with FakeTensorMode():
        for device in ("cpu", "cuda"):
            x = torch.empty(2, 32, 5, 5, device=device)
            w = torch.empty(given["weight"], device=device, dtype=given.get("dtype"))
            with pytest.raises((TypeError, ValueError), match=r"must|fit") as caught:
                involution2d(x, w, None, given["stride"], given["padding"], given["dilation"])
            messages.append((caught.type, str(caught.value)))
    assert messages[0] == messages[1]


def test_tensors_on_two_devices_are_refused():
    with FakeTensorMode():
        x, w = torch.empty(2, 32, 5, 5, device="cuda"), torch.empty(2, 2, 3, 3, 5, 5)
        with pytest.raises(ValueError, match="must be on one device; got cuda:0 and cpu"):
            involution2d(x, w, padding=1)
        with pytest.raises(ValueError, match="on one device"):
            launchers.forward(x, w, [1, 1], [1, 1], [1, 1])


def test_cpu_tensors_need_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(RuntimeError, match="move them to a GPU, or set TRITON_INTERPRET=1"):
        launchers.forward(torch.randn(1, 1, 3, 3), torch.randn(1, 1, 1, 1, 3, 3), [1, 1], [0, 0], [1, 1])


@pytest.mark.parametrize("name", BACKEND.kernels)
@pytest.mark.parametrize("device", ["CUDA", "XPU"])
def test_the_operators_have_them(name, device):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"involution::{name}", device)


def test_info_tells_what_serves_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    rows = {row.operator: row for row in info.served() if row.device == "cuda"}
    # where PyTorch has CUDA, its kernels come first
    title = "Triton" if cuda.absence else "CUDA"
    assert rows["involution2d"].kernel == rows["dynamic_involution2d"].kernel == title
    assert rows["involution2d"].why_not.startswith("plain PyTorch handles float64")
    assert rows["involution3d"].kernel == "plain PyTorch"
    assert "no Triton kernel for this operator" in rows["involution3d"].why_not
    rows = {name: backends.serving(name, "xpu") for name in BACKEND.kernels}
    assert rows["involution2d"].kernel == "Triton"
    assert "more than 256 reduced features" in rows["dynamic_involution2d_backward"].why_not

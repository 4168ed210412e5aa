"""The C++ kernels against float64 truth, over shapes, layouts, dtypes, instruction sets and thread counts."""

import copy
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forms import unfold_form
from tolerances import DTYPES, assert_near

from involution import Involution2d, involution1d, involution2d
from involution.ops import backends, info, native, plain, reference

pytestmark = pytest.mark.skipif(native.reason is not None, reason=f"no C++ kernels: {native.reason}")

NAN = float("nan")
SETS = [] if native.reason else native.instruction_sets()


def framed(t):
    """The same values amid NaN, every second column: what is read beside them shows."""
    frame = torch.full((*t.shape[:-2], t.shape[-2] + 2, 2 * t.shape[-1] + 1), NAN, dtype=t.dtype)
    frame[..., 1:-1, 1::2] = t
    return frame[..., 1:-1, 1::2]


def channels_innermost(t):
    return t.movedim(1, -1).contiguous().movedim(-1, 1)


def taps_innermost(w):
    dims = (w.dim() - 2) // 2
    order = [0, *range(2 + dims, w.dim()), 1, *range(2, 2 + dims)]
    return w.permute(order).contiguous().permute([order.index(i) for i in range(w.dim())])


ACTIVATIONS = {
    "contiguous": torch.Tensor.contiguous,
    "channels_last": channels_innermost,
    "framed": framed,
    "expanded": lambda t: t[:, :1, ..., :1].expand_as(t),
}
MAPS = {
    "taps_outermost": torch.Tensor.contiguous,
    "taps_innermost": taps_innermost,
    "framed": framed,
    "expanded": lambda w: w[..., :1].expand_as(w),
}


class Problem:
    """One of the table's rows, drawn from a seed: geometry, sizes, layouts, dtype."""

    def __init__(self, seed, dims=2):
        draw = random.Random(seed)
        kernels = [1, 2, 3, 3, 4, 5, 6, 7, 7, 7, 8, 9, 11, 13] if dims == 2 else [1, 2, 3, 4, 5]
        self.kernel = [draw.choice(kernels) for _ in range(dims)]
        self.stride = [draw.choice([1, 1, 2, 3]) for _ in range(dims)]
        self.dilation = [draw.choice([1, 1, 2, 3]) for _ in range(dims)]
        if draw.random() < 0.6:
            for values in (self.kernel, self.stride, self.dilation):
                values[:] = [values[0]] * dims
        self.groups = draw.choice([1, 1, 2, 3])
        self.channels = self.groups * draw.choice([1, 3, 4, 8, 16, 16, 16, 20, 32, 64])
        self.batch = draw.choice([0, 1, 1, 2, 3])
        # smaller than the window's border as often as larger
        self.size = [draw.randint(1, 21 if dims == 2 else 7) for _ in range(dims)]
        self.padding = [draw.randint(0, d * (k - 1)) for d, k in zip(self.dilation, self.kernel, strict=True)]
        self.output = [-(-x // s) for x, s in zip(self.size, self.stride, strict=True)]
        self.dtype = draw.choice(DTYPES)
        self.layouts = draw.choice(list(ACTIVATIONS)), draw.choice(list(MAPS)), draw.choice(list(ACTIVATIONS))

    def tensors(self):
        generator = torch.Generator().manual_seed(0)

        def randn(*size):
            return torch.randn(size, generator=generator, dtype=torch.float64).to(self.dtype)

        x = randn(self.batch, self.channels, *self.size)
        w = randn(self.batch, self.groups, *self.kernel, *self.output)
        y = randn(self.batch, self.channels, *self.output)
        layouts = ACTIVATIONS[self.layouts[0]], MAPS[self.layouts[1]], ACTIVATIONS[self.layouts[2]]
        return [layout(t) for layout, t in zip(layouts, (x, w, y), strict=True)]

    def results(self, x, w, y):
        geometry = self.stride, self.padding, self.dilation
        name = f"involution{len(self.size)}d"
        forward, grad_input, grad_weight = (
            getattr(torch.ops.involution, name + kind) for kind in ("", "_grad_input", "_grad_weight")
        )
        return (
            forward(x, w, *geometry),
            grad_input(y, w, self.size, *geometry),
            grad_weight(y, x, self.groups, self.kernel, *geometry),
        )

    def truth(self, x, w, y):
        x, w, y = (t.detach().double().requires_grad_() for t in (x, w, y))
        form = unfold_form if len(self.size) == 2 and self.batch else reference.composite
        out = form(x, w, self.stride, self.padding, self.dilation)
        return out, *torch.autograd.grad(out, (x, w), y)

    def check(self):
        tensors = self.tensors()
        names = "forward", "gradient of input", "gradient of map"
        for name, result, truth in zip(names, self.results(*tensors), self.truth(*tensors), strict=True):
            assert result.dtype == self.dtype
            assert_near(result, truth.detach(), f"{name} in {vars(self)}")


@pytest.mark.parametrize("block", range(12))
def test_table(block, deterministic):
    for seed in range(25 * block, 25 * (block + 1)):
        Problem(seed).check()


def test_table_3d(deterministic):
    for seed in range(40):
        Problem(seed, dims=3).check()


@pytest.mark.parametrize("name", [name for name in SETS if name != native.instruction_set()])
def test_other_instruction_sets(name):
    environment = {**os.environ, "INVOLUTION_CPU": name}
    environment.pop("PYTEST_XDIST_WORKER", None)
    # a third of the table; test_fuzz.py has more
    tests = [*(f"test_table[{block}]" for block in range(0, 12, 3)), "test_table_3d", "test_instruction_set_in_use"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"{__file__}::{one}" for one in tests)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_instruction_set_in_use():
    wanted = os.environ.get("INVOLUTION_CPU")
    assert native.instruction_set() == (wanted or SETS[0])


def test_the_list_of_instruction_sets_is_the_sources():
    source = Path(__file__).parents[2] / "csrc" / "sets" / "list.h"
    listed = re.findall(r"^INVOLUTION_SET\((\w+), \w+, (.*)\)$", source.read_text(), re.MULTILINE)
    assert listed[-1][0] == SETS[-1] == "baseline"
    assert [name for name, _ in listed if name in SETS] == SETS
    # none is missing that this processor runs: `make demo` compiles fewer, `make setup` the rest
    has = set(Path("/proc/cpuinfo").read_text().split())
    runs = [name for name, features in listed if set(re.findall(r"F\((\w+)\)", features)) <= has]
    assert runs == SETS


@pytest.mark.parametrize("seed", [1, 3, 7, 12, 20, 33])
def test_threads_do_not_change_a_bit(seed):
    problem = Problem(seed)
    problem.batch, problem.size = 2, [23, 22]
    problem.output = [-(-x // s) for x, s in zip(problem.size, problem.stride, strict=True)]
    tensors = problem.tensors()
    threads = torch.get_num_threads()
    results = []
    for count in (1, 3):
        torch.set_num_threads(count)
        results.append(problem.results(*tensors))
    torch.set_num_threads(threads)
    assert all(map(torch.equal, *results))


def test_large_image_in_bands(deterministic):
    # neither the slabs of a whole image nor those of a wide row fit into the cache
    problem = Problem(0)
    problem.kernel, problem.stride, problem.dilation, problem.padding = [3, 7], [1, 2], [2, 1], [2, 3]
    problem.batch, problem.groups, problem.channels, problem.dtype = 1, 1, 48, torch.float32
    problem.size, problem.output, problem.layouts = [40, 700], [40, 350], ("contiguous", "framed", "channels_last")
    problem.check()


def dynamic_problem(seed):
    problem = Problem(seed)
    problem.batch, problem.channels = max(1, problem.batch), problem.groups * random.Random(seed).choice([4, 16, 32])
    x, _, _ = problem.tensors()
    features = random.Random(seed).choice([1, 4, 17, 40])
    sizes = (problem.batch, features, *problem.output), (problem.groups, *problem.kernel, features)
    reduced, span_weight, span_bias = (torch.randn(size).to(problem.dtype) for size in (*sizes, sizes[1][:3]))
    if seed % 2:
        reduced = channels_innermost(reduced)
    return problem, (x, reduced, span_weight, span_bias if seed % 3 else None)


def of_many_channels(seed):
    """One whose sources are copied, a part of the groups at a time, since a pixel's neighbours lie far away."""
    problem, draw = Problem(seed), random.Random(seed)
    problem.kernel = draw.choice([[7, 7], [7, 7], [5, 5], [4, 7], [7, 3]])
    problem.stride, problem.dilation = (
        draw.choice([[1, 1], [1, 1], [2, 2], [3, 1]]),
        draw.choice([[1, 1], [1, 1], [2, 1]]),
    )
    problem.padding = [draw.randint(0, d * (k - 1)) for d, k in zip(problem.dilation, problem.kernel, strict=True)]
    problem.batch, problem.groups, problem.size = (
        draw.choice([1, 2]),
        draw.choice([9, 17, 32]),
        [draw.randint(1, 30), 28],
    )
    problem.size[1] = draw.choice([1, 2, 5, 7, 8, 9, 11, 14, 28])
    problem.channels = problem.groups * draw.choice([16, 16, 32])
    problem.output = [-(-x // s) for x, s in zip(problem.size, problem.stride, strict=True)]
    problem.layouts = "channels_last", draw.choice(list(MAPS)), "channels_last"
    return problem


@pytest.mark.parametrize("seed", range(24))
def test_many_channels(seed, deterministic):
    problem = of_many_channels(seed)
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            problem.check()
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("seed", range(24))
def test_many_channels_of_generated_maps(seed, deterministic):
    problem = of_many_channels(seed)
    features = random.Random(seed).choice([1, 20, 64])
    sizes = (problem.batch, features, *problem.output), (problem.groups, *problem.kernel, features)
    generator = [torch.randn(size).to(problem.dtype) for size in (*sizes, sizes[1][:3])]
    x, geometry = problem.tensors()[0], (problem.stride, problem.padding, problem.dilation)
    wide = [t.double() for t in generator]
    truth = unfold_form(x.double(), reference.span(*wide), *geometry)
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            result = torch.ops.involution.dynamic_involution2d(x, *generator, *geometry)
            assert_near(result, truth, vars(problem), roundings=2)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("layout", ["taps_innermost", "taps_outermost"])
def test_outputs_past_the_caches(layout, deterministic):
    # more than 32 MiB in all: the kernels write past the caches
    torch.manual_seed(1)
    x = channels_innermost(torch.randn(1, 16, 331, 337))
    w = MAPS[layout](torch.randn(1, 1, 7, 7, 331, 337))
    torch.testing.assert_close(involution2d(x, w, padding=3), reference.shift_forward(x, w, [1, 1], [3, 3], [1, 1]))
    grad = torch.ops.involution.involution2d_grad_input(x, w, [331, 337], [1, 1], [3, 3], [1, 1])
    truth = reference.shift_grad_input(x, w, [331, 337], [1, 1], [3, 3], [1, 1])
    torch.testing.assert_close(grad, truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("block", range(4))
def test_table_of_generated_maps(block, deterministic):
    for seed in range(25 * block, 25 * (block + 1)):
        problem, tensors = dynamic_problem(seed)
        geometry = problem.stride, problem.padding, problem.dilation
        result = torch.ops.involution.dynamic_involution2d(*tensors, *geometry)
        x, *generator = (None if t is None else t.double() for t in tensors)
        truth = unfold_form(x, reference.span(*generator), *geometry)
        assert result.dtype == problem.dtype
        # the map itself sums up to forty features
        assert_near(result, truth, vars(problem), roundings=2)


def check_generated_gradients(problem, tensors, mask, layout=torch.Tensor.contiguous):
    geometry = problem.stride, problem.padding, problem.dilation
    grad = layout(torch.randn(problem.batch, problem.channels, *problem.output).to(problem.dtype))
    results = torch.ops.involution.dynamic_involution2d_backward(grad, *tensors, *geometry, mask)
    wide = [None if t is None else t.double().requires_grad_() for t in tensors]
    output = unfold_form(wide[0], reference.span(*wide[1:]), *geometry)
    leaves = [t for t in wide if t is not None]
    truths = dict(zip(map(id, leaves), torch.autograd.grad(output, leaves, grad.double()), strict=True))
    for result, leaf, needed in zip(results, wide, mask, strict=True):
        assert result.dtype == problem.dtype
        if not needed:
            assert result.numel() == 0
        elif leaf is not None:
            assert_near(result, truths[id(leaf)], vars(problem), roundings=4)


@pytest.mark.parametrize("block", range(4))
def test_table_of_generated_maps_gradients(block, deterministic):
    for seed in range(25 * block, 25 * (block + 1)):
        problem, tensors = dynamic_problem(seed)
        mask = [True] * 4 if seed % 2 else [bool((seed * 5 + 3) >> i & 1) for i in range(4)]
        check_generated_gradients(
            problem, tensors, mask, channels_innermost if seed % 4 > 1 else torch.Tensor.contiguous
        )


@pytest.mark.parametrize(
    ("stride", "dilation", "dtype"), [(1, 1, torch.float32), (2, 3, torch.float32), (2, 1, torch.bfloat16)]
)
def test_gradients_of_generated_maps_in_bands(stride, dilation, dtype, deterministic):
    # the map of one group, 800 KB in float32, has several bands of rows
    problem = Problem(0)
    problem.batch, problem.groups, problem.channels, problem.dtype = 1, 1, 16, dtype
    problem.kernel, problem.stride, problem.dilation = [7, 7], [stride] * 2, [dilation] * 2
    problem.padding, problem.output = [3 * dilation] * 2, [75, 55]
    x = channels_innermost(torch.randn(1, 16, 75 * stride, 55 * stride).to(dtype))
    generator = [torch.randn(size).to(dtype) for size in ((1, 8, 75, 55), (1, 7, 7, 8), (1, 7, 7))]
    check_generated_gradients(problem, (x, *generator), [True] * 4, channels_innermost)


def test_threads_do_not_change_a_bit_of_generated_maps_gradients():
    x, reduced = torch.randn(5, 64, 9, 9), torch.randn(5, 16, 9, 9)
    tensors = torch.randn(5, 64, 9, 9), x, reduced, torch.randn(4, 7, 7, 16), None, [1, 1], [3, 3], [1, 1], [True] * 4
    threads = torch.get_num_threads()
    results = []
    for count in (1, 3):
        torch.set_num_threads(count)
        results.append(torch.ops.involution.dynamic_involution2d_backward(*tensors))
    torch.set_num_threads(threads)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_threads_do_not_change_a_bit_of_generated_maps():
    problem, tensors = dynamic_problem(3)
    geometry = problem.stride, problem.padding, problem.dilation
    threads = torch.get_num_threads()
    results = []
    for count in (1, 3):
        torch.set_num_threads(count)
        results.append(torch.ops.involution.dynamic_involution2d(*tensors, *geometry))
    torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_generated_maps_that_do_not_fit_never_reach_memory():
    x, reduced, span = torch.randn(1, 8, 5, 5), torch.randn(1, 3, 5, 5), torch.randn(2, 3, 3, 4)
    with pytest.raises(RuntimeError, match="don't fit together"):
        torch.ops.involution.dynamic_involution2d(x, reduced, span, None, [1, 1], [1, 1], [1, 1])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_module_is_fused_in_inference_and_alike(stride, bias):
    module = Involution2d(32, 7, stride, bias=bias).eval()
    x = torch.randn(2, 32, 13, 12)
    wide = copy.deepcopy(module).double()
    truth = wide._apply_kernels(x.double(), wide.generator(x.double()), wide.padding).detach()
    # a mode that watches would be told of the parts
    with torch.no_grad(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        result = module(x)
        handle = module.generator.register_forward_hook(lambda module, args, output: None)
        watched = module(x)
        handle.remove()
    ours = dict.fromkeys(event.name for event in profile.events() if event.name.startswith("involution"))
    fused = "dynamic_involution2d_affine" if bias else "dynamic_involution2d"
    assert list(ours) == [f"involution::{fused}", "involution::involution2d"]
    torch.testing.assert_close(result.double(), truth, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(watched.double(), truth, rtol=1e-5, atol=1e-5)


def test_sequences():
    x, w = torch.randn(2, 8, 50), torch.randn(2, 2, 5, 50)
    truth = reference.loop(x[:, :, None], w[:, :, None, :, None], (1, 1), (0, 4), (1, 1))[:, :, 0]
    torch.testing.assert_close(involution1d(x, w, padding=(4, 0)), truth)


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_that_are_not_finite_pass(dtype):
    x, w = torch.zeros(1, 16, 3, 3, dtype=dtype), torch.ones(1, 1, 1, 1, 3, 3, dtype=dtype)
    x[0, 0, 0, 0], x[0, 1, 1, 1], x[0, 2, 2, 2] = float("inf"), -float("inf"), NAN
    torch.testing.assert_close(involution2d(x, w), x, equal_nan=True)


def test_every_nan_of_bfloat16_stays_one():
    positive = torch.arange(0x7F81, 0x8000, dtype=torch.int32)
    bits = torch.cat((positive, positive | 0x8000)).short().view(torch.bfloat16)
    x = bits.view(1, 1, 1, -1).repeat(1, 32, 1, 1)
    w = torch.ones(1, 2, 1, 1, 1, bits.numel(), dtype=torch.bfloat16)
    operators, geometry = torch.ops.involution, ([1, 1], [0, 0], [1, 1])
    for memory_format in (torch.channels_last, torch.contiguous_format):
        nan = x.contiguous(memory_format=memory_format)
        assert operators.involution2d(nan, w, *geometry).isnan().all()
        assert operators.involution2d_grad_input(nan, w, x.shape[2:], *geometry).isnan().all()
        assert operators.involution2d_grad_weight(nan, x, 2, [1, 1], *geometry).isnan().all()


@pytest.mark.parametrize(
    "change",
    [
        lambda x, w: (x, w[:, :, :0]),
        lambda x, w: (x[:1], w),
        lambda x, w: (x[:, :5], w),
        lambda x, w: (x, w.double()),
    ],
)
def test_sizes_that_do_not_fit_never_reach_memory(change):
    x, w = change(torch.randn(2, 8, 5, 5), torch.randn(2, 2, 3, 3, 5, 5))
    with pytest.raises(RuntimeError, match=r"one dtype|don't fit together"):
        torch.ops.involution.involution2d(x, w, [1, 1], [1, 1], [1, 1])


def test_info_names_the_kernel():
    kernels = {row.operator: row.kernel for row in info.served() if row.device == "cpu"}
    assert kernels["involution2d"] == f"C++ ({native.instruction_set()})"


SMALL = "import torch, involution as i; i.involution2d(torch.zeros(1, 4, 3, 3), torch.zeros(1, 1, 1, 1, 3, 3))"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"INVOLUTION_CPU": "mmx"}, "INVOLUTION_CPU must be one of .*baseline.*; got 'mmx'"),
        ({"INVOLUTION_NATIVE": "yes"}, "INVOLUTION_NATIVE must be 0 .*; got 'yes'"),
    ],
)
def test_wrong_settings_are_refused(setting, message):
    done = subprocess.run([sys.executable, "-c", SMALL], env={**os.environ, **setting}, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.search(message, done.stderr), done.stderr


def run_without_library(monkeypatch, tmp_path, setting):
    """Load as if the library were not there, or no library at all, and call once."""
    broken = tmp_path / "libinvolution_cpu.so"
    monkeypatch.setattr(native, "LIBRARY_PATH", broken)
    monkeypatch.setattr(backends, "_told", set())
    monkeypatch.setattr(native, "_absence", None)
    monkeypatch.setattr(native, "reason", None)
    monkeypatch.setenv("INVOLUTION_NATIVE", setting)
    return broken


def plain_call():
    kernel = backends.wrapped(plain.BACKEND, "involution2d", reference.shift_forward)
    return kernel(torch.zeros(1, 4, 3, 3), torch.zeros(1, 1, 1, 1, 3, 3), [1, 1], [0, 0], [1, 1])


def test_missing_library_warns_once(monkeypatch, tmp_path):
    run_without_library(monkeypatch, tmp_path, "")
    native.load()
    with pytest.warns(backends.BackendWarning, match=r"the C\+\+ kernels are missing: .* has no compiled library"):
        plain_call()
    plain_call()


def test_library_that_does_not_load_says_why(monkeypatch, tmp_path):
    run_without_library(monkeypatch, tmp_path, "").write_bytes(b"not a library")
    native.load()
    with pytest.warns(backends.BackendWarning, match="does not load: .*"):
        plain_call()


def test_missing_library_is_an_error_where_it_is_required(monkeypatch, tmp_path):
    run_without_library(monkeypatch, tmp_path, "1")
    native.load()
    with pytest.raises(RuntimeError, match="INVOLUTION_NATIVE=1, but this installation has no compiled library"):
        plain_call()


def test_library_can_be_left_out_in_silence(monkeypatch, tmp_path):
    run_without_library(monkeypatch, tmp_path, "0")
    native.load()
    assert native.reason == "INVOLUTION_NATIVE=0"
    assert plain_call().shape == (1, 4, 3, 3)

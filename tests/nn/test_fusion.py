"""The fused way must be invisible: whoever hooks, patches or replaces a part of the generator sees it called."""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrizations, parametrize, prune
from torch.overrides import TorchFunctionMode
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode

from involution import Involution2d
from involution.nn import KernelGenerator
from involution.ops import backends

CPU = torch.device("cpu")
needs_fused = pytest.mark.skipif(
    not backends.prefers_fused(CPU, torch.float32), reason="modules run unfused here anyway"
)


def called(function, *args):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        out = function(*args)
    return out, {e.key.partition("::")[2] for e in profile.key_averages() if e.key.startswith("involution::")}


def module_and_input(**options):
    module = Involution2d(16, 3, **options).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module, torch.randn(2, 16, 6, 5)


def unfused(module, x):
    with backends.choose_fused(False):
        return module(x)


@needs_fused
def test_nothing_in_the_way_runs_fused():
    module, x = module_and_input()
    out, operators = called(module, x)
    assert operators == {"dynamic_involution2d"}
    assert_close(out, unfused(module, x))


FUSED = torch.ops.involution.dynamic_involution2d.default


@pytest.mark.parametrize("fused", [True, False, None])
def test_an_exported_program_keeps_the_fused_operator_where_it_is_chosen(fused):
    module, x = module_and_input()
    with backends.choose_fused(fused):
        program = torch.export.export(module, (x,))
    assert (FUSED in [node.target for node in program.graph.nodes]) == (fused is True)
    assert_close(program.module()(x), module(x))


@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:FutureWarning")
@pytest.mark.parametrize("fused", [True, None])
def test_a_traced_program_keeps_the_fused_operator_where_it_is_chosen(fused):
    module, x = module_and_input()
    with backends.choose_fused(fused):
        traced = torch.jit.trace(module, x)
    assert ("dynamic_involution2d" in str(traced.inlined_graph)) == (fused is True)
    assert_close(traced(x), module(x))


def test_no_export_fuses_a_generator_of_somebody_else():
    module, x = module_and_input()
    parametrizations.spectral_norm(module.generator.span)
    with backends.choose_fused(True):
        program = torch.export.export(module, (x,))
    assert FUSED not in [node.target for node in program.graph.nodes]


PARTS = {"generator": lambda m: m.generator, "span": lambda m: m.generator.span}
parts = pytest.mark.parametrize("part", PARTS)
# name -> how it is registered, and with what
HOOKS = {
    "forward_pre_hook": lambda calls: lambda module, args: calls.append(module),
    "forward_hook": lambda calls: lambda module, args, out: calls.append(module),
    "full_backward_pre_hook": lambda calls: lambda module, grads: calls.append(module),
    "full_backward_hook": lambda calls: lambda module, grads, outs: calls.append(module),
}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("part", [*PARTS, "reduce", "norm", "act"])
def test_every_hook_is_called(part, hook):
    module, x = module_and_input()
    target, calls = PARTS.get(part, lambda m: getattr(m.generator, part))(module), []
    handle = getattr(target, f"register_{hook}")(HOOKS[hook](calls))
    module(x.requires_grad_()).sum().backward()
    assert calls == [target]
    handle.remove()
    module(x).sum().backward()
    assert calls == [target]


@pytest.mark.parametrize("hook", HOOKS)
def test_every_global_hook_sees_both(hook):
    module, x = module_and_input()
    calls = []
    handle = getattr(nn.modules.module, f"register_module_{hook}")(HOOKS[hook](calls))
    try:
        module(x.requires_grad_()).sum().backward()
    finally:
        handle.remove()
    assert {module.generator, module.generator.span, module.generator.reduce} <= set(calls)


@parts
@pytest.mark.parametrize("hook", ["forward_pre_hook", "forward_hook"])
def test_a_hook_may_change_the_value(hook, part):
    module, x = module_and_input()

    def zero(module, args, *rest):
        values = rest or args
        return tuple(v * 0 for v in values) if not rest else rest[0] * 0

    getattr(PARTS[part](module), f"register_{hook}")(zero)
    out = module(x)
    assert_close(out, unfused(module, x))
    assert not torch.equal(out, module_and_input()[0](x))


@parts
def test_a_forward_replaced_on_the_instance_is_called(part):
    module, x = module_and_input()
    target = PARTS[part](module)
    original = target.forward
    target.forward = lambda x: original(x) * 2
    doubled = module(x)
    del target.forward
    assert_close(doubled, module(x) * 2)


@pytest.mark.parametrize("name", ["_conv_forward", "_call_impl"])
def test_what_forward_calls_may_be_replaced_too(name):
    module, x = module_and_input()
    span = module.generator.span
    original = getattr(span, name)
    setattr(span, name, lambda *args: original(*args) * 2)
    doubled = module(x)
    delattr(span, name)
    if name == "_conv_forward":
        assert_close(doubled, module(x) * 2)


def offloaded(module):
    """As accelerate's cpu_offload: parameters on meta, brought by a forward that is put on the instance."""
    for part in module.modules():
        if not list(part.parameters(recurse=False)):
            continue
        kept = {name: p.detach().clone() for name, p in part.named_parameters(recurse=False)}

        def forward(original, part, kept, *args):
            for name, value in kept.items():
                part._parameters[name] = nn.Parameter(value)
            out = original(*args)
            for name in kept:
                part._parameters[name] = nn.Parameter(kept[name].to("meta"))
            return out

        original = part.forward
        part.forward = functools.update_wrapper(functools.partial(forward, original, part, kept), original)
        for name in kept:
            part._parameters[name] = nn.Parameter(kept[name].to("meta"))
    return module


@pytest.mark.parametrize("options", [{}, {"bias": True, "out_channels": 32}, {"reduction_ratio": None}], ids=str)
def test_offloaded_parameters(options):
    module, x = module_and_input(**options)
    module, x = module.double(), x.double()
    expected = module(x)
    away = offloaded(module)
    assert all(p.is_meta for p in away.parameters())
    assert_close(away(x), expected)
    assert all(p.is_meta for p in away.parameters())


class Doubled(nn.Module):
    def forward(self, weight):
        return weight * 2


def test_parametrised():
    module, x = module_and_input()
    wanted = copy.deepcopy(module)
    wanted.generator.span.weight.data.mul_(2)
    parametrize.register_parametrization(module.generator.span, "weight", Doubled())
    assert_close(module(x), wanted(x))
    other, _ = module_and_input()
    parametrizations.weight_norm(other.generator.span)
    assert_close(other(x), unfused(other, x))


def test_pruned():
    module, x = module_and_input()
    wanted = copy.deepcopy(module)
    wanted.generator.span.weight.data.zero_()
    prune.random_unstructured(module.generator.span, "weight", amount=0.5)
    # the hook multiplies by the mask at each call
    module.generator.span.weight_mask.zero_()
    assert_close(module(x), wanted(x))


class LowRank(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base, self.down, self.up = base, nn.Conv2d(4, 2, 1, bias=False), nn.Conv2d(2, 9, 1, bias=False)
        # as the adapters that are attributes of the layer they adapt
        self.weight, self.bias = base.weight, base.bias

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def test_adapted():
    module, x = module_and_input()
    merged = copy.deepcopy(module)
    module.generator.span = adapter = LowRank(module.generator.span)
    merged.generator.span.weight.data += (adapter.up.weight[..., 0, 0] @ adapter.down.weight[..., 0, 0])[
        ..., None, None
    ]
    assert_close(module(x), merged(x), rtol=1e-4, atol=1e-4)


class Halved(torch.Tensor):
    """As a quantised weight: a subclass that acts when it is used."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        plain = [a.as_subclass(torch.Tensor) / 2 if isinstance(a, cls) else a for a in args]
        return function(*plain, **(kwargs or {}))


def test_quantised():
    module, x = module_and_input()
    wanted = copy.deepcopy(module)
    wanted.generator.span.weight.data /= 2
    span = module.generator.span
    weight = span.weight.detach().as_subclass(Halved)
    del span.weight
    # not a parameter of the module: a plain attribute, found first
    span.weight = weight
    assert_close(module(x), wanted(x))


@pytest.mark.parametrize(
    "span",
    [
        lambda: nn.Conv2d(4, 9, 3, padding=1),
        lambda: nn.Conv2d(4, 9, 1, bias=False),
        lambda: nn.Sequential(nn.Conv2d(4, 9, 1), nn.Tanh()),
        lambda: nn.Conv2d(4, 9, (1, 3), padding=(0, 1), padding_mode="circular"),
    ],
    ids=["3x3", "no-bias", "tanh", "circular"],
)
def test_another_span(span):
    module, x = module_and_input()
    module.generator.span = span()
    assert_close(module(x), unfused(module, x))


def test_another_generator():
    class Constant(KernelGenerator):
        def forward(self, x):
            return super().forward(x) * 0 + 1

    module, x = module_and_input()
    module.generator.__class__ = Constant
    sums = F.avg_pool2d(x, 3, 1, 1, count_include_pad=True) * 9
    assert_close(module(x), sums)


def test_operations_are_booked_where_they_belong():
    module, x = module_and_input()
    with FlopCounterMode(display=False) as counter:
        module(x)
    counts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    pixels = 2 * 6 * 5
    assert counts["Involution2d.generator.span"] == 2 * pixels * 4 * 9
    assert counts["Involution2d.generator"] == 2 * pixels * (16 * 4 + 4 * 9)
    assert counts["Involution2d"] == 2 * pixels * (16 * 4 + 4 * 9 + 16 * 9)


def test_a_patched_convolution_is_called(monkeypatch):
    # as counters of operations do
    module, x = module_and_input()
    outputs, original = [], F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda *args: outputs.append(original(*args)) or outputs[-1])
    module(x)
    assert [o.shape[1] for o in outputs] == [4, 9]


class Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.names.append(getattr(function, "__name__", ""))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("mode", "convolution"), [(Operators, "aten.convolution.default"), (Functions, "conv2d")])
def test_a_mode_sees_the_operations_of_the_parts(mode, convolution):
    module, x = module_and_input()
    with torch.no_grad(), mode() as seen:
        out = module(x)
    assert seen.names.count(convolution) == 2
    assert not any("dynamic" in name for name in seen.names)
    assert_close(out, unfused(module, x))


@pytest.mark.parametrize("mode", [Operators, Functions])
def test_a_mode_does_not_break_a_compiled_module(mode):
    module, x = module_and_input()
    torch.compiler.reset()
    compiled = torch.compile(module, backend="aot_eager")
    with torch.no_grad():
        expected = compiled(x)
        with mode():
            assert_close(compiled(x), expected)
        # and afterwards it is one graph again
        assert_close(compiled(x), expected)


@needs_fused
def test_modes_of_torch_itself_change_nothing():
    module, x = module_and_input()
    with torch.device("cpu"):
        assert called(module, x)[1] == {"dynamic_involution2d"}
    keeping, reusing = create_selective_checkpoint_contexts([torch.ops.involution.dynamic_involution2d.default])
    with keeping:
        kept, operators = called(module, x)
    assert operators == {"dynamic_involution2d"}
    with reusing:
        assert called(module, x)[0].data_ptr() == kept.data_ptr()
    with torch.no_grad():
        assert_close(make_fx(module)(x)(x), module(x))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert module(mode.from_tensor(x)).shape == x.shape


@needs_fused
def test_compiled_as_one_graph():
    module, x = module_and_input()
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        compiled(x)
        out, operators = called(compiled, x)
    assert operators == {"dynamic_involution2d"}
    assert_close(out, module(x))
    # a hook that comes later is seen
    calls = []
    module.generator.span.register_forward_hook(lambda *args: calls.append(1))
    with torch.no_grad():
        assert_close(compiled(x), out)
    assert calls


@pytest.mark.filterwarnings("ignore:`torch.jit.script.*` is deprecated")
@pytest.mark.parametrize("nested", [False, True])
def test_scripting_is_refused_in_one_line(nested):
    module = Involution2d(16, 3)
    with pytest.raises(TypeError, match=r"Involution2d can't be compiled by torch\.jit\.script.*use torch\.export"):
        torch.jit.script(nn.Sequential(nn.ReLU(), module) if nested else module)

"""The registered operators under torch.library's checks and numerical differentiation."""

import pytest
import torch
from forms import unfold_form
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.testing import assert_close

from involution import dynamic_involution2d, involution1d, involution2d, involution3d
from involution.ops import reference

OPS = torch.ops.involution


def randn(*size, dtype=torch.float64, requires_grad=True):
    return torch.randn(size, dtype=dtype).requires_grad_(requires_grad)


def channels_last(tensor):
    return tensor.detach().contiguous(memory_format=torch.channels_last).requires_grad_(tensor.requires_grad)


def arguments_2d(batch=2, channels=4, groups=2, size=(5, 4), stride=2, layout=lambda t: t, **options):
    h, w = (-(-s // stride) for s in size)
    x, weight = layout(randn(batch, channels, *size, **options)), randn(batch, groups, 3, 2, h, w, **options)
    grad = layout(randn(batch, channels, h, w, **options))
    return x, weight, grad, ([stride] * 2, [1, 0], [1, 1])


# opcheck takes a second and more each; the rest is slow
QUICK = ("-plain", "-bfloat16", "-batch-0", "-channels_last-wide", "-one-pixel", "-no-bias", "-some", "-3d")


def opcheck_arguments():
    for name, options in {
        "plain": {},
        "float32": {"dtype": torch.float32},
        "bfloat16": {"dtype": torch.bfloat16},
        "batch-0": {"batch": 0},
        "batch-1": {"batch": 1},
        "channels_last": {"layout": channels_last},
        "channels_last-wide": {"layout": channels_last, "channels": 32, "groups": 1},
        "wide-strided": {"channels": 32, "groups": 2},
        "one-pixel": {"size": (1, 1), "channels": 16, "groups": 1},
        "one-pixel-channels_last": {"size": (2, 2), "channels": 16, "groups": 1, "layout": channels_last},
        "one-row-channels_last": {"size": (1, 5), "layout": channels_last, "stride": 1},
        "one-channel": {"channels": 1, "groups": 1, "layout": channels_last},
        "no-gradient": {"requires_grad": False},
    }.items():
        x, w, grad, geometry = arguments_2d(**options)
        yield f"forward-{name}", OPS.involution2d, (x, w, *geometry)
        yield f"grad_input-{name}", OPS.involution2d_grad_input, (grad, w, list(x.shape[2:]), *geometry)
        yield f"grad_weight-{name}", OPS.involution2d_grad_weight, (grad, x, w.shape[1], [3, 2], *geometry)
        reduced = randn(len(x), 3, *grad.shape[2:], dtype=x.dtype, requires_grad=x.requires_grad)
        span = [randn(w.shape[1], 3, 2, *rest, dtype=x.dtype, requires_grad=x.requires_grad) for rest in ([3], [])]
        yield f"dynamic-{name}", OPS.dynamic_involution2d, (x, reduced, *span, *geometry)
        if x.dtype is not torch.bfloat16:
            fused = (grad, x, reduced, *span, *geometry)
            yield f"dynamic_backward-{name}", OPS.dynamic_involution2d_backward, (*fused, [True] * 4)
        scale, shift = (randn(x.shape[1], dtype=x.dtype, requires_grad=x.requires_grad) for _ in range(2))
        yield f"affine-{name}", OPS.dynamic_involution2d_affine, (x, reduced, *span, *geometry, scale, shift, False)
    yield "affine-some", OPS.dynamic_involution2d_affine, (x, reduced, *span, *geometry, None, shift, True)
    yield "dynamic-no-bias", OPS.dynamic_involution2d, (x, reduced, span[0], None, *geometry)
    yield "dynamic_backward-some", OPS.dynamic_involution2d_backward, (*fused, [False, True, False, True])
    x, w, grad = randn(1, 4, 3, 4, 5), randn(1, 2, 2, 3, 3, 2, 4, 5), randn(1, 4, 2, 4, 5)
    geometry = [2, 1, 1], [0, 1, 1], [1, 1, 1]
    yield "forward-3d", OPS.involution3d, (x, w, *geometry)
    yield "grad_input-3d", OPS.involution3d_grad_input, (grad, w, [3, 4, 5], *geometry)
    yield "grad_weight-3d", OPS.involution3d_grad_weight, (grad, x, 2, [2, 3, 3], *geometry)


# PyTorch's own, which it only hides from view
@pytest.mark.filterwarnings(r"ignore:The \.grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        pytest.param(*rest, id=name, marks=() if name.endswith(QUICK) else pytest.mark.slow)
        for name, *rest in opcheck_arguments()
    ],
)
def test_opcheck(op, arguments):
    torch.library.opcheck(op.default, arguments)


def functions():
    """Name, function of tensors, the tensors: small, odd, strided, padded."""
    yield "2d", lambda x, w: involution2d(x, w, stride=2, padding="same"), [(2, 4, 3, 4), (2, 2, 3, 2, 2, 2)]
    yield "2d-dilated", lambda x, w: involution2d(x, w, padding=(1, 2), dilation=2), [(1, 2, 3, 2), (1, 1, 2, 3, 3, 2)]
    yield "2d-bias", lambda x, w, b: involution2d(x, w, b), [(1, 2, 3, 3), (1, 1, 2, 2, 2, 2), (2,)]
    yield "1d-causal", lambda x, w: involution1d(x, w, padding=(2, 0)), [(2, 2, 5), (2, 1, 3, 5)]
    yield "3d", lambda x, w: involution3d(x, w, stride=(1, 2, 1)), [(1, 2, 2, 3, 2), (1, 1, 2, 2, 1, 1, 1, 2)]
    yield (
        "dynamic",
        lambda *t: dynamic_involution2d(*t, stride=2, padding="same"),
        [(2, 2, 3, 2), (2, 2, 2, 1), (1, 2, 3, 2), (1, 2, 3)],
    )
    yield "dynamic-no-bias", lambda *t: dynamic_involution2d(*t), [(1, 2, 3, 2), (1, 2, 2, 1), (2, 2, 2, 2)]
    yield (
        "affine",
        lambda *t: dynamic_involution2d(*t[:3], scale=t[3], shift=t[4]),
        [(1, 2, 3, 2), (1, 2, 2, 1), (2, 2, 2, 2), (2,), (2,)],
    )


every_function = pytest.mark.parametrize(
    ("function", "sizes"), [pytest.param(*rest, id=name) for name, *rest in functions()]
)


@every_function
def test_gradcheck(function, sizes):
    tensors = [randn(*size) for size in sizes]
    assert gradcheck(function, tensors, check_forward_ad=True, check_batched_grad=True, check_undefined_grad=True)


@every_function
def test_gradcheck_of_batched_forward_gradients(function, sizes):
    tensors = [randn(*size) for size in sizes]
    assert gradcheck(function, tensors, check_forward_ad=True, check_backward_ad=False, check_batched_forward_grad=True)


@every_function
def test_gradgradcheck(function, sizes):
    tensors = [randn(*size) for size in sizes]
    assert gradgradcheck(function, tensors, check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("kind", ["grad_input", "grad_weight"])
@pytest.mark.parametrize("dims", [2, 3])
def test_backward_operators_have_all_derivatives(dims, kind):
    geometry = [2] * dims, [1] * dims, [1] * dims
    x, w, grad = randn(1, 2, *[3] * dims), randn(1, 1, *[2] * dims, *[2] * dims), randn(1, 2, *[2] * dims)
    if kind == "grad_input":
        tensors, rest = (grad, w), (list(x.shape[2:]), *geometry)
    else:
        tensors, rest = (grad, x), (1, [2] * dims, *geometry)
    op = getattr(OPS, f"involution{dims}d_{kind}").default
    # fast mode: one random direction instead of every element
    check = {"check_batched_grad": True, "fast_mode": True}
    assert gradcheck(lambda *t: op(*t, *rest), tensors, check_forward_ad=True, **check)
    assert gradgradcheck(lambda *t: op(*t, *rest), tensors, check_fwd_over_rev=True, **check)


@pytest.mark.parametrize("chosen", [0, 1, 2, 3], ids=["input", "reduced", "span_weight", "span_bias"])
def test_dynamic_derivative_by_one_tensor_alone(chosen):
    tensors = [randn(*size, requires_grad=False) for size in [(2, 4, 3, 2), (2, 3, 3, 2), (2, 3, 3, 3), (2, 3, 3)]]
    tensors[chosen].requires_grad_()
    assert gradcheck(lambda *t: dynamic_involution2d(*t, padding=1), tensors, check_forward_ad=True, fast_mode=True)


@pytest.mark.parametrize("chosen", [(0,), (1,), (0, 1)], ids=["input", "weight", "both"])
def test_only_needed_gradients_are_computed(chosen):
    x, w, _, geometry = arguments_2d(requires_grad=False)
    leaves = [(x, w)[i].requires_grad_() for i in chosen]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        involution2d(x, w, None, geometry[0], padding="same").sum().backward()
    called = {event.key for event in profile.key_averages()}
    assert ("involution::involution2d_grad_input" in called) == (0 in chosen)
    assert ("involution::involution2d_grad_weight" in called) == (1 in chosen)
    assert all(leaf.grad is not None for leaf in leaves)


@pytest.mark.parametrize("layout", [lambda t: t, channels_last], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("tangents", ["input", "weight", "both"])
def test_forward_mode_by_value(tangents, layout):
    x, w, _, (stride, padding, dilation) = arguments_2d(layout=layout, requires_grad=False)
    # the tangent in another layout than its tensor
    x_t, w_t = torch.randn_like(x).contiguous(), torch.randn_like(w)
    expected = torch.zeros(())
    with forward_ad.dual_level():
        dual_x = forward_ad.make_dual(x, x_t) if tangents != "weight" else x
        dual_w = forward_ad.make_dual(w, w_t) if tangents != "input" else w
        out, tangent = forward_ad.unpack_dual(
            involution2d(dual_x, dual_w, None, stride, (padding[0], (0, 1)), dilation)
        )
    if tangents != "weight":
        expected = expected + unfold_form(x_t, w, stride, padding, dilation)
    if tangents != "input":
        expected = expected + unfold_form(x, w_t, stride, padding, dilation)
    assert_close(out, unfold_form(x, w, stride, padding, dilation))
    assert_close(tangent, expected)


def test_forward_mode_of_the_dynamic_form_by_value():
    tensors = [randn(*size, requires_grad=False) for size in [(2, 4, 3, 4), (2, 3, 3, 4), (2, 3, 3, 3), (2, 3, 3)]]
    tangents = list(map(torch.randn_like, tensors))

    def by_unfold(x, reduced, span_weight, span_bias):
        return unfold_form(x, reference.span(reduced, span_weight, span_bias), (1, 1), (1, 1), (1, 1))

    with forward_ad.dual_level():
        duals = list(map(forward_ad.make_dual, tensors, tangents))
        tangent = forward_ad.unpack_dual(dynamic_involution2d(*duals, padding=1)).tangent
        expected = forward_ad.unpack_dual(by_unfold(*duals)).tangent
    assert_close(tangent, expected)


def test_forward_over_reverse_by_value():
    x, w, _, (stride, padding, dilation) = arguments_2d()
    direction = torch.randn_like(x)
    results = []
    for form in (
        lambda x, w: involution2d(x, w, None, stride, (padding[0], (0, 1)), dilation),
        lambda x, w: unfold_form(x, w, stride, padding, dilation),
    ):
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x.detach().requires_grad_(), direction)
            gradients = torch.autograd.grad(form(dual, w).pow(3).sum(), (dual, w), create_graph=True)
            results.append([forward_ad.unpack_dual(g).tangent for g in gradients])
    assert_close(*results)


def test_no_graph_without_need():
    x, w, _, _ = arguments_2d()
    with torch.no_grad():
        assert not involution2d(x, w, stride=2, padding="same").requires_grad
    with torch.inference_mode():
        assert involution2d(x, w, stride=2, padding="same").is_inference()
    assert involution2d(x, w, stride=2, padding="same").requires_grad


def test_dynamic_form_saves_no_kernel_map():
    tensors = [randn(*size) for size in [(1, 16, 8, 8), (1, 4, 8, 8), (1, 7, 7, 4), (1, 7, 7)]]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        dynamic_involution2d(*tensors, padding=3)
    assert sorted(saved) == sorted(t.numel() for t in tensors)

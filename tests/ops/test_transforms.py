"""Every torch.func transform by value, against the same transform of the unfold form."""

import itertools

import pytest
import torch
from forms import unfold_form
from torch.func import functional_call, functionalize, grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torch.testing import assert_close

from involution import Involution2d, dynamic_involution2d, involution1d, involution2d, involution3d
from involution.ops import reference


def randn(*size):
    return torch.randn(size, dtype=torch.float64)


def ours_2d(x, w):
    return involution2d(x, w, stride=2, padding=(1, (1, 2)))


def unfold_2d(x, w):
    return unfold_form(x, w, (2, 2), (1, 1), (1, 1))


def ours_dynamic(x, reduced, span_weight, span_bias):
    return dynamic_involution2d(x, reduced, span_weight, span_bias, stride=2, padding="same")


def unfold_dynamic(x, reduced, span_weight, span_bias):
    return unfold_form(x, reference.span(reduced, span_weight, span_bias), (2, 2), (1, 1), (1, 1))


def ours_affine(x, reduced, span_weight, scale, shift):
    return dynamic_involution2d(x, reduced, span_weight, stride=2, padding="same", scale=scale, shift=shift, relu=True)


def unfold_affine(x, reduced, span_weight, scale, shift):
    out = unfold_form(x, reference.span(reduced, span_weight, None), (2, 2), (1, 1), (1, 1))
    return (out * scale[:, None, None] + shift[:, None, None]).relu()


def ours_1d(x, w):
    return involution1d(x, w, padding=(2, 0))


def unfold_1d(x, w):
    return unfold_form(x[:, :, None], w[:, :, None, :, None], (1, 1), (0, 2), (1, 1))[:, :, 0]


def ours_3d(x, w):
    return involution3d(x, w, padding=(0, 1, 1))


def unfold_3d(x, w):
    # depth taps of 2: each output slice is the sum of two planes
    planes = [
        sum(unfold_form(x[:, :, i + u], w[:, :, u, :, :, i], (1, 1), (1, 1), (1, 1)) for u in range(2))
        for i in range(x.shape[2] - 1)
    ]
    return torch.stack(planes, 2)


FORMS = {
    "2d": (ours_2d, unfold_2d, [(2, 4, 3, 4), (2, 2, 3, 3, 2, 3)]),
    "1d": (ours_1d, unfold_1d, [(2, 2, 4), (2, 1, 3, 4)]),
    "3d": (ours_3d, unfold_3d, [(1, 2, 3, 2, 3), (1, 1, 2, 3, 3, 2, 2, 3)]),
    "dynamic": (ours_dynamic, unfold_dynamic, [(2, 4, 3, 4), (2, 3, 2, 2), (2, 3, 3, 3), (2, 3, 3)]),
    "affine": (ours_affine, unfold_affine, [(2, 4, 3, 4), (2, 3, 2, 2), (2, 3, 3, 3), (4,), (4,)]),
}
forms = pytest.mark.parametrize("form", FORMS)


def setting(form):
    ours, unfold, sizes = FORMS[form]
    return ours, unfold, [randn(*size) for size in sizes]


def loss(function):
    # not linear in the output, so that second derivatives are more than those of the product
    return lambda *tensors: function(*tensors).pow(3).sum()


@forms
def test_jvp(form):
    ours, unfold, tensors = setting(form)
    tangents = tuple(map(torch.randn_like, tensors))
    assert_close(jvp(ours, tuple(tensors), tangents), jvp(unfold, tuple(tensors), tangents))


@forms
def test_jvp_by_each_tensor_alone(form):
    ours, unfold, tensors = setting(form)
    for i, tensor in enumerate(tensors):
        tangent = torch.randn_like(tensor)
        results = [
            jvp(lambda t, f=f, i=i: f(*tensors[:i], t, *tensors[i + 1 :]), (tensor,), (tangent,))
            for f in (ours, unfold)
        ]
        assert results[0][1].any()
        assert_close(*results)


@forms
def test_vjp(form):
    ours, unfold, tensors = setting(form)
    (out, pull), (expected, pull_expected) = vjp(ours, *tensors), vjp(unfold, *tensors)
    assert_close(out, expected)
    cotangent = torch.randn_like(out)
    assert_close(pull(cotangent), pull_expected(cotangent))


@forms
def test_grad_and_grad_of_grad(form):
    ours, unfold, tensors = setting(form)
    every = tuple(range(len(tensors)))
    assert_close(grad(loss(ours), every)(*tensors), grad(loss(unfold), every)(*tensors))

    def norm_of_gradient(function):
        return lambda *t: sum(g.pow(2).sum() for g in grad(loss(function), every)(*t))

    assert_close(grad(norm_of_gradient(ours), every)(*tensors), grad(norm_of_gradient(unfold), every)(*tensors))


@forms
@pytest.mark.parametrize("jacobian", [jacrev, jacfwd], ids=["jacrev", "jacfwd"])
def test_jacobian(form, jacobian):
    ours, unfold, tensors = setting(form)
    every = tuple(range(len(tensors)))
    assert_close(jacobian(ours, every)(*tensors), jacrev(unfold, every)(*tensors))


@forms
def test_hessian(form):
    ours, unfold, tensors = setting(form)
    every = tuple(range(len(tensors)))
    assert_close(hessian(loss(ours), every)(*tensors), hessian(loss(unfold), every)(*tensors))


@pytest.mark.parametrize("outer", [jacrev, jacfwd], ids=["rev", "fwd"])
@pytest.mark.parametrize("inner", [jacrev, jacfwd], ids=["rev", "fwd"])
def test_second_derivatives_in_each_order_of_modes(outer, inner):
    ours, unfold, (x, w) = setting("2d")
    assert_close(outer(inner(loss(ours), 1), 0)(x, w), jacrev(jacrev(loss(unfold), 1), 0)(x, w))


@forms
def test_functionalize(form):
    ours, unfold, tensors = setting(form)
    every = tuple(range(len(tensors)))
    assert_close(functionalize(ours)(*tensors), unfold(*tensors))
    expected = grad(loss(unfold), every)(*tensors)
    assert_close(functionalize(grad(loss(ours), every))(*tensors), expected)
    assert_close(grad(functionalize(loss(ours)), every)(*tensors), expected)


@forms
# PyTorch's own: linearize folds constants into its graph
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")
def test_linearize(form):
    ours, unfold, tensors = setting(form)
    out, tangent_map = linearize(ours, *tensors)
    tangents = tuple(map(torch.randn_like, tensors))
    assert_close((out, tangent_map(*tangents)), jvp(unfold, tuple(tensors), tangents))


def test_jacobian_in_chunks():
    ours, unfold, (x, w) = setting("2d")
    assert_close(jacrev(ours, chunk_size=5)(x, w), jacrev(unfold)(x, w))


def batched(sizes, in_dims, batch=3):
    """Tensors whose dimension `in_dims` is the one to map over."""
    tensors = []
    for size, dim in zip(sizes, in_dims, strict=True):
        tensors.append(randn(*size) if dim is None else randn(batch, *size).movedim(0, dim))
    return tensors


IN_DIMS = [dims for dims in itertools.product([None, 0, 1, -1], repeat=2) if dims != (None, None)]


@pytest.mark.parametrize("in_dims", IN_DIMS, ids=str)
@pytest.mark.parametrize("form", ["1d", "2d", "3d"])
def test_vmap(form, in_dims):
    ours, unfold, sizes = FORMS[form]
    tensors = batched(sizes, in_dims)
    assert_close(vmap(ours, in_dims)(*tensors), vmap(unfold, in_dims)(*tensors))


@pytest.mark.parametrize("in_dims", [(0,) * 4, (0, None, None, None), (None, 1, 2, -1), (2, None, 0, None)], ids=str)
def test_vmap_of_the_dynamic_form(in_dims):
    tensors = batched(FORMS["dynamic"][2], in_dims)
    assert_close(vmap(ours_dynamic, in_dims)(*tensors), vmap(unfold_dynamic, in_dims)(*tensors))


@pytest.mark.parametrize("out_dim", [0, 2, -1])
def test_vmap_out_dims(out_dim):
    ours, unfold, sizes = FORMS["2d"]
    tensors = batched(sizes, (0, 0))
    assert_close(vmap(ours, out_dims=out_dim)(*tensors), vmap(unfold, out_dims=out_dim)(*tensors))


def test_nested_vmap():
    ours, unfold, sizes = FORMS["2d"]
    x, w = randn(2, 3, *sizes[0]), randn(3, *sizes[1])
    nested = [vmap(vmap(f), in_dims=(0, None))(x, w) for f in (ours, unfold)]
    assert nested[0].shape[:2] == (2, 3)
    assert_close(*nested)


@forms
def test_vmap_of_grad_gives_gradients_of_each_sample(form):
    ours, unfold, sizes = FORMS[form]
    tensors = batched(sizes, (0, *[None] * (len(sizes) - 2), 1))
    in_dims = (0, *[None] * (len(sizes) - 2), 1)
    every = tuple(range(len(sizes)))
    results = [vmap(grad(loss(f), every), in_dims)(*tensors) for f in (ours, unfold)]
    assert_close(*results)


def test_grad_of_vmap():
    ours, unfold, sizes = FORMS["2d"]
    x, w = batched(sizes, (0, None))

    def total(function):
        return lambda x, w: vmap(function, (0, None))(x, w).pow(3).sum()

    assert_close(grad(total(ours), (0, 1))(x, w), grad(total(unfold), (0, 1))(x, w))


def test_vmap_of_jvp_and_jvp_of_vmap():
    ours, unfold, sizes = FORMS["2d"]
    (x, w), (x_t, w_t) = batched(sizes, (0, 0)), batched(sizes, (0, 0))
    expected = vmap(lambda *t: jvp(unfold, t[:2], t[2:]))(x, w, x_t, w_t)
    assert_close(vmap(lambda *t: jvp(ours, t[:2], t[2:]))(x, w, x_t, w_t), expected)
    assert_close(jvp(vmap(ours), (x, w), (x_t, w_t)), expected)


def test_vmap_over_the_registered_operator():
    # without the public function, which steps aside under a transform
    _, unfold, sizes = FORMS["2d"]
    x, w = batched(sizes, (0, None))
    out = vmap(lambda x: torch.ops.involution.involution2d(x, w, [2, 2], [1, 1], [1, 1]))(x)
    assert_close(out, vmap(unfold, (0, None))(x, w))


def test_vmap_over_an_empty_batch_of_samples():
    x, w = torch.randn(3, 0, 4, 5, 5), torch.randn(3, 0, 2, 3, 3, 5, 5)
    assert vmap(lambda x, w: involution2d(x, w, padding=1))(x, w).shape == (3, 0, 4, 5, 5)


def test_gradients_of_each_sample_through_the_module():
    module = Involution2d(8, 3, norm_layer=None).double()
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    x = randn(4, 8, 5, 5)

    def sample_loss(parameters, sample):
        return functional_call(module, parameters, (sample[None],)).pow(2).sum()

    gradients = vmap(grad(sample_loss), (None, 0))(parameters, x)
    for i in range(4):
        module.zero_grad()
        module(x[i : i + 1]).pow(2).sum().backward()
        for name, parameter in module.named_parameters():
            assert_close(gradients[name][i], parameter.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_autocast_reaches_through_transforms(dtype):
    x, w = torch.randn(2, 4, 5, 5), torch.randn(2, 2, 3, 3, 5, 5)
    with torch.autocast("cpu", dtype):
        out = involution2d(x, w, padding=1)
        _, tangent = jvp(lambda x: involution2d(x, w, padding=1), (x,), (x,))
        mapped = vmap(lambda x, w: involution2d(x[None], w[None], padding=1)[0])(x, w)
    assert out.dtype == tangent.dtype == mapped.dtype == dtype
    assert_close(tangent, out)
    assert_close(mapped, out)

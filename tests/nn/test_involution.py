"""The modules: sizes, options, state, and the value by an independent derivation from what is published."""

import copy
import io
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from involution import Involution1d, Involution2d, Involution3d
from involution.nn import KernelGenerator

CLASSES = {1: Involution1d, 2: Involution2d, 3: Involution3d}
CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
dims = pytest.mark.parametrize("dims", [1, 2, 3], ids=["1d", "2d", "3d"])


def published(module, x, stride):
    """Involution as published, from the module's parameters alone; sizes that the stride divides, odd kernel."""
    generator, k, groups = module.generator, module.kernel_size[0], module.groups
    n, c, h, w = x.shape
    y = F.avg_pool2d(x, stride, stride) if stride > 1 else x
    y = torch.einsum("rc,nchw->nrhw", generator.reduce.weight[:, :, 0, 0], y)
    mean, var = (y.mean((0, 2, 3)), y.var((0, 2, 3), correction=0))
    if not module.training:
        mean, var = generator.norm.running_mean, generator.norm.running_var
    y = (y - mean[:, None, None]) / (var[:, None, None] + generator.norm.eps).sqrt()
    y = (y * generator.norm.weight[:, None, None] + generator.norm.bias[:, None, None]).clamp(min=0)
    kernels = torch.einsum("kr,nrhw->nkhw", generator.span.weight[:, :, 0, 0], y) + generator.span.bias[:, None, None]
    columns = F.unfold(x, k, padding=(k - 1) // 2, stride=stride)
    columns = columns.view(n, groups, c // groups, k * k, h // stride, w // stride)
    return (kernels.view(n, groups, 1, k * k, h // stride, w // stride) * columns).sum(3).view(n, c, h // stride, -1)


def filled(module):
    """Give every parameter and statistic a value that the default does not have."""
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    for name, buffer in module.named_buffers():
        if "running" in name:
            nn.init.uniform_(buffer, 0.5, 2)
    return module


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("channels", [8, 32, 48])
def test_value_and_gradients_are_the_published_ones(channels, kernel, stride, training):
    module = filled(Involution2d(channels, kernel, stride).double()).train(training)
    x = torch.randn(2, channels, 6, 12, dtype=torch.float64, requires_grad=True)
    leaves = [x, *module.parameters()]
    out, expected = module(x), published(module, x, stride)
    assert_close(out, expected)
    cotangent = torch.randn_like(out)
    gradients = torch.autograd.grad(expected, leaves, cotangent)
    assert_close(torch.autograd.grad(out, leaves, cotangent), gradients)


@dims
def test_parameters_and_their_names(dims):
    module = CLASSES[dims](32, 3, bias=True, out_channels=64)
    ones, taps = (1,) * dims, 4 * 3**dims
    assert {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()} == {
        "bias": (64,),
        "proj.weight": (64, 32, *ones),
        "generator.reduce.weight": (16, 64, *ones),
        **{f"generator.norm.{name}": (16,) for name in ("weight", "bias", "running_mean", "running_var")},
        "generator.norm.num_batches_tracked": (),
        "generator.span.weight": (taps, 16, *ones),
        "generator.span.bias": (taps,),
    }


@dims
@pytest.mark.parametrize("size", [9, 10, 11])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)], ids=str)
@pytest.mark.parametrize("padding", ["same", 0, 2])
def test_output_size(dims, padding, kernel, dilation, stride, size):
    reach = dilation * (kernel - 1)
    outputs = math.ceil(size / stride) if padding == "same" else (size + 2 * padding - reach - 1) // stride + 1
    module = CLASSES[dims](2, kernel, stride, padding, dilation).eval()
    assert module(torch.randn(1, 2, *[size] * dims)).shape == (1, 2, *[outputs] * dims)


@pytest.mark.parametrize("options", [{"padding": "same"}, {"padding": (3, 3)}, {"padding": 3, "bias": True}], ids=str)
@pytest.mark.parametrize("padding_mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_modes_pad_the_operators_input_by_hand(stride, padding_mode, options):
    module = filled(Involution2d(16, 7, stride, padding_mode=padding_mode, **options)).eval()
    x = torch.randn(2, 16, 9, 9)
    plain = Involution2d(16, 7, stride, 0, bias="bias" in options).eval()
    plain.load_state_dict(module.state_dict())
    # the kernels see no padding: the plain module's generator would look at the padded image
    plain.generator.forward = lambda _: module.generator(x)
    assert_close(module(x), plain(F.pad(x, (3, 3, 3, 3), mode=padding_mode)))
    assert not torch.allclose(module(x), Involution2d.forward(zeros_twin(module, stride), x))


def zeros_twin(module, stride):
    twin = Involution2d(16, 7, stride, bias=module.bias is not None).eval()
    twin.load_state_dict(module.state_dict())
    return twin


@pytest.mark.parametrize("padding_mode", ["reflect", "replicate", "circular"])
def test_same_padding_of_an_even_kernel_pads_more_on_the_right(padding_mode):
    module = filled(Involution1d(4, 4, padding_mode=padding_mode)).eval()
    x = torch.randn(2, 4, 9)
    weight = module.generator(x)
    columns = F.pad(x, (1, 2), mode=padding_mode).unfold(-1, 4, 1)
    assert_close(module(x), torch.einsum("nclk,nkl->ncl", columns, weight[:, 0]))


@pytest.mark.parametrize(
    ("options", "groups"),
    [
        ({"channels": 64}, 4),
        ({"channels": 8}, 1),
        ({"channels": 16}, 1),
        ({"channels": 64, "groups": 2}, 2),
        ({"channels": 64, "groups": 64}, 64),
        ({"channels": 64, "group_channels": 4}, 16),
        ({"channels": 6, "group_channels": 64}, 1),
        ({"channels": 12, "out_channels": 32}, 2),
        # 24 is no multiple of 16, yet the groups given are a divisor
        ({"channels": 24, "groups": 8}, 8),
    ],
    ids=str,
)
def test_groups(options, groups):
    module = Involution2d(kernel_size=3, **options)
    assert module.groups == groups
    x = torch.randn(1, options["channels"], 4, 4)
    assert module.generator(module.proj(x)).shape == (1, groups, 3, 3, 4, 4)
    assert module(x).shape[1] == options.get("out_channels", options["channels"])


@pytest.mark.parametrize(("ratio", "width"), [(1, 32), (2, 16), (3, 10), (4, 8), (32, 1), (64, 1)])
def test_reduction_ratio(ratio, width):
    generator = Involution2d(32, 3, reduction_ratio=ratio).generator
    assert generator.reduce.weight.shape[0] == generator.norm.num_features == generator.span.in_channels == width


def test_linear_form_is_one_convolution():
    module = filled(Involution2d(32, 3, 2, reduction_ratio=None))
    assert [name for name, _ in module.named_parameters()] == ["generator.span.weight", "generator.span.bias"]
    x = torch.randn(2, 32, 6, 6)
    span = module.generator.span
    expected = F.conv2d(F.avg_pool2d(x, 2), span.weight, span.bias).view(2, 2, 3, 3, 3, 3)
    assert_close(module.generator(x), expected)


def test_projection_comes_first():
    module = filled(Involution2d(8, 3, out_channels=32)).eval()
    inner = Involution2d(32, 3).eval()
    inner.load_state_dict({k: v for k, v in module.state_dict().items() if not k.startswith("proj")})
    x = torch.randn(2, 8, 5, 5)
    assert_close(module(x), inner(F.conv2d(x, module.proj.weight)))
    assert isinstance(Involution2d(32, 3, out_channels=32).proj, nn.Identity)


def test_bias_is_added():
    module = Involution2d(16, 3, bias=True).eval()
    x = torch.randn(1, 16, 4, 4)
    without = module(x)
    nn.init.normal_(module.bias)
    assert_close(module(x), without + module.bias[:, None, None])
    assert Involution2d(16, 3).bias is None


def test_norm_and_activation_layers():
    calls = []

    def norm(width):
        calls.append(width)
        return nn.GroupNorm(2, width)

    module = filled(Involution2d(32, 3, norm_layer=norm, act_layer=nn.GELU))
    assert calls == [8]
    x, generator = torch.randn(2, 32, 5, 5), module.generator
    reduced = F.gelu(F.group_norm(generator.reduce(x), 2, generator.norm.weight, generator.norm.bias))
    assert_close(generator.features(x), reduced)
    assert_close(generator(x), generator.span(reduced).view(2, 2, 3, 3, 5, 5))
    bare = filled(Involution2d(32, 3, norm_layer=None, act_layer=None)).generator
    assert_close(bare.features(x), bare.reduce(x))


@dims
def test_default_layers_are_batch_norm_and_relu(dims):
    generator = CLASSES[dims](16, 3).generator
    assert isinstance(generator, KernelGenerator)
    assert type(generator.norm) is NORM[dims]
    assert type(generator.act) is nn.ReLU
    assert type(generator.span) is type(generator.reduce) is CONV[dims]
    assert generator.reduce.bias is None


def assert_initialised(module):
    # kaiming normal, fan out, relu: variance 2 / outputs of a 1×1 convolution
    for conv in (module.proj, module.generator.reduce, module.generator.span):
        wanted = math.sqrt(2 / conv.out_channels)
        assert conv.weight.mean().abs() < 5 * wanted / math.sqrt(conv.weight.numel())
        assert conv.weight.std().item() == pytest.approx(wanted, rel=5 / math.sqrt(2 * conv.weight.numel()))
    norm = module.generator.norm
    for zeros in (module.bias, module.generator.span.bias, norm.bias, norm.running_mean):
        assert not zeros.any()
    for ones in (norm.weight, norm.running_var):
        assert (ones == 1).all()


@dims
def test_initialisation_and_reset(dims):
    module = CLASSES[dims](64, 3, out_channels=128, bias=True)
    assert_initialised(module)
    before = module.generator.reduce.weight.clone()
    filled(module).reset_parameters()
    assert_initialised(module)
    assert not torch.equal(module.generator.reduce.weight, before)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "32, kernel_size=(3, 3), groups=2"),
        (
            {"stride": 2, "padding": (1, (0, 2)), "dilation": 2, "groups": 8, "padding_mode": "reflect", "bias": True},
            "32, kernel_size=(3, 3), stride=(2, 2), groups=8, padding=((1, 1), (0, 2)), dilation=(2, 2),"
            " padding_mode=reflect, bias=True",
        ),
        (
            {"out_channels": 64, "reduction_ratio": None},
            "32, kernel_size=(3, 3), out_channels=64, groups=4, reduction_ratio=None",
        ),
    ],
    ids=["default", "all", "projected"],
)
def test_extra_repr(options, text):
    module = Involution2d(32, 3, **options)
    assert module.extra_repr() == text
    assert text in repr(module)


@dims
def test_copy_and_state_dict(dims):
    module = filled(CLASSES[dims](16, 3, 2, bias=True))
    x = torch.randn(2, 16, *[5] * dims)
    twin = copy.deepcopy(module)
    assert_close(twin(x), module(x))
    twin.generator.span.weight.data.zero_()
    assert module.generator.span.weight.any()
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    restored = CLASSES[dims](16, 3, 2, bias=True)
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert_close(restored.eval()(x), module.eval()(x))


def test_meta_device_and_dtype():
    module = Involution2d(32, 3, 2, out_channels=64, bias=True, device="meta", dtype=torch.float16)
    assert {t.device.type for t in module.state_dict().values()} == {"meta"}
    assert {p.dtype for p in module.parameters()} == {torch.float16}
    with torch.device("meta"):
        assert all(p.is_meta for p in Involution2d(32, 3).parameters())
    assert module(torch.empty(2, 32, 9, 9, device="meta", dtype=torch.float16)).shape == (2, 64, 5, 5)
    built = module.to_empty(device="cpu").float()
    built.generator.norm.reset_parameters()
    built.reset_parameters()
    assert built(torch.randn(2, 32, 9, 9)).isfinite().all()


@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:FutureWarning")
@pytest.mark.parametrize("stride", [1, 2])
@dims
def test_a_traced_module_takes_other_sizes(dims, stride):
    module = filled(CLASSES[dims](16, 3, stride, bias=True)).eval()
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(module, torch.randn(2, 16, *[5] * dims)), file)
    file.seek(0)
    traced = torch.jit.load(file)
    for size in (5, 6, 9):
        x = torch.randn(1, 16, *[size] * dims)
        assert_close(traced(x), module(x))
    traced(x).sum().backward()
    assert all(p.grad.any() for name, p in traced.named_parameters() if "span" in name)


def test_fake_tensors():
    with FakeTensorMode():
        assert Involution2d(32, 7, 2)(torch.randn(1, 32, 9, 9)).shape == (1, 32, 5, 5)


def test_channels_last_stays():
    module = Involution2d(32, 7).to(memory_format=torch.channels_last)
    x = torch.randn(2, 32, 9, 9).contiguous(memory_format=torch.channels_last).requires_grad_()
    out = module(x)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert_close(out, published(module, x, 1))


@dims
def test_empty_batch(dims):
    module = CLASSES[dims](16, 3, 2).eval()
    assert module(torch.randn(0, 16, *[5] * dims)).shape == (0, 16, *[3] * dims)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"channels": 24},
            ValueError,
            "24 channels can't be divided by group_channels=16; choose one of [1, 2, 3, 4, 6,",
        ),
        ({"groups": 5}, ValueError, "32 channels can't be divided by groups=5; choose one of [1, 2, 4, 8, 16, 32]"),
        ({"groups": 0}, ValueError, "by groups=0"),
        ({"group_channels": 0}, ValueError, "by group_channels=0"),
        ({"channels": 0}, ValueError, "channels must be at least 1; got 0"),
        ({"channels": 16.0}, TypeError, "channels must be an int; got 16.0"),
        ({"channels": True}, TypeError, "channels must be an int; got True"),
        ({"groups": "2"}, TypeError, "groups must be an int; got '2'"),
        ({"reduction_ratio": float("nan")}, TypeError, "reduction_ratio must be an int; got nan"),
        ({"out_channels": -1}, ValueError, "out_channels must be at least 1; got -1"),
        ({"reduction_ratio": 0}, ValueError, "reduction_ratio must be at least 1, or None for one linear layer; got 0"),
        ({"padding_mode": "mirror"}, ValueError, "one of zeros, reflect, replicate, circular; got 'mirror'"),
        ({"kernel_size": 0}, ValueError, "kernel_size must be at least 1; got 0"),
        ({"kernel_size": 3.0}, TypeError, "kernel_size must be an int or a tuple of 2 ints; got 3.0"),
        ({"stride": 0}, ValueError, "stride must be at least 1; got 0"),
        ({"dilation": (1, 2, 3)}, ValueError, "dilation must be an int or a tuple of 2 ints; got 3 of them"),
        ({"padding": "valid"}, TypeError, "or \"same\"; got 'valid'"),
    ],
    ids=str,
)
def test_wrong_options(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Involution2d(**{"channels": 32, "kernel_size": 3, **options})


def test_wrong_inputs():
    module = Involution2d(16, 7, padding=0)
    with pytest.raises(
        ValueError, match=re.escape("Involution2d: input must be [N, C] and 2 spatial sizes; got [16, 9")
    ):
        module(torch.randn(16, 9, 9))
    with pytest.raises(ValueError, match=re.escape("window (7, 7) does not fit into an input of (5, 6)")):
        module(torch.randn(2, 16, 5, 6))
    with pytest.raises(ValueError, match=re.escape("window (7, 7) does not fit into an input of (6, 9)")):
        Involution2d(16, 7, 2, padding=0)(torch.randn(2, 16, 6, 9))


@dims
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_synchronised_batch_norm_takes_the_place_of_batch_norm(dims, training):
    module = filled(CLASSES[dims](32, 3)).train(training)
    x = torch.randn(2, 32, *[5] * dims)
    expected = copy.deepcopy(module)(x)
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(module)
    assert type(synced.generator.norm) is nn.SyncBatchNorm
    # alone, without a process group, it is a batch norm
    assert_close(synced(x), expected)


def test_a_synchronised_batch_norm_is_absorbed():
    module, norm = Involution2d(16, 3).eval(), filled(nn.BatchNorm2d(16)).eval()
    x = torch.randn(2, 16, 5, 5)
    expected = norm(module(x))
    module.fuse_norm(nn.SyncBatchNorm.convert_sync_batchnorm(norm))
    assert_close(module(x), expected, rtol=1e-4, atol=1e-4)

"""Networks with oneDNN's operations: same outputs, usual names, and the plain operations wherever oneDNN can't be."""

import copy
import io
import pickle

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from trained_norms import trained

from involution.models import FusedConv2d, fuse, optimize_for_inference
from involution.models.inference import FusedResidual, _cudnn_has, _onednn_has

needs_onednn = pytest.mark.skipif(not _onednn_has(torch.float32), reason="PyTorch has no oneDNN here")


needs_gpu = pytest.mark.skipif(not _cudnn_has(torch.float32) or not torch.cuda.is_available(), reason="needs a GPU")


def operations(function):
    """Return the names of the operators that a call runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        function()
    return [event.name for event in profiler.events()]


def check(model, size=64):
    model = trained(model)
    x = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        expected = model(x)
        report = optimize_for_inference(model)
        scale = float(expected.abs().max())
        torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-4 * scale)
    # the plain operations, where nothing is rounded
    with torch.inference_mode():
        exact = copy.deepcopy(model).double()
        torch.testing.assert_close(exact(x.double()).float(), expected, rtol=1e-3, atol=1e-4 * scale)
    return report


@pytest.mark.parametrize(
    "name", ["rednet_nano", "rednet26", "rednet26_stem7", "rednet26_conv", "resnet26d", "resnet18"]
)
def test_networks_of_timm_compute_the_same(name):
    report = check(timm.create_model(name, num_classes=7))
    assert report.blocks
    assert report.relus


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_networks_of_torchvision_compute_the_same(name):
    assert len(check(torchvision.models.get_model(name)).blocks) == {"resnet18": 8}.get(name, 16)


@pytest.mark.parametrize(
    ("options", "blocks"),
    [
        ({"act_layer": "silu"}, 0),
        ({"drop_path_rate": 0.2}, 8),
        ({"avg_down": True}, 8),
        ({"output_stride": 8}, 8),
        ({"reduction_ratio": 0}, 8),
        # a blur stands between the involutions and the ReLUs of three blocks, a module of attention in all
        ({"aa_layer": timm.layers.BlurPool2d}, 5),
        ({"block_args": {"attn_layer": "se"}}, 0),
        ({"norm_layer": lambda channels, **kw: nn.GroupNorm(2, channels, **kw)}, 0),
    ],
    ids=lambda value: str(value)[:40],
)
def test_variants(options, blocks):
    assert len(check(timm.create_model("rednet26", **options)).blocks) == blocks


def test_features_only():
    model = trained(timm.create_model("rednet26", features_only=True, out_indices=(0, 1, 2, 3, 4)))
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = model(x)
        assert "conv1.6" in optimize_for_inference(model).relus
        for out, truth in zip(model(x), expected, strict=True):
            torch.testing.assert_close(out, truth, rtol=1e-3, atol=1e-4 * float(truth.abs().max()))


@needs_onednn
def test_nothing_but_onednn_and_involutions_is_left_in_the_blocks():
    model = timm.create_model("rednet26").eval()
    optimize_for_inference(model)
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        model(x)
        ran = operations(lambda: model(x))
    assert ran.count("mkldnn::_convolution_pointwise") == 31
    assert not {"aten::relu", "aten::relu_", "aten::add_", "aten::add", "aten::conv2d"} & set(ran)


def test_report_names_everything():
    report = optimize_for_inference(timm.create_model("rednet26").eval())
    assert report.blocks == [
        f"layer{stage}.{block}" for stage, blocks in ((1, 1), (2, 2), (3, 4), (4, 1)) for block in range(blocks)
    ]
    assert {"conv1.0", "conv1.6", "layer1.0.conv1", "layer1.0.conv2.generator.reduce", "layer1.0.conv3"} <= set(
        report.relus
    )
    assert "layer1.0.downsample.0" in report.convolutions or "layer1.0.downsample.1" in report.convolutions
    assert not any("span" in name for name in report.convolutions)
    assert str(report).endswith("8 residual blocks with their sum")


def test_names_of_parameters_and_files_stay():
    model = trained(timm.create_model("rednet_nano", num_classes=3))
    folded = copy.deepcopy(model)
    fuse(folded)
    optimize_for_inference(model)
    assert list(model.state_dict()) == list(folded.state_dict())
    assert not any(p.requires_grad for p in model.parameters())
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = model(x)
        other = trained(timm.create_model("rednet_nano", num_classes=3))
        fuse(other)
        for p in other.parameters():
            p.mul_(0.9)
        model.load_state_dict(other.state_dict())
        # weights in oneDNN's order follow
        torch.testing.assert_close(model(x), other(x), rtol=1e-3, atol=1e-4)
        assert not torch.allclose(model(x), before, atol=1e-3)
        memory = io.BytesIO()
        torch.save(model.state_dict(), memory)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            torch.testing.assert_close(twin(x), model(x))


def test_in_training_mode_it_says_what_to_do():
    with pytest.raises(ValueError, match=r"call model\.eval"):
        optimize_for_inference(timm.create_model("rednet_nano"))


def convolution(relu=True, **options):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 16, 3, padding=1, **options).eval().requires_grad_(False)
    return conv, FusedConv2d.of(copy.deepcopy(conv), relu=relu)


@needs_onednn
@pytest.mark.parametrize("relu", [True, False], ids=["relu", "linear"])
@pytest.mark.parametrize("adds", [True, False], ids=["sum", "alone"])
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"groups": 8}, {"bias": False}, {"dilation": 2}], ids=str)
def test_one_operation(relu, adds, options):
    conv, fused = convolution(relu, **options)
    x = torch.randn(2, 8, 7, 6)
    truth = conv(x)
    other = torch.randn_like(truth) if adds else None
    truth = truth if other is None else truth + other
    truth = truth.relu() if relu else truth
    ran = operations(lambda: torch.testing.assert_close(fused(x, other), truth, rtol=1e-4, atol=1e-5))
    assert ran.count("mkldnn::_convolution_pointwise") == 1
    # and does not change what it is given, in another size and order of memory
    for n in (1, 3, 3, 2):
        x = torch.randn(n, 8, 9, 5).contiguous(memory_format=torch.channels_last)
        before = x.clone()
        truth = conv(x).relu() if relu else conv(x)
        torch.testing.assert_close(fused(x), truth, rtol=1e-4, atol=1e-5)
        assert torch.equal(x, before)


@needs_onednn
def test_weights_are_brought_into_order_once():
    _, fused = convolution()
    x = torch.randn(2, 8, 7, 6)

    def orders():
        return operations(lambda: fused(x)).count("mkldnn::_reorder_convolution_weight")

    assert orders() == 1
    assert orders() == 0
    fused.weight.mul_(2)
    assert orders() == 1
    x = torch.randn(1, 8, 9, 9)
    # once is not worth it, again is
    assert (orders(), orders(), orders()) == (0, 1, 0)


@needs_onednn
def test_autocast_computes_in_its_dtype():
    conv, fused = convolution()
    x = torch.randn(2, 8, 7, 6)
    with torch.autocast("cpu", torch.bfloat16):
        out = fused(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), conv(x).relu(), rtol=0.02, atol=0.02)


@needs_onednn
@pytest.mark.parametrize("why", ["float64", "derivative", "counted", "off", "compiled", "functorch", "empty"])
def test_plain_operations_elsewhere(why, monkeypatch):
    conv, fused = convolution()
    x = torch.randn(2, 8, 7, 6)
    function = fused
    if why == "float64":
        conv, x = conv.double(), x.double()
        fused.double()
    elif why == "derivative":
        x.requires_grad_()
    elif why == "counted":

        def function(x):
            with FlopCounterMode(display=False) as counter:
                out = fused(x)
            assert counter.get_total_flops() == 2 * 2 * 16 * 8 * 9 * 7 * 6
            return out
    elif why == "off":
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    elif why == "compiled":

        def function(x):
            program = torch.export.export(fused, (x,))
            assert "mkldnn" not in str(program.graph)
            return program.module()(x)
    elif why == "functorch":

        def function(x):
            return torch.func.vmap(fused)(x[:, None])[:, 0]
    else:
        x = x[:0]
    ran = operations(lambda: torch.testing.assert_close(function(x), conv(x).relu(), rtol=1e-4, atol=1e-5))
    assert "mkldnn::_convolution_pointwise" not in ran
    if why == "derivative":
        (found,) = torch.autograd.grad(fused(x).sum(), x)
        (truth,) = torch.autograd.grad(conv(x).relu().sum(), x)
        torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-5)


def test_shared_and_hooked_modules_stay():
    conv = nn.Conv2d(3, 3, 3, padding=1)
    relu = nn.ReLU()
    hooked = nn.Conv2d(3, 3, 1)
    seen = []
    hooked.register_forward_hook(lambda *args: seen.append(args))
    model = nn.Sequential(conv, relu, conv, relu, hooked, nn.ReLU()).eval()
    x = torch.randn(1, 3, 5, 5)
    with torch.no_grad():
        expected = model(x)
        assert not optimize_for_inference(model).convolutions
        torch.testing.assert_close(model(x), expected)
    assert len(seen) == 2


def test_blocks_are_modules_with_the_usual_names():
    model = timm.create_model("rednet26").eval()
    optimize_for_inference(model)
    block = model.layer1[0]
    assert isinstance(block, FusedResidual)
    assert isinstance(block.conv1, nn.Conv2d)
    assert "followed by relu" in repr(block.conv1)


@needs_gpu
@pytest.mark.parametrize("name", ["rednet26", "rednet_nano", "resnet26d"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_networks_on_a_gpu_compute_the_same(name, dtype):
    model = trained(timm.create_model(name, num_classes=7)).cuda()
    # odd sizes inside: the windows of the means go beyond the image
    x = torch.randn(2, 3, 72, 72, device="cuda")
    with torch.inference_mode():
        expected = model(x)
        optimize_for_inference(model)
        scale, tolerance = float(expected.abs().max()), 1e-2 if dtype == torch.float32 else 0.1
        torch.testing.assert_close(model.to(dtype)(x.to(dtype)).float(), expected, rtol=0, atol=tolerance * scale)


@needs_gpu
def test_nothing_but_cudnn_and_involutions_is_left_in_the_blocks_on_a_gpu():
    model = timm.create_model("rednet26").eval().cuda()
    optimize_for_inference(model)
    model.bfloat16()
    x = torch.randn(1, 3, 64, 64, device="cuda").bfloat16().contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        model(x)
        ran = operations(lambda: model(x))
    assert ran.count("aten::cudnn_convolution_relu") + ran.count("aten::cudnn_convolution_add_relu") == 27
    assert not {"aten::relu", "aten::relu_", "aten::add_", "aten::add", "aten::avg_pool2d", "aten::mul"} & set(ran)


@needs_gpu
def test_a_cuda_graph_stays_with_its_weights():
    conv = FusedConv2d.of(nn.Conv2d(8, 8, 1), relu=True).cuda()
    x = torch.randn(1, 8, 4, 4, device="cuda").half()
    with torch.no_grad(), torch.autocast("cuda", torch.float16):
        before = conv(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = conv(x)
        conv.weight.mul_(2)
        after = conv(x)
        graph.replay()
    assert torch.equal(found, before)
    assert not torch.equal(after, before)


def test_a_mean_of_windows_is_taken_before_a_convolution():
    conv = nn.Conv2d(4, 3, 1)
    fused = FusedConv2d.of(conv, relu=True)
    fused.averages = (2, 2)
    x = torch.randn(1, 4, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), conv(nn.functional.avg_pool2d(x, 2)).relu())

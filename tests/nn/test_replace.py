import pytest
import torch
from torch import nn

from involution.nn import Involution1d, Involution2d, Involution3d, convert_conv_to_involution


@pytest.mark.parametrize("kernel_size", [None, 3, 5, 7], ids=lambda k: f"kernel_size={k}")
@pytest.mark.parametrize(
    ("k", "stride", "padding", "dilation"),
    [(3, 1, 1, 1), (3, 2, 1, 1), (5, 2, 2, 1), (3, 1, 2, 2), (3, 1, 4, 1), (3, 2, 3, 2), ((3, 5), 1, (1, 2), 1)],
)
def test_output_size_is_the_convolutions(kernel_size, k, stride, padding, dilation):
    network = nn.Sequential(nn.Conv2d(16, 32, k, stride, padding, dilation), nn.ReLU()).eval()
    x = torch.randn(2, 16, 23, 20)
    wanted = network(x).shape
    report = convert_conv_to_involution(network, kernel_size=kernel_size)
    assert list(report.replaced) == ["0"]
    assert isinstance(network[0], Involution2d)
    assert network(x).shape == wanted
    assert network[0].kernel_size == (network[0].kernel_size if kernel_size is None else (kernel_size,) * 2)


def test_report_names_what_was_replaced_and_what_not():
    network = nn.ModuleDict(
        {
            "stem": nn.Conv2d(3, 32, 3, padding=1),
            "body": nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.Conv2d(32, 24, 3, padding=1)),
            "pointwise": nn.Conv2d(32, 32, 1),
            "up": nn.ConvTranspose2d(32, 32, 2),
            "sequence": nn.Conv1d(16, 16, 3, padding="same"),
            "narrow": nn.Conv2d(32, 32, 7),
            "head": nn.Conv2d(32, 32, 3, padding=1),
        }
    )
    before = sum(p.numel() for p in network.parameters())
    report = convert_conv_to_involution(network, kernel_size=5, select=lambda name, _: name != "head")
    assert list(report.replaced) == ["body.0", "sequence"]
    assert isinstance(network["sequence"], Involution1d)
    assert report.skipped == {
        "stem": "only 3 input channels to generate kernels from",
        "body.1": "24 channels are not divisible into groups",
        "up": "ConvTranspose2d has no counterpart",
        "narrow": "its padding has no counterpart for this kernel size",
        "head": "not selected",
    }
    assert report.parameters == (before, sum(p.numel() for p in network.parameters()))
    text = str(report)
    assert "replaced 2 convolutions, left 5" in text
    assert "body.0: Conv2d(32, 32, kernel_size=(3, 3)" in text
    assert "Involution2d(32, kernel_size=(5, 5)" in text


def test_device_dtype_mode_and_bias_are_kept():
    network = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=True, dtype=torch.float64)).eval()
    convert_conv_to_involution(network, group_channels=8, reduction_ratio=2)
    involution = network[0]
    assert {p.dtype for p in involution.parameters()} == {torch.float64}
    assert involution.bias is not None
    assert involution.groups == 2
    assert involution.generator.reduce.out_channels == 8
    assert not involution.generator.norm.training


def test_padding_mode_is_kept():
    model = convert_conv_to_involution(nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular")).model
    assert isinstance(model, Involution2d)
    assert model.padding_mode == "circular"
    x = torch.randn(1, 16, 8, 8)
    rolled = model.eval()(x.roll(3, dims=2))
    torch.testing.assert_close(rolled, model(x).roll(3, dims=2))


def test_a_converted_network_trains():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.Flatten(), nn.Linear(16 * 64, 2)
    )
    convert_conv_to_involution(network, kernel_size=5)
    x, y = torch.randn(8, 1, 8, 8), torch.arange(8) % 2
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_a_shared_convolution_stays_shared():
    shared = nn.Conv2d(16, 16, 3, padding=1)
    network = nn.Sequential(shared, nn.ReLU(), shared)
    report = convert_conv_to_involution(network)
    assert list(report.replaced) == ["0", "2"]
    assert isinstance(network[0], Involution2d)
    assert network[0] is network[2]


@pytest.mark.parametrize("option", ["kernel_size", "groups", "group_channels"])
def test_option_below_1(option):
    with pytest.raises(ValueError, match=f"{option} must be at least 1; got 0"):
        convert_conv_to_involution(nn.Conv2d(16, 16, 3), **{option: 0})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"reduction": 2}, TypeError, "reduction"),
        # fits the first convolution, not the second
        ({"norm_layer": lambda width: nn.GroupNorm(8, width)}, ValueError, "divisible"),
    ],
)
def test_wrong_option_changes_nothing(options, error, message):
    network = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 16, 3, padding=1))
    with pytest.raises(error, match=message):
        convert_conv_to_involution(network, **options)
    assert all(type(layer) is nn.Conv2d for layer in network)


@pytest.mark.parametrize(
    ("kernel_size", "wanted"),
    [
        ((7, 3), {"0": (7, 3), "1.0": (7, 3), "1.1": (7, 3)}),
        ({"0": 7, "1.1": (1, 9)}, {"0": (7, 7), "1.0": (5, 3), "1.1": (1, 9)}),
        (
            lambda name, conv: None if name == "0" else 2 * conv.kernel_size[0] - 1,
            {"0": (3, 3), "1.0": (9, 9), "1.1": (5, 5)},
        ),
    ],
    ids=["tuple", "dict", "callable"],
)
def test_kernel_size_of_each_module(kernel_size, wanted):
    network = nn.Sequential(
        nn.Conv2d(16, 32, 3, padding=1),
        nn.Sequential(nn.Conv2d(32, 32, (5, 3), 2, (2, 1)), nn.Conv2d(32, 16, 3, padding=1)),
    ).eval()
    x = torch.randn(1, 16, 23, 20)
    size = network(x).shape
    report = convert_conv_to_involution(network, kernel_size=kernel_size)
    assert {name: network.get_submodule(name).kernel_size for name in report.replaced} == wanted
    assert network(x).shape == size


@pytest.mark.parametrize(
    ("kernel_size", "error", "message"),
    [
        ({"bod.0": 7}, ValueError, r"no k×k convolution is called 'bod\.0'; did you mean 'body\.0'\?"),
        ({"x": 7}, ValueError, r"no k×k convolution is called 'x'; there are body\.0, body\.1"),
        ({"body.1": 0}, ValueError, r"kernel_size of 'body\.1' must be at least 1; got 0"),
        ({"body.1": (3, 3, 3)}, ValueError, r"kernel_size of 'body\.1' must be an int or a tuple of 2 ints"),
        ((7, 3, 3), ValueError, "kernel_size must be an int or a tuple of 2 ints; got 3 of them"),
        ("7", TypeError, "kernel_size must be an int or a tuple of 2 ints; got '7'"),
        (lambda name, conv: 0.5, TypeError, r"kernel_size of 'body\.0' must be an int or a tuple of 2 ints; got 0\.5"),
    ],
    ids=["near", "far", "zero", "three", "tuple", "text", "callable"],
)
def test_a_wrong_kernel_size_changes_nothing(kernel_size, error, message):
    body = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 16, 3, padding=1))
    network = nn.ModuleDict({"body": body})
    with pytest.raises(error, match=message):
        convert_conv_to_involution(network, kernel_size=kernel_size)
    assert all(type(layer) is nn.Conv2d for layer in body)


class Strided(nn.Conv3d):
    @staticmethod
    def get_downsample_stride(stride):
        return stride, stride, stride


class Standardised(nn.Conv2d):
    def forward(self, x):
        return super().forward(x - x.mean())


class Padded(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x + 1, weight, bias)


def test_subclasses_that_compute_a_convolution_are_replaced():
    patched = nn.Conv2d(16, 16, 3)
    patched.forward = lambda x: x
    network = nn.ModuleDict(
        {
            "strided": Strided(16, 32, (3, 3, 3), (1, 2, 2), 1),
            "standardised": Standardised(16, 16, 3),
            "padded": Padded(16, 16, 3),
            "lazy": nn.LazyConv2d(16, 3),
            "patched": patched,
            "normed": nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 16, 3)),
        }
    )
    x = torch.randn(1, 16, 4, 9, 9)
    size = network["strided"](x).shape
    report = convert_conv_to_involution(network)
    assert list(report.replaced) == ["strided"]
    assert isinstance(network["strided"], Involution3d)
    assert network["strided"](x).shape == size
    assert report.skipped["standardised"] == "Standardised has no counterpart"
    assert set(report.skipped) == {"standardised", "padded", "lazy", "patched", "normed"}


def test_a_video_network_of_torchvision():
    network = pytest.importorskip("torchvision").models.video.r3d_18()
    report = convert_conv_to_involution(network.eval())
    # all but the stem, which sees three colours
    assert (len(report.replaced), list(report.skipped)) == (16, ["stem.0"])
    assert network(torch.randn(1, 3, 4, 32, 32)).shape == (1, 400)

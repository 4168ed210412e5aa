import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.feature_extraction import create_feature_extractor

from involution.models import RedNet, ResNetC, convolution_twin
from involution.models.layouts import VARIANTS
from involution.nn import Involution2d

DEPTHS = {
    26: (9_233_166, 9_233_886, 251, 1.6852),
    38: (12_386_986, 12_387_706, 351, 2.1668),
    50: (15_540_806, 15_541_526, 451, 2.6485),
    101: (25_652_950, 25_653_670, 876, 4.6590),
    152: (33_984_582, 33_985_302, 1301, 6.6793),
}


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture(scope="module")
def rednet26():
    torch.manual_seed(0)
    return timm.create_model("rednet26").eval()


def nano(**kwargs):
    torch.manual_seed(0)
    return timm.create_model("rednet_nano", **kwargs)


@pytest.mark.parametrize("depth", DEPTHS)
def test_size_is_the_published_one(depth):
    params, params_stem7, entries, _ = DEPTHS[depth]
    model = timm.create_model(f"rednet{depth}", device="meta")
    assert parameters(model) == params
    assert len(model.state_dict()) == entries
    assert parameters(timm.create_model(f"rednet{depth}_stem7", device="meta")) == params_stem7


@pytest.mark.parametrize("depth", DEPTHS)
def test_multiply_adds_are_the_published_ones(depth):
    model = timm.create_model(f"rednet{depth}", device="meta").eval()
    counter = FlopCounterMode(display=False)
    with counter:
        model(torch.empty(1, 3, 224, 224, device="meta"))
    assert round(counter.get_total_flops() / 2e9, 4) == DEPTHS[depth][3]


@pytest.mark.parametrize(
    ("options", "millions"),
    [
        ({"kernel_size": 3}, 14.745),
        ({"kernel_size": 9}, 16.177),
        ({"group_channels": 1}, 30.158),
        ({"group_channels": 4}, 18.464),
        ({"groups": 1}, 14.613),
        ({"reduction_ratio": 0}, 18.113),
        ({"reduction_ratio": 1}, 19.379),
        ({"reduction_ratio": 16}, 14.581),
    ],
    ids=str,
)
def test_size_of_the_ablations_is_the_published_one(options, millions):
    assert round(parameters(timm.create_model("rednet50", device="meta", **options)) / 1e6, 3) == millions


def test_twin_of_rednet50_is_resnet50c():
    twin = timm.create_model(convolution_twin("rednet50"), device="meta").state_dict()
    resnet = timm.create_model("resnet50c", device="meta").state_dict()
    assert {name: value.shape for name, value in twin.items()} == {name: value.shape for name, value in resnet.items()}


@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.endswith("_conv")])
def test_twin_differs_from_its_rednet_in_the_involutions_alone(name):
    model = timm.create_model(name, device="meta")
    twin = timm.create_model(convolution_twin(name), device="meta")
    involutions = {path for path, module in model.named_modules() if isinstance(module, Involution2d)}

    def rest(network):
        return {
            entry: value.shape
            for entry, value in network.state_dict().items()
            if not any(entry.startswith(f"{path}.") for path in involutions)
        }

    assert rest(model) == rest(twin)
    convolutions = {path: module for path, module in twin.named_modules() if path in involutions}
    assert all(module.kernel_size == (3, 3) for module in convolutions.values())
    assert len(convolutions) == 1 + sum(VARIANTS[name][1]["layers"])


def test_twin_of_an_unknown_name():
    with pytest.raises(ValueError, match="no RedNet 'resnet50'; choose from rednet26"):
        convolution_twin("resnet50")
    with pytest.raises(ValueError, match="no RedNet 'rednet50_conv'"):
        convolution_twin("rednet50_conv")


def test_nano_is_small():
    assert 120_000 < parameters(nano()) < 150_000
    assert nano()(torch.rand(2, 3, 16, 16)).shape == (2, 10)


def test_initialisation():
    torch.manual_seed(0)
    model = timm.create_model("rednet26", num_classes=1000)
    block = model.layer4[0]
    for weight in (
        block.conv1.weight,
        block.conv2.generator.reduce.weight,
        block.conv2.generator.span.weight,
    ):
        assert weight.std().item() == pytest.approx((2 / weight.shape[0]) ** 0.5, rel=0.02)
    assert not block.conv2.generator.span.bias.any()
    assert not block.bn3.weight.any()
    assert model.fc.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not model.fc.bias.any()
    model.reset_classifier(7)
    assert model.fc.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert timm.create_model("rednet_nano", zero_init_last=False).layer1[0].bn3.weight.all()


def test_default_cfg(rednet26):
    cfg = rednet26.default_cfg
    assert isinstance(rednet26.get_submodule(cfg["first_conv"]), torch.nn.Conv2d)
    assert rednet26.get_submodule(cfg["classifier"]) is rednet26.get_classifier()
    assert cfg["input_size"] == (3, 224, 224)
    assert cfg["crop_pct"] == 0.875
    assert cfg["interpolation"] == "bilinear"
    assert cfg["origin_url"] == "https://github.com/d-li14/involution"
    assert nano().default_cfg["input_size"] == (3, 32, 32)


def test_pretrained_says_where_weights_come_from():
    with pytest.raises(RuntimeError, match=r"d-li14/involution.*involution convert FILE rednet50_stem7\.safetensors"):
        timm.create_model("rednet50_stem7", pretrained=True)
    for name in ("rednet_nano", "rednet50_conv"):
        with pytest.raises(RuntimeError, match=f"no weights of {name} are published"):
            timm.create_model(name, pretrained=True)


def test_pretrained_takes_a_file(tmp_path):
    source = nano(num_classes=10)
    torch.save(source.state_dict(), tmp_path / "nano.pth")
    overlay = {"file": str(tmp_path / "nano.pth")}
    model = timm.create_model("rednet_nano", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=4)
    assert torch.equal(model.layer3[1].conv3.weight, source.layer3[1].conv3.weight)
    assert model.fc.out_features == 4


@pytest.mark.parametrize("feature_cls", ["list", "hook", "fx", "getter"])
def test_features_only(feature_cls, rednet26):
    torch.manual_seed(0)
    model = timm.create_model("rednet26", features_only=True, feature_cls=feature_cls).eval()
    assert model.feature_info.channels() == [64, 256, 512, 1024, 2048]
    assert model.feature_info.reduction() == [2, 4, 8, 16, 32]
    assert not any(name.startswith("fc.") or ".fc." in name for name, _ in model.named_parameters())
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        features = model(images)
        expected = rednet26.forward_intermediates(images, intermediates_only=True)
    for feature, wanted, reduction in zip(features, expected, model.feature_info.reduction(), strict=True):
        assert feature.shape[2:] == (64 // reduction, 96 // reduction)
        torch.testing.assert_close(feature, wanted)


@pytest.mark.parametrize("feature_cls", ["list", "hook", "fx", "getter"])
def test_features_of_a_small_model(feature_cls):
    model = nano(features_only=True, feature_cls=feature_cls)
    assert model.feature_info.reduction() == [1, 1, 2, 4]
    assert [f.shape[1:] for f in model(torch.rand(2, 3, 18, 31))] == [
        (32, 18, 31),
        (64, 18, 31),
        (128, 9, 16),
        (256, 5, 8),
    ]
    last = nano(features_only=True, feature_cfg={"feature_cls": feature_cls}, out_indices=(1, -1))
    assert last.feature_info.channels() == [64, 256]
    assert [f.shape[1] for f in last(torch.rand(2, 3, 16, 16))] == [64, 256]


def test_intermediate_layers_are_pruned():
    model = nano(num_classes=10)
    assert model.prune_intermediate_layers([1]) == [1]
    assert not any(name.startswith(("layer2", "layer3", "fc")) for name, _ in model.named_parameters())
    final, features = model.forward_intermediates(torch.rand(2, 3, 16, 16), indices=[1])
    assert features[0].shape == (2, 64, 16, 16)
    assert torch.equal(final, features[0])


def test_torchvision_feature_extraction(rednet26):
    extractor = create_feature_extractor(rednet26, {"layer2": "c3", "layer4": "c5"})
    images = torch.rand(2, 3, 65, 97)
    with torch.no_grad():
        features = extractor(images)
        assert features["c3"].shape == (2, 512, 9, 13)
        torch.testing.assert_close(features["c5"], rednet26.forward_features(images))


def test_head(rednet26):
    images = torch.rand(2, 3, 64, 64)
    features = rednet26.forward_features(images)
    assert features.shape == (2, 2048, 2, 2)
    assert rednet26.forward_head(features, pre_logits=True).shape == (2, 2048)
    torch.testing.assert_close(rednet26.forward_head(features), rednet26(images))
    assert rednet26.num_features == rednet26.head_hidden_size == 2048
    headless = nano(num_classes=0)
    assert headless(torch.rand(2, 3, 16, 16)).shape == (2, 256)
    headless.reset_classifier(3)
    assert headless(torch.rand(2, 3, 16, 16)).shape == (2, 3)
    headless.reset_classifier(0, "")
    assert headless(torch.rand(2, 3, 16, 16)).shape == (2, 256, 4, 4)


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax", "fast"])
def test_global_pool(pool):
    assert nano(global_pool=pool, num_classes=3)(torch.rand(2, 3, 16, 16)).shape == (2, 3)


@pytest.mark.parametrize("in_chans", [1, 4])
def test_in_chans(in_chans):
    assert nano(in_chans=in_chans)(torch.rand(2, in_chans, 16, 16)).shape == (2, 10)


def test_activation_and_norm_reach_the_generators():
    model = nano(act_layer="silu", norm_layer="groupnorm1")
    assert not any(isinstance(module, torch.nn.ReLU | torch.nn.BatchNorm2d) for module in model.modules())
    model(torch.rand(1, 3, 16, 16)).sum().backward()


def test_drop_path_drops():
    model = nano(drop_path_rate=0.9, zero_init_last=False).train()
    images = torch.rand(16, 3, 16, 16)
    assert not torch.equal(model(images), model(images))
    assert [block.drop_path is None for block in model.layer1] == [True, False]


def test_gradient_checkpointing_gives_the_same_gradients():
    images = torch.rand(4, 3, 16, 16)
    gradients = []
    for enable in (False, True):
        model = nano(zero_init_last=False).train()
        model.set_grad_checkpointing(enable)
        model(images).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain)


def test_parameter_groups_cover_the_network(rednet26):
    from timm.models import group_parameters

    groups = group_parameters(rednet26, rednet26.group_matcher())
    assert sum(map(len, groups.values())) == len(list(rednet26.parameters()))
    # the stem, eight blocks, the head
    assert len(groups) == 10


@pytest.mark.parametrize(("output_stride", "reductions"), [(8, [2, 4, 8, 8, 8]), (16, [2, 4, 8, 16, 16])])
def test_output_stride_sets_the_sizes(output_stride, reductions):
    model = timm.create_model("rednet26", features_only=True, output_stride=output_stride).eval()
    assert model.feature_info.reduction() == reductions
    with torch.no_grad():
        assert [64 // f.shape[-1] for f in model(torch.rand(1, 3, 64, 64))] == reductions


@pytest.mark.parametrize("output_stride", [8, 16])
def test_output_stride_keeps_the_receptive_field(output_stride):
    # with kernels that are the same everywhere, a dilated network holds the strided one's features
    torch.manual_seed(0)
    options = {
        "layers": (1, 1, 2, 2),
        "channels": (16, 16, 32, 48),
        "num_classes": 0,
        "zero_init_last": False,
    }
    strided = RedNet(**options).double().eval()
    for module in strided.modules():
        if isinstance(module, Involution2d):
            torch.nn.init.zeros_(module.generator.span.weight)
            torch.nn.init.normal_(module.generator.span.bias, std=0.2)
    dilated = RedNet(**options, output_stride=output_stride).double().eval()
    dilated.load_state_dict(strided.state_dict())
    step = 32 // output_stride
    images = torch.rand(1, 3, 128, 160, dtype=torch.float64)
    with torch.no_grad():
        dense, sparse = dilated.forward_features(images), strided.forward_features(images)
    assert sparse.std() > 0
    torch.testing.assert_close(dense[..., ::step, ::step], sparse)


def test_small_models_take_output_stride():
    assert nano(output_stride=2, features_only=True).feature_info.reduction() == [1, 1, 2, 2]
    assert nano(output_stride=4, features_only=True).feature_info.reduction() == [1, 1, 2, 4]


def test_segmentation_models_pytorch():
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = smp.DeepLabV3Plus("tu-rednet50", encoder_weights=None, classes=3).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, 64, 96)).shape == (1, 3, 64, 96)


@pytest.mark.parametrize("size", [(65, 97), (33, 47)], ids=str)
def test_odd_sizes_forward_and_backward(size):
    torch.manual_seed(0)
    model = RedNet((1, 1, 1, 1), num_classes=2)
    images = torch.rand(2, 3, *size, requires_grad=True)
    model(images).square().sum().backward()
    assert images.grad.abs().sum() > 0
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_channels_last(rednet26):
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = rednet26(images)
        model = timm.create_model("rednet26").eval()
        model.load_state_dict(rednet26.state_dict())
        features = model.to(memory_format=torch.channels_last).forward_features(
            images.to(memory_format=torch.channels_last)
        )
    assert features.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model.forward_head(features), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_stride": 4}, r"output_stride must be one of \(8, 16, 32\), got 4"),
        (
            {"output_stride": 1, "small_input": True},
            r"output_stride must be one of \(2, 4, 8, 16, 32\), got 1",
        ),
        ({"cardinality": 2}, "cardinality must be 1, got 2: set groups or group_channels"),
        ({"layers": (1, 1, 1, 1, 1)}, "layers must have 1 to 4 stages, got 5"),
        ({"small_input": True, "replace_stem_pool": True}, "replace_stem_pool needs a pooling stem"),
    ],
    ids=str,
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        RedNet(**{"layers": (1, 1, 1, 1), "device": "meta", **options})


def test_every_variant_is_registered_and_a_resnet():
    for name, (model_cls, _) in VARIANTS.items():
        assert timm.is_model(name)
        assert type(timm.create_model(name, device="meta")) is model_cls
        assert issubclass(model_cls, ResNetC)


def test_kernel_size_of_each_stage():
    model = timm.create_model("rednet_nano", kernel_size=(7, (5, 3), 1), num_classes=3).eval()
    stages = model.layer1, model.layer2, model.layer3
    assert [stage[0].conv2.kernel_size for stage in stages] == [(7, 7), (5, 3), (1, 1)]
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 3)
    with pytest.raises(ValueError, match=r"one or one for each of the 3 stages; got 2: \(7, 5\)"):
        timm.create_model("rednet_nano", kernel_size=(7, 5))

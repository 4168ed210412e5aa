"""RedNet: residual networks whose k×k convolutions are involutions.

The networks of "Involution: Inverting the Inherence of Convolution for Visual Recognition" (CVPR 2021,
section 4) on timm's ResNet, so that output stride, stochastic depth, pooling, gradient checkpointing, feature
extraction and parameter groups are timm's. Every model has a convolution twin: the same layout with 3×3
convolutions.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import timm.layers
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._builder import resolve_pretrained_cfg
from timm.models._features import feature_take_indices
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

from involution.models.layouts import to_timm_layout
from involution.nn import Involution2d

__all__ = ["InvolutionBottleneck", "RedNet", "ResNetC", "convolution_twin"]


class InvolutionBottleneck(Bottleneck):
    """timm's bottleneck with an involution in place of its 3×3 convolution.

    Args:
        inplanes: Channels of the input.
        planes: Inner width; the block puts out four times as many channels.
        stride: Stride of the involution.
        downsample: Projection of the shortcut.
        kernel_size: Involution kernel size K.
        groups: Number of kernel groups; by default ``group_channels`` sets it.
        group_channels: Channels that share one kernel.
        reduction_ratio: Channel reduction of the kernel generator; None or 0: a single linear map.
        cardinality: Must be 1, an involution has kernel groups instead.
        act_layer: Activation of block and generator.
        norm_layer: Normalisation of block and generator.
        device: Device of the parameters.
        dtype: Data type of the parameters.
        **kwargs: Of timm's ``Bottleneck``.

    Raises:
        ValueError: A cardinality other than 1.
    """

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        *,
        kernel_size: int = 7,
        groups: int | None = None,
        group_channels: int = 16,
        reduction_ratio: int | None = 4,
        cardinality: int = 1,
        act_layer: type[nn.Module] = nn.ReLU,
        norm_layer: type[nn.Module] = nn.BatchNorm2d,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        if cardinality != 1:
            raise ValueError(f"cardinality must be 1, got {cardinality}: set groups or group_channels")
        common: dict[str, Any] = {
            "act_layer": act_layer,
            "norm_layer": norm_layer,
            "device": device,
            "dtype": dtype,
        }
        super().__init__(inplanes, planes, stride, downsample, **common, **kwargs)
        # timm has settled widths, anti-aliasing and output stride in the convolution: take its place
        conv = self.conv2
        self.conv2 = Involution2d(  # type: ignore[assignment]
            conv.in_channels,
            kernel_size,
            stride=conv.stride,
            dilation=conv.dilation,
            groups=groups,
            group_channels=group_channels,
            reduction_ratio=reduction_ratio or None,
            out_channels=conv.out_channels if conv.out_channels != conv.in_channels else None,
            **common,
        )


class ResNetC(ResNet):
    """timm's ResNet with three 3×3 convolutions as stem (ResNet-C), also without early downsampling.

    Args:
        layers: Blocks per stage, at most four stages.
        block: Block class.
        channels: Inner width of each stage's blocks; a stage puts out four times as many.
        stem_width: Channels of the stem; it puts out twice as many.
        small_input: Leave out both downsampling steps of the stem, for images of 16 to 64 pixels.
        output_stride: Largest ratio of input size to feature size; dilations keep the receptive field. With
            ``small_input`` 2 or more.
        **kwargs: Of timm's ``ResNet``.

    Raises:
        ValueError: More than four stages, an output stride that is not offered, or a convolution as pooling
            in a stem that has no pooling.
    """

    def __init__(
        self,
        layers: Sequence[int],
        *,
        block: Any = Bottleneck,
        channels: Sequence[int] = (64, 128, 256, 512),
        stem_width: int = 32,
        small_input: bool = False,
        output_stride: int = 32,
        **kwargs: Any,
    ) -> None:
        strides = (2, 4, 8, 16, 32) if small_input else (8, 16, 32)
        if output_stride not in strides:
            raise ValueError(f"output_stride must be one of {strides}, got {output_stride}")
        most = min(4, len(channels))
        if not 1 <= len(layers) <= most:
            raise ValueError(f"layers wants 1 to {most} stages, got {len(layers)}: {tuple(layers)}")
        if small_input and kwargs.get("replace_stem_pool"):
            raise ValueError("replace_stem_pool needs a pooling stem, small_input leaves the pooling out")
        # timm counts strides from 4 after the stem
        super().__init__(
            block,
            tuple(layers),
            channels=tuple(channels)[: len(layers)],
            stem_type="deep",
            stem_width=stem_width,
            output_stride=min(32, 4 * output_stride) if small_input else output_stride,
            **kwargs,
        )
        if small_input:
            first: Any = self.conv1[0]
            first.stride = (1, 1)
            self.add_module("maxpool", nn.Identity())
            stem, *stages = cast(list[dict[str, Any]], self.feature_info)
            stem["reduction"] = 1
            for stage_info in stages:
                stage_info["reduction"] //= 4
        # timm's forward walks through four stages
        for stage in range(len(layers) + 1, 5):
            self.add_module(f"layer{stage}", nn.Sequential())

    @torch.jit.ignore
    def init_weights(self, zero_init_last: bool = True) -> None:
        """Initialise as the authors: convolutions He-normal over their outputs, the classifier N(0, 0.01)."""
        super().init_weights(zero_init_last=zero_init_last)
        self._init_classifier()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new classifier in, initialised as the first one (``num_classes=0``: none)."""
        super().reset_classifier(num_classes, global_pool)
        self._init_classifier()

    def forward_intermediates(
        self, x: torch.Tensor, indices: int | list[int] | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Run with intermediate features as timm's ResNet, counting only stages that are there."""
        indices, _ = feature_take_indices(len(self.feature_info), indices)
        return super().forward_intermediates(x, indices, *args, **kwargs)

    def prune_intermediate_layers(self, indices: int | list[int] = 1, *args: Any, **kwargs: Any) -> list[int]:
        """Drop layers behind the given features as timm's ResNet, counting only stages that are there."""
        indices, _ = feature_take_indices(len(self.feature_info), indices)
        return super().prune_intermediate_layers(indices, *args, **kwargs)

    def _init_classifier(self) -> None:
        if isinstance(self.fc, nn.Linear):
            nn.init.normal_(self.fc.weight, std=0.01)
            nn.init.zeros_(self.fc.bias)


class RedNet(ResNetC):
    """RedNet (section 4.1): ResNet-C with involutions in the bottlenecks and in the middle of the stem.

    Args:
        layers: Blocks per stage.
        kernel_size: Kernel size of the bottlenecks' involutions.
        stem_kernel: Kernel size of the stem's involution; published are 3 for classification, 7 for detection
            and segmentation.
        groups: Number of kernel groups, the same in every involution; by default ``group_channels`` sets it.
        group_channels: Channels that share one kernel.
        reduction_ratio: Channel reduction of the kernel generators; None or 0: a single linear map
            (``timm.create_model`` drops arguments that are None).
        act_layer: Activation, class or timm's name for it.
        norm_layer: Normalisation, class or timm's name for it.
        device: Device of the parameters.
        dtype: Data type of the parameters.
        **kwargs: Of ``ResNetC`` and timm's ``ResNet``: num_classes, in_chans, output_stride, global_pool,
            drop_rate, drop_path_rate, avg_down, …

    Example:
        >>> model = RedNet((1, 2, 4, 1), num_classes=10)
        >>> model(torch.rand(1, 3, 64, 64)).shape
        torch.Size([1, 10])
    """

    def __init__(
        self,
        layers: Sequence[int],
        *,
        kernel_size: int = 7,
        stem_kernel: int = 3,
        groups: int | None = None,
        group_channels: int = 16,
        reduction_ratio: int | None = 4,
        act_layer: Any = nn.ReLU,
        norm_layer: Any = nn.BatchNorm2d,
        block_args: dict[str, Any] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        generator: dict[str, Any] = {
            "groups": groups,
            "group_channels": group_channels,
            "reduction_ratio": reduction_ratio or None,
        }
        common: dict[str, Any] = {
            "act_layer": timm.layers.get_act_layer(act_layer),
            "norm_layer": timm.layers.get_norm_layer(norm_layer),
            "device": device,
            "dtype": dtype,
        }
        super().__init__(
            layers,
            block=InvolutionBottleneck,
            block_args={"kernel_size": kernel_size, **generator, **(block_args or {})},
            **common,
            **kwargs,
        )
        stem: Any = self.conv1
        stem[3] = Involution2d(stem[3].in_channels, stem_kernel, **generator, **common)


_DEPTHS = {
    26: (1, 2, 4, 1),
    38: (2, 3, 5, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
_LAYOUTS: dict[str, dict[str, Any]] = {
    **{f"rednet{depth}": {"layers": layers} for depth, layers in _DEPTHS.items()},
    "rednet_nano": {"layers": (2, 2, 2), "channels": (16, 32, 64), "stem_width": 16, "small_input": True},
    "rednet_micro": {"layers": (3, 3, 3), "channels": (32, 64, 128), "stem_width": 16, "small_input": True},
}


def convolution_twin(name: str) -> str:
    """Return the name of the model with ``name``'s layout and 3×3 convolutions instead of involutions.

    Raises:
        ValueError: ``name`` is not a RedNet of this package.

    Example:
        >>> convolution_twin("rednet50_stem7")
        'rednet50_conv'
    """
    layout = name.removesuffix("_stem7")
    if name not in default_cfgs or name.endswith("_conv"):
        known = ", ".join(known for known in default_cfgs if not known.endswith("_conv"))
        raise ValueError(f"no RedNet {name!r}; choose from {known}")
    return f"{layout}_conv"


def _cfg(small_input: bool = False, **kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 10 if small_input else 1000,
        "input_size": (3, 32, 32) if small_input else (3, 224, 224),
        "pool_size": (8, 8) if small_input else (7, 7),
        "crop_pct": 1.0 if small_input else 0.875,
        "interpolation": "bilinear",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "conv1.0",
        "classifier": "fc",
        "license": "mit",
        **kwargs,
    }


def _variants() -> dict[str, tuple[type[ResNetC], dict[str, Any]]]:
    """Return class and arguments of every registered model: a layout, its 7×7 stem, its twin."""
    variants: dict[str, tuple[type[ResNetC], dict[str, Any]]] = {}
    for name, layout in _LAYOUTS.items():
        variants[name] = (RedNet, layout)
        if not layout.get("small_input"):
            variants[f"{name}_stem7"] = (RedNet, {**layout, "stem_kernel": 7})
        variants[f"{name}_conv"] = (ResNetC, layout)
    return variants


VARIANTS = _variants()

default_cfgs = generate_default_cfgs(
    {
        f"{name}.untrained": _cfg(
            small_input=args.get("small_input", False),
            **(
                {"origin_url": "https://github.com/d-li14/involution", "paper_ids": "arXiv:2103.06255"}
                if model_cls is RedNet
                else {"license": "apache-2.0", "paper_ids": "arXiv:1812.01187"}
            ),
        )
        for name, (model_cls, args) in VARIANTS.items()
    }
)


def _no_weights(variant: str) -> str:
    if variant.removeprefix("rednet").removesuffix("_stem7") not in map(str, _DEPTHS):
        return f"pretrained=True: no weights of {variant} are published; train it with pretrained=False"
    return (
        f"pretrained=True: no download address of weights for {variant} is known to be alive. Get the "
        "authors' file (https://github.com/d-li14/involution, links in a browser) or PaddlePaddle's "
        f"RedNet*_pretrained.pdparams, run `involution convert FILE {variant}.safetensors`, then "
        f'timm.create_model("{variant}", checkpoint_path="{variant}.safetensors")'
    )


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    model_cls, args = VARIANTS[variant]
    if pretrained:
        cfg = resolve_pretrained_cfg(
            variant, kwargs.get("pretrained_cfg"), dict(kwargs.get("pretrained_cfg_overlay") or {})
        )
        if not (cfg.has_weights or cfg.state_dict or cfg.source):
            raise RuntimeError(_no_weights(variant))
    return build_model_with_cfg(
        model_cls,
        variant,
        pretrained,
        feature_cfg={"out_indices": tuple(range(len(args["layers"]) + 1))},
        pretrained_filter_fn=lambda state_dict, model: to_timm_layout(state_dict).tensors,
        **{**args, **kwargs},
    )


def _register(name: str) -> Callable[..., nn.Module]:
    def entry_point(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(name, pretrained, **kwargs)

    entry_point.__name__ = entry_point.__qualname__ = name
    entry_point.__doc__ = f"Build {name}; arguments as for ``timm.create_model``."
    return register_model(entry_point)


rednet26 = _register("rednet26")
rednet38 = _register("rednet38")
rednet50 = _register("rednet50")
rednet101 = _register("rednet101")
rednet152 = _register("rednet152")
rednet26_stem7 = _register("rednet26_stem7")
rednet38_stem7 = _register("rednet38_stem7")
rednet50_stem7 = _register("rednet50_stem7")
rednet101_stem7 = _register("rednet101_stem7")
rednet152_stem7 = _register("rednet152_stem7")
rednet_nano = _register("rednet_nano")
rednet_micro = _register("rednet_micro")
rednet26_conv = _register("rednet26_conv")
rednet38_conv = _register("rednet38_conv")
rednet50_conv = _register("rednet50_conv")
rednet101_conv = _register("rednet101_conv")
rednet152_conv = _register("rednet152_conv")
rednet_nano_conv = _register("rednet_nano_conv")
rednet_micro_conv = _register("rednet_micro_conv")

"""RedNet: residual networks whose k×k convolutions are involutions.

The networks of "Involution: Inverting the Inherence of Convolution for Visual Recognition" (CVPR 2021,
section 4) on timm's ResNet, so that output stride, stochastic depth, pooling, gradient checkpointing, feature
extraction and parameter groups are timm's. Every model has a convolution twin: the same layout with 3×3
convolutions.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import timm.layers
import torch
from timm.models._features import feature_take_indices
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

from involution.nn import Involution2d

from .fuse import FuseReport, fuse

__all__ = ["InvolutionBottleneck", "RedNet", "ResNetC"]


class InvolutionBottleneck(Bottleneck):
    """timm's bottleneck with an involution in place of its 3×3 convolution.

    Args:
        inplanes: Channels of the input.
        planes: Inner width; the output has four times as many channels.
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

    Example:
        >>> InvolutionBottleneck(256, 64)(torch.rand(1, 256, 14, 14)).shape
        torch.Size([1, 256, 14, 14])
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
        # timm has already set widths, anti-aliasing and output stride in the convolution, which this replaces
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
        channels: Inner width of each stage's blocks; a stage outputs four times as many.
        stem_width: Channels of the stem; it outputs twice as many.
        small_input: Leave out both downsampling steps of the stem, for images of 16 to 64 pixels.
        output_stride: Largest ratio of input size to feature size; dilations keep the receptive field. With
            ``small_input`` 2 or more.
        **kwargs: Of timm's ``ResNet``.

    Raises:
        ValueError: More than four stages, an output stride that is not offered, or a convolution as pooling
            in a stem that has no pooling.

    Example:
        >>> twin = ResNetC((2, 2, 2), channels=(16, 32, 64), stem_width=16, small_input=True, num_classes=10)
        >>> twin.forward_features(torch.rand(1, 3, 32, 32)).shape
        torch.Size([1, 256, 8, 8])
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
            raise ValueError(f"layers must have 1 to {most} stages, got {len(layers)}: {tuple(layers)}")
        if small_input and kwargs.get("replace_stem_pool"):
            raise ValueError("replace_stem_pool needs a pooling stem, and small_input removes the pooling")
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
        """Initialise as the authors do: convolutions He-normal over their outputs, the classifier N(0, 0.01)."""
        super().init_weights(zero_init_last=zero_init_last)
        self._init_classifier()

    @torch.jit.ignore
    def fuse(self) -> FuseReport:
        """Fold the batch norms into convolutions and involutions, in place and for inference; see `fuse`."""
        return fuse(self)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier with a newly initialised one (``num_classes=0``: none)."""
        super().reset_classifier(num_classes, global_pool)
        self._init_classifier()

    def forward_intermediates(
        self, x: torch.Tensor, indices: int | list[int] | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Return intermediate features like timm's ResNet, counting only existing stages."""
        indices, _ = feature_take_indices(len(self.feature_info), indices)
        return super().forward_intermediates(x, indices, *args, **kwargs)

    def prune_intermediate_layers(self, indices: int | list[int] = 1, *args: Any, **kwargs: Any) -> list[int]:
        """Drop the layers after the given features like timm's ResNet, counting only existing stages."""
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
        kernel_size: Kernel size of the bottlenecks' involutions, one for all or one for each stage.
        stem_kernel: Kernel size of the stem's involution; the published models have 3 for classification and 7 for
            detection and segmentation.
        groups: Number of kernel groups, the same in every involution; by default ``group_channels`` sets it.
        group_channels: Channels that share one kernel.
        reduction_ratio: Channel reduction of the kernel generators; None or 0: a single linear map
            (``timm.create_model`` drops arguments that are None).
        act_layer: Activation, class or timm's name for it.
        norm_layer: Normalisation, class or timm's name for it.
        block_args: Further arguments of ``InvolutionBottleneck``; they go before those above in the bottlenecks.
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
        kernel_size: int | Sequence[int] = 7,
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
            block=_blocks(kernel_size, len(layers)),
            block_args={**generator, **(block_args or {})},
            **common,
            **kwargs,
        )
        stem: Any = self.conv1
        stem[3] = Involution2d(stem[3].in_channels, stem_kernel, **generator, **common)


def _blocks(kernel_size: int | Sequence[int], stages: int) -> Any:
    # a class for each stage, as timm takes them
    sizes = (kernel_size,) * stages if isinstance(kernel_size, int) else tuple(kernel_size)
    if isinstance(kernel_size, str) or not all(isinstance(size, int | Sequence) for size in sizes):
        raise ValueError(f"kernel_size must be an int or one for each stage; got {kernel_size!r}")
    if len(sizes) != stages:
        raise ValueError(f"kernel_size must be one or one for each of the {stages} stages; got {len(sizes)}: {sizes}")
    blocks: list[Any] = [partial(InvolutionBottleneck, kernel_size=size) for size in sizes]
    for block in blocks:
        block.expansion = InvolutionBottleneck.expansion
    return tuple(blocks)

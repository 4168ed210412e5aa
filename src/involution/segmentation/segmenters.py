"""Semantic FPN and UPerNet on any backbone, with the layout of the published segmenters.

Semantic FPN: "Panoptic Feature Pyramid Networks" (CVPR 2019, section 3.1) on the detectors' pyramid, of convolutions or
involutions. UPerNet: "Unified Perceptual Parsing for Scene Understanding" (ECCV 2018), with an auxiliary head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from involution.models.pyramid import Backbone, FeaturePyramid, Kind, group_norm, parameters_outside
from involution.ops.checks import is_exporting

__all__ = ["Segmenter", "semantic_fpn", "upernet"]

_POOLS = (1, 2, 3, 6)


class Segmenter(nn.Module):
    """Backbone and heads; the logits have the size of the image.

    Args:
        backbone: Computes the levels.
        head: Turns the levels into logits [N, classes, h, w] of any size.
        auxiliary: A second head on the levels, used only in training.

    Example:
        >>> model = semantic_fpn(19, "rednet26_stem7").eval()
        >>> model(torch.rand(1, 3, 64, 96)).shape
        torch.Size([1, 19, 64, 96])
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, auxiliary: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.auxiliary = auxiliary

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of everything but the backbone."""
        pyramid = self.backbone
        return parameters_outside(self, pyramid.backbone if isinstance(pyramid, FeaturePyramid) else pyramid)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits [N, classes, H, W] of images [N, C, H, W]; in training also those of the auxiliary head."""
        levels = self.backbone(x)
        features = list(levels.values()) if isinstance(levels, dict) else levels
        out = _resize(self.head(features), x)
        if self.training and self.auxiliary is not None:
            return out, _resize(self.auxiliary(features), x)
        return out


def semantic_fpn(
    num_classes: int,
    backbone: str | Backbone = "rednet50_stem7",
    *,
    neck: Kind = "convolution",
    out_channels: int = 256,
    head_channels: int = 128,
    dropout: float = 0.1,
    norm: str = "batch",
) -> Segmenter:
    """Semantic FPN: brings every level of the pyramid to the size of the finest one and classifies their sum.

    Args:
        num_classes: Classes.
        backbone: A backbone, or a name in timm's registry for an untrained one; the published segmenters have a 7×7
            stem.
        neck: Kind of the feature pyramid's output layers.
        out_channels: Channels of the pyramid.
        head_channels: Channels of the head.
        dropout: Probability of dropping a channel before the last layer, in training.
        norm: Norm of the head: ``batch`` or ``group``.

    Raises:
        ValueError: An argument is wrong, or two do not go together.

    Example:
        >>> sum(p.numel() for p in semantic_fpn(19, neck="involution").parameters())
        16372737
    """
    body = backbone if isinstance(backbone, Backbone) else Backbone(backbone, norm=norm)
    pyramid = FeaturePyramid(body, out_channels, neck=neck)
    head = SemanticHead(body.strides, out_channels, head_channels, _checked(num_classes), dropout, norm)
    return Segmenter(pyramid, head)


def upernet(
    num_classes: int,
    backbone: str | Backbone = "rednet50_stem7",
    *,
    head_channels: int = 512,
    auxiliary_channels: int = 256,
    dropout: float = 0.1,
    norm: str = "batch",
) -> Segmenter:
    """UPerNet: pyramid pooling on the coarsest level, then a feature pyramid whose levels are classified together.

    Args:
        num_classes: Classes.
        backbone: A backbone, or a name in timm's registry for an untrained one; the published segmenters have a 7×7
            stem.
        head_channels: Channels of the head.
        auxiliary_channels: Channels of the auxiliary head on the second to last level; 0 for none.
        dropout: Probability of dropping a channel before the last layers, in training.
        norm: Norm of the heads: ``batch`` or ``group``.

    Raises:
        ValueError: An argument is wrong, or two do not go together.

    Example:
        >>> sum(p.numel() for p in upernet(19).parameters())
        56380500
    """
    body = backbone if isinstance(backbone, Backbone) else Backbone(backbone, norm=norm)
    head = PyramidPoolingHead(body.channels, head_channels, _checked(num_classes), dropout, norm)
    auxiliary = None
    if auxiliary_channels:
        auxiliary = AuxiliaryHead(body.channels[-2], auxiliary_channels, num_classes, dropout, norm)
    return Segmenter(body, head, auxiliary)


class SemanticHead(nn.Module):
    """The head of Semantic FPN.

    Args:
        strides: Strides of the levels, finest first, each a power of two times the first.
        in_channels: Channels of every level.
        channels: Channels of the head.
        num_classes: Classes.
        dropout: Probability of dropping a channel, in training.
        norm: ``batch`` or ``group``.
    """

    def __init__(
        self, strides: Sequence[int], in_channels: int, channels: int, num_classes: int, dropout: float, norm: str
    ) -> None:
        super().__init__()
        self.scales = nn.ModuleList()
        for stride in strides:
            steps = round(math.log2(stride / strides[0]))
            layers: list[nn.Module] = []
            for step in range(max(1, steps)):
                layers.append(_conv(in_channels if step == 0 else channels, channels, 3, norm))
                if steps:
                    layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            self.scales.append(nn.Sequential(*layers))
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = _classifier(channels, num_classes)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Return logits of the size of the first level."""
        total = self.scales[0](levels[0])
        for scale, level in zip(list(self.scales)[1:], levels[1:], strict=True):
            total = total + _resize(scale(level), total)
        out: Tensor = self.classifier(self.dropout(total))
        return out


class PyramidPoolingHead(nn.Module):
    """The head of UPerNet.

    Args:
        in_channels: Channels of each level, finest first.
        channels: Channels of the head.
        num_classes: Classes.
        dropout: Probability of dropping a channel, in training.
        norm: ``batch`` or ``group``.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, num_classes: int, dropout: float, norm: str) -> None:
        super().__init__()
        last = in_channels[-1]
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), _conv(last, channels, 1, norm)) for size in _POOLS
        )
        self.bottleneck = _conv(last + len(_POOLS) * channels, channels, 3, norm)
        self.laterals = nn.ModuleList(_conv(width, channels, 1, norm) for width in in_channels[:-1])
        self.outputs = nn.ModuleList(_conv(channels, channels, 3, norm) for _ in in_channels[:-1])
        self.fuse = _conv(len(in_channels) * channels, channels, 3, norm)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = _classifier(channels, num_classes)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Return logits of the size of the first level."""
        last = levels[-1]
        pooled = [_resize(pool(last), last) for pool in self.pools]
        merged = [lateral(level) for lateral, level in zip(self.laterals, levels, strict=False)]
        merged.append(self.bottleneck(torch.cat([last, *pooled], 1)))
        for i in range(len(merged) - 1, 0, -1):
            merged[i - 1] = merged[i - 1] + _resize(merged[i], merged[i - 1])
        outputs = [layer(level) for layer, level in zip(self.outputs, merged, strict=False)]
        outputs.append(merged[-1])
        whole = torch.cat([_resize(level, outputs[0]) for level in outputs], 1)
        out: Tensor = self.classifier(self.dropout(self.fuse(whole)))
        return out


class AuxiliaryHead(nn.Module):
    """One 3×3 convolution and a classifier on the second to last level.

    Args:
        in_channels: Channels of that level.
        channels: Channels of the head.
        num_classes: Classes.
        dropout: Probability of dropping a channel, in training.
        norm: ``batch`` or ``group``.
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int, dropout: float, norm: str) -> None:
        super().__init__()
        self.layer = _conv(in_channels, channels, 3, norm)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = _classifier(channels, num_classes)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Return logits of the size of the second to last level."""
        out: Tensor = self.classifier(self.dropout(self.layer(levels[-2])))
        return out


def _conv(in_channels: int, out_channels: int, kernel_size: int, norm: str) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    layer = nn.BatchNorm2d(out_channels) if norm == "batch" else group_norm(out_channels)
    return nn.Sequential(conv, layer, nn.ReLU(inplace=True))


def _classifier(channels: int, num_classes: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, num_classes, 1)
    # with weights near zero, the network takes many epochs to tell the foreground classes apart
    nn.init.kaiming_normal_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def _resize(x: Tensor, like: Tensor) -> Tensor:
    # an exported program takes sizes of which some are equal and some are not
    if not is_exporting() and x.shape[-2:] == like.shape[-2:]:
        return x
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _checked(num_classes: int) -> int:
    if num_classes < 2:
        raise ValueError(f"num_classes must be 2 or more, got {num_classes}")
    return num_classes

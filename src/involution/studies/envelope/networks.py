"""The networks of the study: small residual networks that differ in what their bottlenecks see neighbours with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from timm.models.resnet import Bottleneck
from torch import nn

from involution.models.rednet import InvolutionBottleneck, ResNetC
from involution.nn import Involution2d
from involution.studies.cost import multiply_adds
from involution.studies.moved_digits import SIDE

WIDTHS = (4, 8, 12, 16)
"""Inner width of the first stage; the others have twice and four times as much."""
CONVOLUTION, DEPTHWISE, REDNET = "convolution 3×3", "depthwise 7×7", "RedNet, involution 7×7"
NOT_LAST, LAST = "involution, 3×3 in the last stage", "3×3, involution in the last stage"
CLASSES = 10


class DepthwiseBottleneck(Bottleneck):
    """timm's bottleneck with a depthwise 7×7 convolution, as ConvNeXt has, in place of its 3×3 convolution."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        conv: Any = self.conv2
        self.conv2 = nn.Conv2d(
            conv.in_channels, conv.out_channels, 7, conv.stride, 3, groups=conv.in_channels, bias=False
        )


@dataclass(frozen=True)
class Family:
    """Networks that differ in width alone.

    Attributes:
        stages: For each stage what its bottleneck has: ``convolution``, ``depthwise`` or ``involution``.
        stem: Whether the middle of the stem is an involution, as RedNet's is.
        learning_rate: Of its training; at width 8, on another draw of the images, a rate of 0.003 was
            worse for the three families that are no hybrids.
    """

    stages: tuple[str, str, str]
    stem: bool
    learning_rate: float


FAMILIES = {
    CONVOLUTION: Family(("convolution",) * 3, False, 0.01),
    DEPTHWISE: Family(("depthwise",) * 3, False, 0.01),
    REDNET: Family(("involution",) * 3, True, 0.01),
    NOT_LAST: Family(("involution", "involution", "convolution"), True, 0.01),
    LAST: Family(("convolution", "convolution", "involution"), False, 0.01),
}
"""By name; the first one is what the others are compared with."""


def build(family: str, width: int) -> nn.Module:
    """Return a new network for grey images.

    Args:
        family: Name in `FAMILIES`.
        width: Inner width of the first stage.
    """
    entry = FAMILIES[family]
    channels = (width, 2 * width, 4 * width)
    network = ResNetC(
        (1, 1, 1),
        block=tuple(_block(kind, planes) for kind, planes in zip(entry.stages, channels, strict=True)),
        channels=channels,
        stem_width=width,
        small_input=True,
        in_chans=1,
        num_classes=CLASSES,
    )
    if entry.stem:
        stem: Any = network.conv1
        stem[3] = Involution2d(width, 3, **_generator(width))
    return network


@cache
def cost(family: str, width: int) -> tuple[int, int]:
    """Return parameters of a network, and its multiply-adds for an image, the classifier left out."""
    with torch.device("meta"):
        network: Any = build(family, width).eval()
        image = torch.empty(1, 1, SIDE, SIDE)
        macs = multiply_adds(lambda: network.forward_features(image))
    return sum(parameter.numel() for parameter in network.parameters()), macs


def _block(kind: str, planes: int) -> Any:
    if kind == "involution":
        block: Any = partial(InvolutionBottleneck, kernel_size=7, **_generator(planes))
    else:
        block = partial(DepthwiseBottleneck if kind == "depthwise" else Bottleneck)
    block.expansion = Bottleneck.expansion
    return block


def _generator(channels: int) -> dict[str, Any]:
    # RedNet's, save where the channels are no multiple of its 16 to a group
    return {"group_channels": math.gcd(16, channels), "reduction_ratio": 4, "norm_layer": nn.BatchNorm2d}

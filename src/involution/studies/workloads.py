"""What the suites measure on: the layers of RedNet-50, whole networks, and their forms by other ways."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from involution.nn import Involution2d
from involution.studies.baselines import unfold_involution2d


@dataclass(frozen=True)
class Layer:
    """An involution layer: C channels in groups of 16, K×K kernels, an input of size × size pixels."""

    name: str
    channels: int
    kernel_size: int
    size: int
    stride: int

    @property
    def geometry(self) -> tuple[list[int], list[int], list[int]]:
        """Stride, padding and dilation as the operators take them."""
        return [self.stride] * 2, [(self.kernel_size - 1) // 2] * 2, [1, 1]

    @property
    def multiply_adds(self) -> int:
        """Of one image, those with the zeros around it left out."""
        padding = (self.kernel_size - 1) // 2
        taps = sum(
            0 <= start * self.stride + tap - padding < self.size
            for start in range(-(-self.size // self.stride))
            for tap in range(self.kernel_size)
        )
        return self.channels * taps * taps


REDNET50 = (
    Layer("stem", 32, 3, 112, 1),
    Layer("stage 1", 64, 7, 56, 1),
    Layer("stage 2, stride 2", 128, 7, 56, 2),
    Layer("stage 2", 128, 7, 28, 1),
    Layer("stage 3, stride 2", 256, 7, 28, 2),
    Layer("stage 3", 256, 7, 14, 1),
    Layer("stage 4, stride 2", 512, 7, 14, 2),
    Layer("stage 4", 512, 7, 7, 1),
)
"""The different involution layers of RedNet-50 at 224×224."""

TINY = (Layer("tiny", 32, 3, 6, 1), Layer("tiny, stride 2", 32, 3, 6, 2))
"""Layers for a dry run."""


def layer_tensors(layer: Layer, batch: int, *, channels_last: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Return input, kernel map and gradient of the output of a layer, on the GPU where there is one."""
    generator = torch.Generator().manual_seed(0)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out, groups = -(-layer.size // layer.stride), layer.channels // 16

    def random(channels: int, size: int) -> Tensor:
        values = torch.randn(batch, channels, size, size, generator=generator).to(device)
        return values.contiguous(memory_format=memory_format)

    weight = random(groups * layer.kernel_size**2, out).unflatten(1, (groups, layer.kernel_size, layer.kernel_size))
    return random(layer.channels, layer.size), weight, random(layer.channels, out)


@dataclass(frozen=True)
class Networks:
    """Networks to compare on square images: a RedNet of timm, a ResNet of torchvision, and perhaps another of timm.

    Attributes:
        rednet: Name in timm's registry, and as a candidate.
        resnet: Name in torchvision, and as a candidate.
        other: Name in timm's registry, and as a candidate.
        size: Height and width of the images.
        batches: Batch sizes on a GPU.
    """

    rednet: tuple[str, str] = ("rednet50", "RedNet-50")
    resnet: tuple[str, str] = ("resnet50", "ResNet-50")
    other: tuple[str, str] | None = ("convnext_tiny", "ConvNeXt-T")
    size: int = 224
    batches: tuple[int, ...] = (256, 32, 1)

    def build(self) -> dict[str, nn.Module]:
        """Return the networks by their names as candidates, untrained, channels_last, on the CPU."""
        import timm
        import torchvision

        from involution import models  # noqa: F401, registers RedNet with timm

        torch.manual_seed(0)
        built = {self.resnet[1]: torchvision.models.get_model(self.resnet[0])}
        for name, title in filter(None, (self.rednet, self.other)):
            built[title] = timm.create_model(name)
        return {title: network.to(memory_format=torch.channels_last) for title, network in built.items()}

    def images(self, batch: int, device: str = "cpu") -> Tensor:
        """Return a batch of noise, channels_last."""
        images = torch.randn(batch, 3, self.size, self.size, device=device)
        return images.contiguous(memory_format=torch.channels_last)


NETWORKS = Networks()
TINY_NETWORKS = Networks(("rednet_nano", "RedNet-nano"), ("resnet18", "ResNet-18"), None, 32, (2,))


class UnfoldInvolution2d(Involution2d):
    """Generates the kernel map and applies it by unfold."""

    def forward(self, x: Tensor) -> Tensor:
        """See `Involution2d.forward`."""
        return unfold_involution2d(x, self.generator(x), self.stride[0], self.kernel_size[0] // 2)


def by_unfold(network: nn.Module) -> nn.Module:
    """Return a copy of a RedNet that isn't folded whose involutions go by unfold."""
    network = copy.deepcopy(network)
    for module in network.modules():
        # RedNet's have neither projection nor bias
        if type(module) is Involution2d:
            module.__class__ = UnfoldInvolution2d
    return network

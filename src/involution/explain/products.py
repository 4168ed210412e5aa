"""Window × kernel = products, whose sum is the output: one channel of an involution, and one of a convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from involution.explain.layer import LayerMap
from involution.explain.subject import View


@dataclass(frozen=True)
class Products:
    """What one channel of a layer's output is made of.

    Attributes:
        title: Name of the network.
        source: The channel of the input whose windows these are, from 0.
        channels: How many the input has.
        target: The channel of the output, from 0.
        given: That channel of the input `[H, W]`; NaN where the layer is not plainly window × kernel.
        kernels: `[H_o, W_o, K_h, K_w]`, or `[K_h, K_w]` if it is the same everywhere.
        output: That channel of the output `[H_o, W_o]`.
        parts: How many sums of products are added up to the output: 1 for an involution.
        step: Features between two positions.
        dilation: Features between two taps.
        reach: (top, left) distance from the start of a window to the start of its position.
        stride: Pixels of the network's input per position.
        pixels: Pixels of the network's input per feature.
    """

    title: str
    source: int
    channels: int
    target: int
    given: Tensor
    kernels: Tensor
    output: Tensor
    parts: int
    step: tuple[int, int]
    dilation: tuple[int, int]
    reach: tuple[int, int]
    stride: tuple[float, float]
    pixels: tuple[float, float]

    @property
    def plain(self) -> bool:
        """Whether it is known what is in a window."""
        return not bool(self.given.isnan().all())

    @property
    def taps(self) -> tuple[int, int]:
        """Height and width of a kernel."""
        return self.kernels.shape[-2], self.kernels.shape[-1]

    def position(self, y: float, x: float) -> tuple[int, int]:
        """The position (row, column) at a place in the network's input, in pixel centres."""
        found = [int((place + 0.5) / stride) for place, stride in zip((y, x), self.stride, strict=True)]
        return min(found[0], self.output.shape[0] - 1), min(found[1], self.output.shape[1] - 1)

    def window(self, row: int, column: int) -> tuple[float, float, float, float]:
        """(top, left, height, width) of a position's window, in pixel centres of the network's input."""
        corner, extent = [], []
        for axis, place in enumerate((row, column)):
            corner.append((place * self.step[axis] - self.reach[axis]) * self.pixels[axis] - 0.5)
            extent.append(((self.taps[axis] - 1) * self.dilation[axis] + 1) * self.pixels[axis])
        return corner[0], corner[1], extent[0], extent[1]

    def at(self, row: int, column: int) -> tuple[Tensor, Tensor, Tensor]:
        """Window, kernel and products of a position, `[K_h, K_w]` each; NaN outside of the input, where 0 is read."""
        places, inside = [], []
        for axis, place in enumerate((row, column)):
            along = place * self.step[axis] - self.reach[axis] + self.dilation[axis] * torch.arange(self.taps[axis])
            inside.append((along >= 0) & (along < self.given.shape[axis]))
            places.append(along.clamp(0, self.given.shape[axis] - 1))
        window = self.given[places[0]][:, places[1]].where(inside[0][:, None] & inside[1], torch.nan)
        kernel = self.kernels[row, column] if self.kernels.ndim == 4 else self.kernels
        return window, kernel, window * kernel


def involution_products(view: View, found: LayerMap, group: int | None = None) -> Products:
    """The channel of an involution whose output changes most over the picture.

    Args:
        view: Network and image.
        found: The layer.
        group: Whose channels are meant, from 0; by default all.
    """
    module: Any = view.network.get_submodule(found.name)
    given, output = _seen(view, module)
    each = len(output) // found.kernels.shape[0]
    first, last = (0, len(output)) if group is None else (group * each, (group + 1) * each)
    channel = first + int(output[first:last].flatten(1).std(dim=1, correction=0).argmax())
    # what is applied to the channels themselves, with zeros around them
    plain = module.padding_mode == "zeros" and module.bias is None and len(given) == len(output)
    return Products(
        title=view.name,
        source=channel,
        channels=len(given),
        target=channel,
        given=given[channel] if plain else torch.full_like(given[0], torch.nan),
        kernels=found.kernels[channel // each].permute(2, 3, 0, 1),
        output=output[channel],
        parts=1,
        step=found.step,
        dilation=found.dilation,
        reach=found.reach,
        stride=found.stride,
        pixels=found.feature_stride,
    )


def convolution_products(view: View, module: nn.Conv2d) -> Products:
    """The output channel of a convolution that changes most over the picture, by the input that does most of it.

    Args:
        view: Network and image.
        module: A convolution of the network.
    """
    given, output = _seen(view, module)
    channel = int(output.flatten(1).std(dim=1, correction=0).argmax())
    weight = module.weight.detach().float().cpu()[channel]
    plain = module.groups == 1 and module.bias is None and module.padding_mode == "zeros"
    reach = (0, 0) if isinstance(module.padding, str) else (int(module.padding[0]), int(module.padding[1]))
    source = 0
    if plain := plain and not isinstance(module.padding, str):
        shape = (module.stride, module.padding, module.dilation)
        parts = nn.functional.conv2d(given[None], weight[:, None], None, *shape, groups=len(given))[0]
        source = int(parts.flatten(1).std(dim=1, correction=0).argmax())
    height, width = view.size
    return Products(
        title=view.name,
        source=source,
        channels=len(given),
        target=channel,
        given=given[source] if plain else torch.full_like(given[0], torch.nan),
        kernels=weight[source],
        output=output[channel],
        parts=weight.shape[0],
        step=(module.stride[0], module.stride[1]),
        dilation=(module.dilation[0], module.dilation[1]),
        reach=reach,
        stride=(height / output.shape[1], width / output.shape[2]),
        pixels=(height / given.shape[1], width / given.shape[2]),
    )


def _seen(view: View, module: nn.Module) -> tuple[Tensor, Tensor]:
    """What a layer is given and what it makes of it, `[C, H, W]` each."""
    caught: list[tuple[Tensor, Tensor]] = []
    hook = module.register_forward_hook(
        lambda module, args, output: caught.append((args[0][0].float().cpu(), output[0].float().cpu()))
    )
    try:
        with torch.no_grad():
            view.network(view.input)
    finally:
        hook.remove()
    return caught[0]

"""The table of shapes, the layouts, and a form of involution that shares no code with the package."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Case:
    """One geometry; `padding` is (leading, trailing) for each dimension."""

    name: str
    input_size: tuple
    kernel: tuple
    groups: int
    stride: tuple = (1, 1)
    padding: tuple = ((0, 0), (0, 0))
    dilation: tuple = (1, 1)

    @property
    def output_size(self):
        return tuple(
            (x + a + b - d * (k - 1) - 1) // s + 1
            for x, k, s, (a, b), d in zip(
                self.input_size[2:], self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )

    @property
    def weight_size(self):
        return (self.input_size[0], self.groups, *self.kernel, *self.output_size)

    @property
    def geometry(self):
        """Arguments of the registered operator: stride, leading padding, dilation."""
        return list(self.stride), [leading for leading, _ in self.padding], list(self.dilation)

    def tensors(self, dtype=torch.float64, requires_grad=False):
        x = torch.randn(self.input_size, dtype=dtype)
        w = torch.randn(self.weight_size, dtype=dtype)
        return x.requires_grad_(requires_grad), w.requires_grad_(requires_grad)


def both(value):
    return ((value, value), (value, value))


CASES = [
    Case("k1", (2, 4, 5, 5), (1, 1), 2),
    Case("k1-stride2", (2, 4, 5, 6), (1, 1), 4, stride=(2, 2)),
    Case("k1-stride3-padded", (1, 2, 4, 5), (1, 1), 1, stride=(3, 3), padding=both(2)),
    Case("k3-same", (2, 8, 7, 7), (3, 3), 2, padding=both(1)),
    Case("k3-valid-odd", (3, 4, 5, 7), (3, 3), 2),
    Case("k3-stride2-odd", (2, 6, 7, 7), (3, 3), 3, stride=(2, 2), padding=both(1)),
    Case("k3-stride2-even", (2, 6, 8, 6), (3, 3), 3, stride=(2, 2), padding=both(1)),
    Case("k3-stride3", (1, 4, 8, 10), (3, 3), 1, stride=(3, 3), padding=both(1)),
    Case("k3-dilation2", (2, 4, 9, 7), (3, 3), 2, padding=both(2), dilation=(2, 2)),
    Case("k3-dilation3-stride2", (1, 4, 9, 11), (3, 3), 2, stride=(2, 2), padding=both(3), dilation=(3, 3)),
    Case("k5-border-over-image", (2, 4, 2, 3), (5, 5), 1, padding=both(4)),
    Case("k7-same", (2, 16, 9, 9), (7, 7), 1, padding=both(3)),
    Case("k7-stride2-odd", (1, 32, 7, 7), (7, 7), 2, stride=(2, 2), padding=both(3)),
    Case("k7-image-of-one-pixel", (2, 4, 1, 1), (7, 7), 2, padding=both(3)),
    Case("k11", (1, 2, 6, 5), (11, 11), 1, padding=both(5)),
    Case("k2-even", (2, 4, 5, 6), (2, 2), 2, padding=((0, 1), (0, 1))),
    Case("k4-even-stride2", (2, 4, 7, 6), (4, 4), 2, stride=(2, 2), padding=((1, 2), (1, 2))),
    Case("k3x5-per-side", (2, 4, 6, 5), (3, 5), 2, padding=((2, 0), (1, 3))),
    Case("k1x6-mixed", (2, 4, 4, 9), (1, 6), 4, stride=(1, 3), padding=((0, 0), (3, 2)), dilation=(3, 2)),
    Case("windows-skip-the-rest", (1, 2, 10, 11), (2, 3), 1, stride=(3, 3)),
    Case("group-width-1", (2, 5, 4, 4), (3, 3), 5, padding=both(1)),
    Case("group-width-64", (1, 128, 4, 4), (3, 3), 2, padding=both(1)),
    Case("one-channel", (2, 1, 5, 5), (3, 3), 1, padding=both(1)),
    Case("batch-0", (0, 4, 5, 5), (3, 3), 2, padding=both(1)),
]
BY_NAME = {case.name: case for case in CASES}
SOME = [
    BY_NAME[name] for name in ("k3-same", "k3-stride2-odd", "k4-even-stride2", "k3x5-per-side", "k1x6-mixed", "batch-0")
]


def unfold_form(input, weight, stride, padding, dilation):
    """Involution as its users wrote it before: `torch.nn.functional.unfold`, a product, a sum. 2-D; differentiable.

    `padding` is the leading one; the trailing one follows from the map's size.
    """
    n, groups, k_h, k_w, h_o, w_o = weight.shape
    pads, reads = [], []
    for x, k, y, s, p, d in zip(input.shape[2:], (k_h, k_w), (h_o, w_o), stride, padding, dilation, strict=True):
        read = (y - 1) * s + (k - 1) * d + 1
        pads = [p, max(0, read - p - x), *pads]
        reads.append(read)
    padded = F.pad(input, pads)[..., : reads[0], : reads[1]]
    columns = F.unfold(padded, (k_h, k_w), dilation=tuple(dilation), stride=tuple(stride))
    columns = columns.reshape(n, groups, input.shape[1] // groups, k_h, k_w, h_o, w_o)
    return (columns * weight.unsqueeze(2)).sum((3, 4)).reshape(n, input.shape[1], h_o, w_o)


def _sliced(x):
    larger = torch.randn(*x.shape[:-2], x.shape[-2] + 3, 2 * x.shape[-1], dtype=x.dtype)
    larger[..., 1 : x.shape[-2] + 1, ::2] = x.detach()
    return larger[..., 1 : x.shape[-2] + 1, ::2]


def _transposed(x):
    return x.detach().transpose(-1, -2).contiguous().transpose(-1, -2)


INPUT_LAYOUTS = {
    "contiguous": lambda x: x.detach().clone(),
    "channels_last": lambda x: x.detach().contiguous(memory_format=torch.channels_last),
    "sliced": _sliced,
    "transposed": _transposed,
    "batch_last": lambda x: x.detach().movedim(0, -1).contiguous().movedim(-1, 0),
    "expanded_batch": lambda x: x.detach()[:1].expand_as(x),
    "expanded_channels": lambda x: x.detach()[:, :1].expand_as(x),
    "expanded_pixels": lambda x: x.detach()[..., :1, :1].expand_as(x),
}
MAP_LAYOUTS = {
    "taps_outermost": lambda w: w.detach().clone(),
    # as the 1×1 convolution of a channels_last feature leaves it
    "taps_innermost": lambda w: (
        w.detach().flatten(1, 3).contiguous(memory_format=torch.channels_last).unflatten(1, w.shape[1:4])
    ),
    "expanded_positions": lambda w: w.detach()[..., :1, :1].expand_as(w),
    "sliced": _sliced,
}

"""Problems drawn from a seed, for the GPU kernels: on a GPU, or where there is none on the CPU in its place."""

import math
import random

import torch
from tolerances import assert_near

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Case:
    """A problem drawn from a seed: shapes, geometry, memory orders and a dtype."""

    def __init__(self, seed):
        draw = random.Random(seed)
        self.group_width = draw.choice((1, 2, 3, 4, 5, 8, 16, 16, 16, 20, 32, 70))
        self.groups = draw.choice((1, 1, 2, 3, 4, 5) if self.group_width <= 20 else (1, 2))
        others = [(1, 1), (2, 2), (5, 5), (7, 7), (2, 3), (1, 5), (4, 1), (9, 2), (1, 11)]
        self.kernel_size = draw.choice([(3, 3)] * 3 + others)
        self.stride = draw.choice(((1, 1), (2, 2), (1, 2), (3, 3)))
        self.dilation = draw.choice(((1, 1), (1, 1), (2, 2), (1, 3)))
        # up to borders larger than the image
        self.padding = draw.choice(((0, 0), (1, 1), (1, 1), (3, 3), (2, 0)))
        self.features = draw.choice((1, 3, 8, 16, 20))
        self.batch = draw.choice((1, 1, 1, 2))
        self.dtype = draw.choice((torch.float32, torch.float32, torch.bfloat16, torch.float16))
        self.bias = draw.random() < 0.8
        self.orders = [draw.choice(("contiguous", "channels_last", "sliced", "expanded")) for _ in range(4)]
        least = [
            (k - 1) * d + 1 - 2 * p for k, d, p in zip(self.kernel_size, self.dilation, self.padding, strict=False)
        ]
        self.input_size = [max(1, n) + draw.randrange(4) for n in least]
        self.generator = torch.Generator().manual_seed(seed)
        geometry = zip(self.input_size, self.kernel_size, self.stride, self.padding, self.dilation, strict=False)
        self.output_size = [(x + 2 * p - (k - 1) * d - 1) // s + 1 for x, k, s, p, d in geometry]

    @property
    def geometry(self):
        return list(self.stride), list(self.padding), list(self.dilation)

    def tensor(self, *size, order="contiguous"):
        tensor = torch.randn(size, generator=self.generator, dtype=torch.float64).to(self.dtype).to(DEVICE)
        if order == "channels_last":
            return tensor.contiguous(memory_format=torch.channels_last)
        if order == "expanded":
            return tensor[:1].expand(size)
        if order == "sliced":
            # amid NaN: what is read beside it shows
            wide = torch.full((*size[:-1], 2 * size[-1] + 1), math.nan, dtype=self.dtype, device=DEVICE)
            wide[..., 1::2] = tensor
            return wide[..., 1::2]
        return tensor

    @property
    def x(self):
        return self.tensor(self.batch, self.groups * self.group_width, *self.input_size, order=self.orders[0])

    @property
    def dy(self):
        return self.tensor(self.batch, self.groups * self.group_width, *self.output_size, order=self.orders[1])

    @property
    def map(self):
        size = (self.batch, self.groups * math.prod(self.kernel_size), *self.output_size)
        return self.tensor(*size, order=self.orders[2]).unflatten(1, (self.groups, *self.kernel_size))

    @property
    def generators(self):
        reduced = self.tensor(self.batch, self.features, *self.output_size, order=self.orders[3])
        span = self.tensor(self.groups, *self.kernel_size, self.features)
        return reduced, span, self.tensor(self.groups, *self.kernel_size) if self.bias else None


def close(actual, truth, dtype, roundings=2):
    assert actual.dtype == dtype
    # a generated map is rounded before it is applied, its gradient before it goes on
    assert_near(actual, truth, roundings=roundings)


def double(*tensors):
    return [t if t is None else t.double() for t in tensors]

"""Argument sets drawn from a seed, for each operator, checked against the literal loop in float64.

``python tests/ops/fuzz.py FIRST COUNT`` checks some with the kernels that the environment chooses.
"""

import random
import sys

import torch
from tolerances import DTYPES, assert_near

from involution import dynamic_involution2d, involution1d, involution2d, involution3d
from involution.ops import native, reference
from involution.ops.checks import output_size, per_side

FUNCTIONS = {1: involution1d, 2: involution2d, 3: involution3d}
# steps far beyond any image: cost and memory must be those of the output
FAR = [2**10, 2**16, 2**24, 2**30]


def sliced(t):
    larger = torch.full((*t.shape[:-1], 2 * t.shape[-1] + 1), float("nan"), dtype=t.dtype)
    larger[..., 1::2] = t.detach()
    return larger[..., 1::2]


LAYOUTS = {
    "contiguous": lambda t: t.detach().clone(),
    "channels innermost": lambda t: t.detach().movedim(1, -1).contiguous().movedim(-1, 1),
    "sliced": sliced,
    "expanded": lambda t: t.detach()[..., :1].expand_as(t),
}


class Arguments:
    """One argument set: sizes, geometry in one of its notations, dtype, layouts."""

    def __init__(self, seed):
        self.seed, draw = seed, random.Random(seed)
        self.fused = draw.random() < 0.4
        self.dims = 2 if self.fused else draw.choice([1, 2, 2, 3])
        far = draw.random() < 0.2
        many = {1: 9, 2: 5, 3: 3}[self.dims]
        self.groups = draw.choice([1, 1, 2, 3])
        self.channels = self.groups * draw.choice([0, 1, 3, 4, 8, 16, 16, 20, 32])
        self.batch = draw.choice([0, 1, 1, 2, 3])
        self.dtype = draw.choice(DTYPES)
        self.layouts = [draw.choice(list(LAYOUTS)) for _ in range(3)]
        while True:
            self.kernel = [draw.randint(1, many) for _ in range(self.dims)]
            self.stride = [
                draw.choice(FAR) if far and draw.random() < 0.5 else draw.choice([1, 1, 2, 3, 5])
            ] * self.dims
            self.dilation = [draw.choice([1, 1, 2, 3]) for _ in range(self.dims)]
            if far and draw.random() < 0.5:
                self.dilation[0] = draw.choice(FAR)
            self.size = [draw.choice([0, 1, 2, 3, 4, 5, 6]) for _ in range(self.dims)]
            self.padding = draw.choice(["same", "int", "pairs"])
            if self.padding == "int":
                self.padding = draw.choice([0, 1, 2, *([max(self.stride), max(self.dilation)] if far else [])])
            elif self.padding == "pairs":
                self.padding = tuple((draw.randint(0, 3), draw.randint(0, 3)) for _ in range(self.dims))
            sides = per_side(self.padding, self.dims, self.kernel, self.dilation)
            self.leading = [leading for leading, _ in sides]
            try:
                self.output = output_size(self.size, self.kernel, self.stride, sides, self.dilation)
            except ValueError:
                continue
            # the loop takes its time for each
            if max(self.output) <= 6 and torch.Size(self.output).numel() <= 24:
                break
        self.features = draw.choice([1, 3, 8, 17])
        self.bias, self.scale, self.shift, self.relu = (draw.random() < 0.5 for _ in range(4))

    def leaves(self):
        generator = torch.Generator().manual_seed(self.seed)

        def randn(*size, layout="contiguous"):
            values = torch.randn(size, generator=generator, dtype=torch.float64).to(self.dtype)
            return LAYOUTS[layout](values).requires_grad_()

        x = randn(self.batch, self.channels, *self.size, layout=self.layouts[0])
        if not self.fused:
            return x, randn(self.batch, self.groups, *self.kernel, *self.output, layout=self.layouts[1])
        reduced = randn(self.batch, self.features, *self.output, layout=self.layouts[1])
        span = randn(self.groups, *self.kernel, self.features), randn(self.groups, *self.kernel)
        epilogue = randn(self.channels), randn(self.channels)
        wanted = True, True, True, self.bias, self.scale, self.shift
        return tuple(t if want else None for t, want in zip((x, reduced, *span, *epilogue), wanted, strict=True))

    def call(self, x, *rest):
        geometry = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        if not self.fused:
            return FUNCTIONS[self.dims](x, *rest, **geometry)
        *generation, scale, shift = rest
        return dynamic_involution2d(x, *generation, **geometry, scale=scale, shift=shift, relu=self.relu)

    def truth(self, x, *rest):
        if not self.fused:
            return reference.loop(x, *rest, self.stride, self.leading, self.dilation)
        reduced, span, bias, scale, shift = rest
        weight = torch.einsum("guvr,nrij->nguvij", span, reduced)
        weight = weight if bias is None else weight + bias[:, :, :, None, None]
        out = reference.loop(x, weight, self.stride, self.leading, self.dilation)
        out = out if scale is None else out * scale[:, None, None]
        out = out if shift is None else out + shift[:, None, None]
        return out.relu() if self.relu else out

    def check(self):
        leaves = self.leaves()
        exact = [None if t is None else t.detach().double().requires_grad_() for t in leaves]
        # without derivatives the epilogue is part of the kernel
        with torch.no_grad():
            inference = self.call(*leaves)
        # the loop over nothing has no derivative; zero times everything has
        nothing = sum(t.sum() for t in exact if t is not None) * 0
        out, truth = self.call(*leaves), self.truth(*exact) + nothing
        # in the plain form the map and the output before the epilogue are rounded, too
        roundings = (4 if native.reason else 2) if self.fused else 1
        # what is rounded on the way in half types may cancel in the sum: its size is that of the sum without signs
        unsigned = None
        if self.fused and self.dtype.itemsize == 2:
            sizes = [None if t is None else t.detach().abs().requires_grad_() for t in exact]
            unsigned = self.truth(*sizes) + sum(t.sum() for t in sizes if t is not None) * 0
        largest = 0 if unsigned is None or not unsigned.numel() else unsigned.amax().item()
        assert_near(inference, truth.detach(), "inference", roundings, largest)
        assert_near(out.detach(), truth.detach(), "forward", roundings, largest)
        if self.relu and self.fused:
            # rounding may move an output across the kink
            return
        grad = LAYOUTS[self.layouts[2]](torch.randn_like(truth).to(self.dtype))
        names = "input", "map" if not self.fused else "reduced", "span weight", "span bias", "scale", "shift"
        wanted = [(name, t, e) for name, t, e in zip(names, leaves, exact, strict=False) if t is not None]
        grads = torch.autograd.grad(out, [t for _, t, _ in wanted], grad)
        truths = torch.autograd.grad(truth, [e for _, _, e in wanted], grad.double(), materialize_grads=True)
        on_the_way = [0.0] * len(truths)
        if unsigned is not None:
            given = [t for t in sizes if t is not None]
            found = torch.autograd.grad(unsigned, given, grad.double().abs(), materialize_grads=True)
            on_the_way = [t.amax().item() if t.numel() else 0.0 for t in found]
        for (name, *_), one, other, largest in zip(wanted, grads, truths, on_the_way, strict=True):
            assert_near(one, other, f"gradient of {name}", roundings, largest)


def check(first, count):
    """Check some argument sets and return what is wrong, a line for each."""
    wrong = []
    for seed in range(first, first + count):
        try:
            Arguments(seed).check()
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error} in {vars(Arguments(seed))}")
    return wrong


if __name__ == "__main__":
    torch.set_num_threads(2)
    # an element that nobody writes is NaN
    torch.use_deterministic_algorithms(True)
    found = check(int(sys.argv[1]), int(sys.argv[2]))
    print("\n".join(found[:20]))
    sys.exit(bool(found))

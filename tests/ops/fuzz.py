"""Argument sets drawn from a seed, for each operator, checked against the literal loop in float64.

``python tests/ops/fuzz.py FIRST COUNT`` checks some with the kernels that the environment chooses.
"""

import random
import sys

import torch
from tolerances import DTYPES, assert_within

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
        self.generator = torch.Generator().manual_seed(self.seed)

        def randn(*size, layout="contiguous"):
            values = torch.randn(size, generator=self.generator, dtype=torch.float64).to(self.dtype)
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

    def truths(self, *sets):
        # before ReLU, for several sets of leaves in one loop
        weights = [self.weight(*rest) for _, *rest in sets]
        inputs = torch.cat([x for x, *_ in sets])
        outs = reference.loop(inputs, torch.cat(weights), self.stride, self.leading, self.dilation)
        # the loop over nothing has no derivative; zero times everything has
        outs = outs + sum(t.sum() for leaves in sets for t in leaves if t is not None) * 0
        return [self.affine(out, *leaves[4:]) for out, leaves in zip(outs.tensor_split(len(sets)), sets, strict=True)]

    def weight(self, first, span=None, bias=None, *_):
        if not self.fused:
            return first
        weight = torch.einsum("guvr,nrij->nguvij", span, first)
        return weight if bias is None else weight + bias[:, :, :, None, None]

    def affine(self, out, scale=None, shift=None):
        out = out if scale is None else out * scale[:, None, None]
        return out if shift is None else out + shift[:, None, None]

    def check(self):
        leaves = self.leaves()
        # the same sums with all terms positive say how far rounding of terms may take the result
        exact, unsigned = (
            [None if t is None else of(t.detach().double()).requires_grad_() for t in leaves]
            for of in (torch.Tensor.clone, torch.Tensor.abs)
        )
        # without derivatives the epilogue is part of the kernel
        with torch.no_grad():
            inference = self.call(*leaves)
        out, (truth, size) = self.call(*leaves), self.truths(exact, unsigned)
        # Roundings on the way. The fused kernels have none; the plain form holds the map, and the output before scale
        # and shift, in the dtype, as the separate operations do. In backward it holds the map or its gradient; and for
        # the kernels, too, the scale multiplies a gradient in the dtype, before them or behind them.
        scale, shift = leaves[4:] if self.fused else (None, None)
        plain = bool(self.fused and native.reason)
        forward, backward = plain * (1 + (scale is not None or shift is not None)), plain + (scale is not None)
        relu = self.relu and self.fused
        expected = (truth.relu() if relu else truth).detach()
        for name, one in ("inference", inference), ("forward", out.detach()):
            assert_within(one, expected, size.detach(), name, forward)
        grad = torch.randn(truth.shape, generator=self.generator, dtype=torch.float64).to(self.dtype)
        grad = LAYOUTS[self.layouts[2]](grad)
        names = "input", "map" if not self.fused else "reduced", "span weight", "span bias", "scale", "shift"
        wanted = [i for i, t in enumerate(leaves) if t is not None]
        grads = torch.autograd.grad(out, [leaves[i] for i in wanted], grad)
        # rounding may move an output across the kink
        exact_grad = grad.double() * (out.detach() > 0) if relu else grad.double()
        of = [given[i] for given in (exact, unsigned) for i in wanted]
        found = torch.autograd.grad([truth, size], of, [exact_grad, exact_grad.abs()], materialize_grads=True)
        for i, one, true, size in zip(wanted, grads, found, found[len(wanted) :], strict=False):
            assert_within(one, true, size, f"gradient of {names[i]}", 0 if names[i] == "shift" else backward)


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

"""Single nodes of the contract as ONNX files, with their float64 truth, for the tests of both runtimes' libraries."""

import random

import onnx
import torch
from onnx import TensorProto, helper

from involution.export import contract
from involution.ops import reference

TYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.float64: TensorProto.DOUBLE,
}


def last(tensor):
    """[N, C, H, W] as [N, H, W, C]; a map [N, G, K_h, K_w, H_o, W_o] as [N, H_o, W_o, G, K_h, K_w]."""
    order = [0, 2, 3, 1] if tensor.dim() == 4 else [0, 4, 5, 1, 2, 3]
    return tensor.permute(order).contiguous()


class Case:
    """One call, drawn from a seed: geometry, sizes, which inputs are absent, memory order, type."""

    def __init__(self, seed, dtypes=tuple(TYPES)):
        choose = random.Random(seed).choice
        torch.manual_seed(seed)
        self.dtype = choose(dtypes)
        self.dynamic, self.channels_last = choose([True, True, False]), choose([0, 1])
        self.kernel = choose([(1, 1), (3, 3), (5, 5), (7, 7), (7, 7), (3, 5), (2, 4)])
        self.stride, self.dilation = (choose([(1, 1), (2, 2), (1, 3)]) for _ in range(2))
        self.padding = tuple(
            choose([0, d * (k - 1) // 2, d * k]) for k, d in zip(self.kernel, self.dilation, strict=True)
        )
        self.relu = choose([0, 1]) if self.dynamic else 0
        groups, batch, features = choose([1, 2, 3]), choose([0, 1, 1, 2, 3]), choose([1, 4, 17])
        channels = groups * choose([1, 4, 16, 20, 32])
        size = choose([1, 5, 9, 23]), choose([2, 7, 19])
        out = tuple(-(-x // s) for x, s in zip(size, self.stride, strict=True))
        self.inputs = {"input": torch.randn(batch, channels, *size)}
        if self.dynamic:
            self.inputs["reduced"] = torch.randn(batch, features, *out)
            self.inputs["span_weight"] = torch.randn(groups, *self.kernel, features)
            optional = {"span_bias": (groups, *self.kernel), "scale": (channels,), "shift": (channels,)}
            self.inputs |= {name: torch.randn(shape) for name, shape in optional.items() if choose([True, False])}
        else:
            self.inputs["weight"] = torch.randn(batch, groups, *self.kernel, *out)
        # exact in the type that computes
        self.inputs = {name: value.to(self.dtype).float() for name, value in self.inputs.items()}

    @property
    def op(self):
        return contract.DYNAMIC_INVOLUTION if self.dynamic else contract.INVOLUTION

    def attributes(self):
        names = contract.ATTRIBUTES[self.op]
        # the defaults are left out
        return {name: getattr(self, name) for name, default in names.items() if getattr(self, name) != default}

    def truth(self):
        """The output in float64 and the largest value on the way to it."""
        x = {name: value.double() for name, value in self.inputs.items()}
        weight = reference.span(x["reduced"], x["span_weight"], x.get("span_bias")) if self.dynamic else x["weight"]
        out = reference.composite(x["input"], weight, self.stride, self.padding, self.dilation)
        scale, shift = x.get("scale", torch.ones(())), x.get("shift", torch.zeros(()))
        largest = (out.abs().amax() if out.numel() else torch.zeros(())) * scale.abs().amax()
        out = out * scale.reshape(-1, 1, 1) + shift.reshape(-1, 1, 1)
        return (out.relu() if self.relu else out), largest.item()

    def feeds(self):
        """NumPy arrays in float32, in the node's memory order."""
        images = ("input", "reduced", "weight") if self.channels_last else ()
        return {name: (last(value) if name in images else value).numpy() for name, value in self.inputs.items()}

    def model(self, *, dims=None):
        """The node between casts: a file whose inputs are float32 and whose output is float64.

        Args:
            dims: The sizes that the file declares, by input; those of the tensors by default.
        """
        shapes = {name: value.shape for name, value in self.feeds().items()} | (dims or {})
        given = [name if name in shapes else "" for name in contract.INPUTS[self.op]]
        while not given[-1]:
            given.pop()
        casts = [helper.make_node("Cast", [name], [f"{name}_cast"], to=TYPES[self.dtype]) for name in shapes]
        node = helper.make_node(
            self.op,
            [name and f"{name}_cast" for name in given],
            ["computed"],
            domain=contract.DOMAIN,
            **self.attributes(),
        )
        wide = helper.make_node("Cast", ["computed"], ["output"], to=TensorProto.DOUBLE)
        return file(
            [*casts, node, wide],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
            [helper.make_tensor_value_info("output", TensorProto.DOUBLE, None)],
        )


class QuantisedCase:
    """One call of the node in 8 bits, drawn from a seed: geometry, odd sizes, levels, scales and the memory order."""

    def __init__(self, seed):
        choose = random.Random(seed).choice
        torch.manual_seed(seed)
        kernel = choose([3, 7, 7, 5, 1, 4])
        self.stride, dilation = choose([1, 1, 2, 3]), choose([1, 1, 1, 2])
        self.geometry = [self.stride] * 2, [choose([dilation * (kernel // 2), 0])] * 2, [dilation] * 2
        self.last, self.zero = choose([1, 1, 0]), choose([0, 0, 3, 128])
        groups, batch, features = choose([1, 2, 5]), choose([1, 1, 2]), choose([1, 4, 8, 17, 64, 132])
        channels = groups * choose([16, 16, 8, 20, 32])
        height, width = choose([1, 7, 14, 29]), choose([2, 7, 15, 28, 31])
        size = [-(-height // self.stride), -(-width // self.stride)]
        taps = groups, kernel, kernel
        self.input = torch.randint(256, (batch, channels, height, width), dtype=torch.uint8)
        self.reduced = torch.randint(256, (batch, features, *size), dtype=torch.uint8)
        span = torch.randint(-127, 128, (*taps, features), dtype=torch.int8)
        span_scale, bias = torch.rand(taps) / features / 1e4, torch.randn(taps) / 100
        weight = reference.span(self.reduced.double(), span * span_scale.double()[..., None], bias.double())
        out = reference.composite(self.input.double() - self.zero, weight, *self.geometry)
        # most levels occur, and some values exceed them
        scale = (0.5 + torch.rand(channels)) * 80 / max(float(out.std()) if out.numel() > 1 else 1.0, 1e-6)
        shift = 256 * torch.rand(channels)
        self.truth = out * scale.double().reshape(-1, 1, 1) + shift.double().reshape(-1, 1, 1)
        self.constants = [one.numpy() for one in (span, bias, scale, shift, span_scale)]

    def feeds(self):
        return [(last(one) if self.last else one).numpy() for one in (self.input, self.reduced)]

    def attributes(self):
        stride, padding, dilation = self.geometry
        geometry = {"stride": stride, "padding": padding, "dilation": dilation}
        return geometry | {"channels_last": self.last, "zero": self.zero}


def file(nodes, inputs, outputs):
    """Return an ONNX model that imports the domain."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(contract.DOMAIN, contract.VERSION)]
    return helper.make_model(helper.make_graph(nodes, "graph", inputs, outputs), opset_imports=opsets, ir_version=9)


def single(op, shapes, attributes=None, types=None):
    """Return a file of one node with float32 inputs of these sizes, None for open ones, and any attributes."""
    node = helper.make_node(op, list(shapes), ["output"], domain=contract.DOMAIN, **(attributes or {}))
    inputs = [
        helper.make_tensor_value_info(name, (types or {}).get(name, TensorProto.FLOAT), shape)
        for name, shape in shapes.items()
    ]
    return file([node], inputs, [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)])


def save(model, folder):
    """Write a model; returns the path."""
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


DYNAMIC_SHAPES = {
    "input": [1, 8, 9, 9],
    "reduced": [1, 4, 9, 9],
    "span_weight": [2, 3, 3, 4],
    "span_bias": [2, 3, 3],
    "scale": [8],
    "shift": [8],
}
STATIC_SHAPES = {"input": [1, 8, 9, 9], "weight": [1, 2, 3, 3, 9, 9]}
# attributes that no node may have, and what is said
WRONG_ATTRIBUTES = [
    ({"stride": [1]}, r"stride must be two integers; got "),
    ({"stride": [1, 1, 1]}, r"stride must be two integers; got "),
    ({"stride": [0, 1]}, r"stride must be two numbers from 1 to 2\*\*31 - 1; got \[0, 1\]"),
    ({"stride": [-1, 1]}, r"stride must be two numbers from 1 to 2\*\*31 - 1; got \[-1, 1\]"),
    ({"dilation": [1, 2**31]}, r"dilation must be two numbers from 1 to 2\*\*31 - 1; got \[1, 2147483648\]"),
    ({"dilation": [-(2**63), 1]}, r"dilation must be two numbers from 1 to"),
    ({"padding": [-1, 0]}, r"padding must be two numbers from 0 to 2\*\*31 - 1; got \[-1, 0\]"),
    ({"padding": [2**62, 0]}, r"padding must be two numbers from 0 to"),
    ({"channels_last": 5}, r"channels_last must be 0 or 1; got 5"),
    ({"relu": -1}, r"relu must be 0 or 1; got -1"),
]
# shapes that don't fit together: the node, the input that is changed, its shape, and what is said when it runs
WRONG_SHAPES = [
    (contract.DYNAMIC_INVOLUTION, "input", (8, 9, 9), r"input must have 4 dimensions, \[N, C, H, W\]; got \[8, 9, 9\]"),
    (contract.DYNAMIC_INVOLUTION, "input", (1, 7, 9, 9), r"G a divisor of C = 7; got \[2, 3, 3, 4\]"),
    (contract.DYNAMIC_INVOLUTION, "reduced", (2, 4, 9, 9), r"reduced must have N = 1 as input has"),
    (contract.DYNAMIC_INVOLUTION, "reduced", (1, 5, 9, 9), r"must have the same R"),
    (contract.DYNAMIC_INVOLUTION, "span_weight", (0, 3, 3, 4), r"G a divisor of C = 8; got \[0, 3, 3, 4\]"),
    (contract.DYNAMIC_INVOLUTION, "span_weight", (2, 3, 3, 0), r"must have the same R, 1 or more"),
    (contract.DYNAMIC_INVOLUTION, "span_weight", (2, 3, 3), r"span_weight must have 4 dimensions"),
    (
        contract.DYNAMIC_INVOLUTION,
        "span_bias",
        (18,),
        r"span_bias must be \[G, K_h, K_w\] = \[2, 3, 3\], or be left out",
    ),
    (contract.DYNAMIC_INVOLUTION, "scale", (9,), r"scale must be \[C\] = \[8\], or be left out; got \[9\]"),
    (contract.DYNAMIC_INVOLUTION, "shift", (), r"shift must be \[C\] = \[8\], or be left out; got \[\]"),
    (contract.INVOLUTION, "weight", (1, 2, 9, 9, 9), r"weight must have 6 dimensions"),
    (contract.INVOLUTION, "weight", (0, 2, 3, 3, 9, 9), r"weight must have N = 1 as input has"),
    (contract.INVOLUTION, "weight", (1, 3, 3, 3, 9, 9), r"G a divisor of C = 8"),
    (contract.INVOLUTION, "weight", (1, 2, 0, 3, 9, 9), r"with a tap at least"),
]

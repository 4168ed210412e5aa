"""Counters of operations, told of involution, count what there is to count."""

import warnings

import pytest
import torch
from torch import nn

from involution import Involution1d, Involution2d, Involution3d
from involution.nn import counting

PIXELS = 6 * 7
# proj, reduce, span and application: multiply-adds of one image
OURS = PIXELS * (8 * 32 + 32 * 8 + 8 * 2 * 25 + 32 * 25)
ALL = PIXELS * 3 * 9 * 8 + OURS


def network():
    inner = Involution2d(8, 5, out_channels=32, norm_layer=None, act_layer=None)
    inner.generator.span.bias = None
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), inner).eval()


X = torch.randn(1, 3, 6, 7)


def test_fvcore():
    fvcore = pytest.importorskip("fvcore.nn")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counter = fvcore.FlopCountAnalysis(network(), X).set_op_handle(**counting.fvcore())
        assert counter.unsupported_ops_warnings(False).total() == ALL


@pytest.mark.parametrize("backend", ["pytorch", "aten"])
def test_ptflops(backend):
    ptflops = pytest.importorskip("ptflops")
    options = {"as_strings": False, "print_per_layer_stat": False, "verbose": False, "backend": backend}
    found = ptflops.get_model_complexity_info(network(), (3, 6, 7), custom_modules_hooks=counting.ptflops(), **options)
    assert found[0] == ALL


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_thop():
    thop = pytest.importorskip("thop")
    assert thop.profile(network(), inputs=(X,), custom_ops=counting.thop(), verbose=False)[0] == ALL


class Counter:
    """As ptflops and thop: a hook on each module that they know, into which they do not look."""

    def __init__(self, name, handlers, zero):
        self.name, self.handlers, self.zero = name, {nn.Conv2d: self.convolution, **handlers}, zero

    def convolution(self, module, inputs, output):
        setattr(module, self.name, getattr(module, self.name) + output.numel() * module.weight[0].numel())

    def count(self, network, *inputs):
        for module in network.modules():
            setattr(module, self.name, self.zero())
            if type(module) in self.handlers:
                module.register_forward_hook(self.handlers[type(module)])
        for x in inputs:
            network(x)
        return self.total(network)

    def total(self, module):
        if type(module) in self.handlers:
            return float(getattr(module, self.name))
        return sum(map(self.total, module.children()))


@pytest.mark.parametrize(
    ("name", "handlers", "zero"),
    [("__flops__", counting.ptflops, int), ("total_ops", counting.thop, lambda: torch.zeros(1, dtype=torch.float64))],
    ids=["ptflops", "thop"],
)
def test_handlers_count_a_module_and_its_parts_each_time(name, handlers, zero):
    assert Counter(name, handlers(), zero).count(network(), X) == ALL
    assert Counter(name, handlers(), zero).count(network(), X, X, X) == 3 * ALL


@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:FutureWarning")
def test_handler_of_the_traced_operator():
    graph = torch.jit.trace(network(), X).inlined_graph
    (node,) = graph.findAllNodes("involution::involution2d")
    handle = counting.fvcore()["involution::involution2d"]
    assert handle(list(node.inputs()), list(node.outputs())) == PIXELS * 32 * 25


@pytest.mark.parametrize(("cls", "dims"), [(Involution1d, 1), (Involution2d, 2), (Involution3d, 3)])
def test_every_dimension_has_its_handlers(cls, dims):
    module = cls(16, 3).eval()
    module.__flops__ = 0
    out = module(torch.randn(2, 16, *[5] * dims))
    counting.ptflops()[cls](module, None, out)
    assert module.__flops__ == 2 * 16 * 5**dims * 3**dims

"""Involution out of ONNX's standard operators, beside the reference in PyTorch."""

from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tolerances import assert_near

from involution.export.contract import DOMAIN, VERSION
from involution.export.errors import ExportError
from involution.export.onnx_nodes import Nodes
from involution.export.onnx_tiles import TILES, choose_tile
from involution.export.standard_onnx import MIN_OPSET, expand
from involution.ops import dynamic, reference

DTYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
}
LEVELS = (onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL)
OPSETS = (MIN_OPSET, 17, 18, 20, 21, 23, 25)


@dataclass(frozen=True)
class Case:
    """One node: a kernel map is given, or generated from `reduced` features."""

    size: tuple = (9, 7)
    out: tuple = (9, 7)
    groups: int = 2
    depth: int = 3
    kernel: tuple = (3, 3)
    stride: tuple = (1, 1)
    padding: tuple = (1, 1)
    dilation: tuple = (1, 1)
    reduced: int | None = 4
    bias: bool = True
    scale: bool = True
    shift: bool = True
    relu: bool = True
    last: bool = False
    is_open: bool = False
    opset: int = 17
    dtype: torch.dtype = torch.float32

    @property
    def channels(self):
        return self.groups * self.depth

    @property
    def geometry(self):
        return self.stride, self.padding, self.dilation

    def parameters(self):
        torch.manual_seed(3)
        made = {"span_weight": torch.randn(self.groups, *self.kernel, self.reduced or 1)}
        made |= {"span_bias": torch.randn(self.groups, *self.kernel)} if self.bias else {}
        made |= {"scale": torch.randn(self.channels)} if self.scale else {}
        made |= {"shift": torch.randn(self.channels)} if self.shift else {}
        return {name: value.to(self.dtype) for name, value in made.items()} if self.reduced else {}

    def inputs(self, batch):
        torch.manual_seed(4)
        x = torch.randn(batch, self.channels, *self.size)
        shape = (self.reduced,) if self.reduced else (self.groups, *self.kernel)
        return x.to(self.dtype), torch.randn(batch, *shape, *self.out).to(self.dtype)

    def truth(self, x, source):
        x, source = x.double(), source.double()
        if not self.reduced:
            return torch.ops.involution.involution2d(x, source, *self.geometry)
        made = {name: value.double() for name, value in self.parameters().items()}
        kernels = reference.span(source, made["span_weight"], made.get("span_bias"))
        out = torch.ops.involution.involution2d(x, kernels, *self.geometry)
        return dynamic.affine(out, made.get("scale"), made.get("shift"), self.relu)


def to_numpy(tensor):
    # NumPy knows no bfloat16
    return tensor.float().numpy().astype(helper.tensor_dtype_to_np_dtype(DTYPES[tensor.dtype]))


def ordered(tensor, last):
    """Put the channels, and the taps of a map, last."""
    if not last:
        return tensor
    return tensor.movedim((-2, -1), (1, 2)) if tensor.dim() == 6 else tensor.movedim(1, -1)


def build(case):
    kind, names = DTYPES[case.dtype], ["input", "reduced" if case.reduced else "weight"]
    sizes = [("batch", case.channels, *case.size), ("batch", case.reduced, *case.out)]
    if not case.reduced:
        sizes[1] = ("batch", case.groups, *case.kernel, *case.out)
    if case.is_open:
        sizes = [(*sizes[0][:2], "height", "width"), (*sizes[1][:-2], "rows", "columns")]
    rank = [len(size) for size in sizes]
    orders = [(0, 2, 3, 1), (0, 2, 3, 1) if rank[1] == 4 else (0, 4, 5, 1, 2, 3)]
    if case.last:
        sizes = [tuple(size[i] for i in order) for size, order in zip(sizes, orders, strict=True)]
    inputs = [helper.make_tensor_value_info(name, kind, size) for name, size in zip(names, sizes, strict=True)]
    made = case.parameters()
    absent = ["span_weight", "span_bias", "scale", "shift"] if case.reduced else []
    options = {"stride": case.stride, "padding": case.padding, "dilation": case.dilation}
    options |= {"channels_last": int(case.last)} | ({"relu": int(case.relu)} if case.reduced else {})
    node = helper.make_node(
        "DynamicInvolution2d" if case.reduced else "Involution2d",
        names + [name if name in made else "" for name in absent],
        ["output"],
        domain=DOMAIN,
        **options,
    )
    output = helper.make_tensor_value_info("output", kind, [None] * 4)
    constants = [numpy_helper.from_array(to_numpy(value), name) for name, value in made.items()]
    return model_of([node], inputs, [output], constants, case.opset)


def model_of(nodes, inputs, outputs, constants=(), opset=17, version=VERSION, **options):
    graph = helper.make_graph(nodes, "graph", inputs, outputs, list(constants))
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, version)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10, **options)


def check(model):
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert [one.domain for one in model.opset_import] == [""]


def run(model, feeds, level=LEVELS[1]):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.intra_op_num_threads = level, 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, feeds)[0]


def feeds(case, x, source):
    named = {"input": x, "reduced" if case.reduced else "weight": source}
    return {name: to_numpy(ordered(tensor, case.last)) for name, tensor in named.items()}


def compare(case, tile=None):
    model = expand(build(case), tile=tile)
    check(model)
    for batch in (1, 3):
        x, source = case.inputs(batch)
        expected = ordered(case.truth(x, source), case.last)
        for level in LEVELS:
            found = run(model, feeds(case, x, source), level)
            assert_near(torch.from_numpy(found.astype(np.float32)).to(case.dtype), expected, f"{case}, {tile}")


def drawn(seed):
    rng = np.random.default_rng(seed)

    def whole(low, high):
        return int(rng.integers(low, high + 1))

    def pair(low, high):
        return whole(low, high), whole(low, high)

    flags = {name: bool(whole(0, 1)) for name in ("bias", "scale", "shift", "relu", "last", "is_open")}
    case = Case(
        size=pair(1, 17),
        out=pair(1, 13),
        groups=whole(1, 3),
        depth=whole(1, 5),
        kernel=pair(1, 5),
        stride=pair(1, 3),
        padding=pair(0, 4),
        dilation=pair(1, 3),
        reduced=whole(1, 5) if whole(0, 2) else None,
        opset=OPSETS[whole(0, len(OPSETS) - 1)],
        **flags,
    )
    return case, pair(1, 4) if whole(0, 1) else None


@pytest.mark.parametrize("seed", range(48))
def test_any_geometry(seed):
    compare(*drawn(seed))


RED = Case(size=(14, 14), out=(14, 14), groups=2, depth=16, kernel=(7, 7), padding=(3, 3), reduced=8)


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize(
    "case",
    [
        RED,
        replace(RED, reduced=96),
        replace(RED, reduced=None),
        replace(RED, stride=(2, 2), out=(7, 7)),
        # windows that lie outside, and more outputs than windows
        replace(RED, padding=(2**31 - 1, 40), out=(3, 60)),
        replace(RED, dilation=(2**31 - 1, 20), stride=(1, 30)),
    ],
    ids=["placed", "spread", "map", "strided", "outside", "far"],
)
def test_layers_as_in_networks(case, is_open):
    compare(replace(case, is_open=is_open))


@pytest.mark.parametrize("reduced", [4, None], ids=["generated", "map"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_types(dtype, reduced):
    case = Case(dtype=dtype, reduced=reduced)
    model = expand(build(case))
    check(model)
    assert model.graph.output[0].type.tensor_type.elem_type == DTYPES[dtype]
    x, source = case.inputs(2)
    if dtype is torch.bfloat16:
        # Python's onnxruntime takes no arrays of it
        model, given = with_float_ends(model), {k: v.astype(np.float32) for k, v in feeds(case, x, source).items()}
    else:
        given = feeds(case, x, source)
    found = torch.from_numpy(run(model, given)).to(dtype)
    assert_near(found, case.truth(x, source))


@pytest.mark.parametrize("case", [RED, replace(RED, reduced=96), Case(), Case(reduced=None, last=True)])
def test_an_empty_batch(case):
    # as in a head that is given no boxes; with open sizes onnxruntime's optimiser fails: it writes -1 for computed ones
    x, source = case.inputs(0)
    for level in LEVELS:
        found = run(expand(build(case)), feeds(case, x, source), level)
        assert found.shape == tuple(ordered(torch.empty(0, case.channels, *case.out), case.last).shape)


def with_float_ends(model):
    nodes, changed = model.graph.node, onnx.ModelProto()
    changed.CopyFrom(model)
    for one in (*changed.graph.input, *changed.graph.output):
        one.type.tensor_type.elem_type = TensorProto.FLOAT
    del changed.graph.node[:], changed.graph.value_info[:]
    names = [one.name for one in changed.graph.input]
    changed.graph.node.extend(
        helper.make_node("Cast", [name], [f"{name}_half"], to=TensorProto.BFLOAT16) for name in names
    )
    for node in nodes:
        copy = changed.graph.node.add()
        copy.CopyFrom(node)
        for i, name in enumerate(copy.input):
            copy.input[i] = f"{name}_half" if name in names else name
        copy.output[0] = copy.output[0].replace("output", "output_half")
    changed.graph.node.append(helper.make_node("Cast", ["output_half"], ["output"], to=TensorProto.FLOAT))
    return changed


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("case", [RED, replace(RED, reduced=96), Case(reduced=None, dilation=(2, 1)), Case(last=True)])
def test_openvino_reads_it(case, is_open, tmp_path):
    openvino = pytest.importorskip("openvino")
    case = replace(case, is_open=is_open)
    path = tmp_path / "model.onnx"
    onnx.save(expand(build(case)), path)
    # some processors compute in bfloat16 where nobody asks for float32
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for batch in (1, 3):
        x, source = case.inputs(batch)
        found = torch.from_numpy(compiled(feeds(case, x, source))[0])
        assert_near(found, ordered(case.truth(x, source), case.last))


def chained(names=("first", "second")):
    """Two involutions in a row, with nothing told of what lies between."""
    case = Case(out=(9, 7), reduced=None, groups=1, depth=2)
    options = {"padding": case.padding}
    taken = "involution/MatMul_1"
    nodes = [
        helper.make_node("Involution2d", ["input", "weight"], [taken], names[0], domain=DOMAIN, **options),
        helper.make_node("Relu", [taken], ["middle"]),
        helper.make_node("Involution2d", ["middle", "weight"], ["output"], names[1], domain=DOMAIN, **options),
    ]
    plain = build(case).graph
    return case, model_of(nodes, plain.input, plain.output)


def test_shapes_are_found_behind_an_involution_and_names_are_kept():
    case, model = chained()
    before = model.SerializeToString()
    expanded = expand(model)
    assert model.SerializeToString() == before
    check(expanded)
    x, weight = case.inputs(2)
    middle = case.truth(x, weight).relu()
    assert_near(torch.from_numpy(run(expanded, feeds(case, x, weight))), case.truth(middle, weight))
    # the second layer shares all constants, and the turned map
    assert len(expanded.graph.node) < 2 * len(expand(build(case)).graph.node) - 4
    arrays = [(one.data_type, tuple(one.dims), one.raw_data) for one in expanded.graph.initializer]
    assert len(arrays) == len(set(arrays))


def test_a_model_without_involutions_stays_as_it_is():
    plain = build(Case(reduced=None)).graph
    model = model_of([helper.make_node("Relu", ["input"], ["output"])], plain.input[:1], plain.output)
    check(expand(model))
    assert [node.op_type for node in expand(model).graph.node] == ["Relu"]


@pytest.mark.parametrize("computed", [False, True], ids=["folded", "computed"])
def test_the_generators_weights_may_come_from_nodes(computed):
    # torch.onnx reshapes the weight of a convolution; a network may also compute it
    case = Case(scale=False, shift=False)
    model = build(case)
    graph, weight = model.graph, case.parameters()["span_weight"]
    del graph.initializer[0]
    constants = {"flat": weight.flatten(0, 2).numpy(), "shape": np.array(weight.shape), "two": np.float32(2)}
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    nodes = [helper.make_node("Reshape", ["flat", "shape"], ["span_weight"])]
    if computed:
        nodes = [
            helper.make_node("Reshape", ["flat", "shape"], ["half"]),
            helper.make_node("ReduceMin", ["two"], ["factor"], keepdims=0),
            helper.make_node("Mul", ["half", "factor"], ["double"]),
            helper.make_node("Div", ["double", "factor"], ["span_weight"]),
        ]
    nodes += graph.node
    changed = model_of(nodes, graph.input, graph.output, graph.initializer)
    expanded = expand(changed)
    check(expanded)
    assert ("flat" in {one.name for one in expanded.graph.initializer}) == computed
    x, reduced = case.inputs(2)
    assert_near(torch.from_numpy(run(expanded, feeds(case, x, reduced))), case.truth(x, reduced))


def test_functions_are_written_out():
    case = Case(reduced=None)
    plain = build(case)
    node = plain.graph.node[0]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, VERSION)]
    layer = helper.make_function("local", "Layer", list(node.input), list(node.output), [node], imports)
    call = helper.make_node("Layer", list(node.input), list(node.output), domain="local")
    model = model_of([call], plain.graph.input, plain.graph.output, functions=[layer])
    model.opset_import.append(helper.make_opsetid("local", 1))
    expanded = expand(model)
    onnx.checker.check_model(expanded, full_check=True)
    x, weight = case.inputs(1)
    assert_near(torch.from_numpy(run(expanded, feeds(case, x, weight))), case.truth(x, weight))


def test_what_can_not_be_expanded_is_told_in_one_line():
    good = build(Case())

    def refused(match, change, model=good):
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        change(changed)
        with pytest.raises(ExportError, match=match) as told:
            expand(changed)
        assert "\n" not in str(told.value)

    def node(model):
        return model.graph.node[0]

    newest = onnx.defs.onnx_opset_version()
    refused(f"need an ONNX opset from 13 to {newest}; got 12", lambda m: setattr(m.opset_import[0], "version", 12))
    refused("domain involution must have version 1; got 2", lambda m: setattr(m.opset_import[1], "version", 2))
    refused("has Involution2d, DynamicInvolution2d; got Other", lambda m: setattr(node(m), "op_type", "Other"))
    refused("got pads$", lambda m: setattr(node(m).attribute[0], "name", "pads"))
    refused("needs reduced, but it is missing", lambda m: node(m).input.__setitem__(1, ""))
    refused("its type and shape are not known", lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"))
    refused("2 groups don't divide 5 channels", lambda m: setattr(dim(m.graph.input[0], 1), "dim_value", 5))
    refused("size 1 of input must be a number", lambda m: setattr(dim(m.graph.input[0], 1), "dim_param", "c"))
    refused("different numbers of features", lambda m: setattr(dim(m.graph.input[1], 1), "dim_value", 5))
    refused("input must have 4 dimensions", lambda m: m.graph.input[0].type.tensor_type.shape.dim.add())

    plain = build(Case(reduced=None)).graph
    body = helper.make_graph([plain.node[0]], "branch", [], plain.output)
    branch = helper.make_node("If", ["which"], ["result"], then_branch=body, else_branch=body)
    which = helper.make_tensor_value_info("which", TensorProto.BOOL, [])
    result = helper.make_tensor_value_info("result", TensorProto.FLOAT, [None] * 4)
    refused("inside a branch", lambda m: None, model_of([branch], [*plain.input, which], [result]))


def dim(value, place):
    return value.type.tensor_type.shape.dim[place]


def test_tiles_are_those_of_the_nearest_layer_made_to_fit():
    def chosen(*size, stride=1, kernel=7, dilation=1):
        return choose_tile(size, (stride, stride), (kernel, kernel), (dilation, dilation))

    for (size, stride, kernel), tile in TILES.items():
        assert chosen(size, size, stride=stride, kernel=kernel) == tile
    assert chosen(57, 56) == (4, 4)
    assert chosen(8, 8) == (1, 4)
    assert chosen(9, 3) == (1, 3)
    assert chosen(None, None) == TILES[28, 1, 7]
    assert chosen(0, 1, stride=9, kernel=1) == (1, 1)
    # with a dilation, every second output is in the same tile
    assert chosen(14, 14, dilation=2) == (2, 7)
    assert chosen(14, 14, dilation=14) == (1, 1)
    assert chosen(None, 14, dilation=2**31 - 1) == (1, 1)


def test_integers_are_folded_or_computed_alike():
    nodes = Nodes((), "x/")
    known, open_ = nodes.ints([5, 6]), nodes.size("input", 2, "height")
    assert nodes.size("other", 3, "height") is open_
    assert nodes.size("other", 3, 7).known == 7
    for kind, expected in {"__add__": [8, 9], "__sub__": [2, 3], "__mul__": [15, 18], "__floordiv__": [1, 2]}.items():
        assert getattr(known, kind)(3).known.tolist() == expected
        assert getattr(open_, kind)(3).known is None
    assert (known % 4).at_most(1).at_least(1).known.tolist() == [1, 1]
    assert nodes.take()
    assert (open_ + 3).name == (open_ + 3).name
    assert not nodes.take()

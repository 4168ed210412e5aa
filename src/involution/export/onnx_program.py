"""From a program of torch.export to an ONNX model in which each involution is one node of the contract."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import onnx
import torch
from onnx import ModelProto
from onnxscript import values
from torch.export import ExportedProgram

from involution.export.contract import (
    ATTRIBUTES,
    DOMAIN,
    DYNAMIC_INVOLUTION,
    INPUTS,
    INVOLUTION,
    OPTIONAL,
    OUTPUT,
    VERSION,
)
from involution.export.errors import ExportError
from involution.export.graph import Graph


def to_onnx(program: ExportedProgram, graph: Graph, opset: int) -> ModelProto:
    """Translate a program.

    Args:
        program: the traced graph.
        graph: what it is the program of, for the names.
        opset: version of ONNX's operators.

    Raises:
        ExportError: for an operator that ONNX can't take.
    """
    ours: Any = torch.ops.involution
    table: Any = {
        ours.involution2d.default: _applied,
        ours.dynamic_involution2d.default: _generated,
        ours.dynamic_involution2d_affine.default: _generated,
    }
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=[one.name for one in graph.inputs],
                output_names=list(graph.outputs),
                custom_translation_table=table,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"ONNX can't take this network: {_reason(error)}") from error
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    model: ModelProto = exported.model_proto  # type: ignore[union-attr]
    _take_shapes(model)
    _name_sizes(model, graph)
    return model


def _reason(error: BaseException) -> str:
    # the cause at the end of a chain names the operator
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300]


def _schema(kind: str) -> onnx.defs.OpSchema:
    parts: Any = onnx.defs.OpSchema
    option = parts.FormalParameterOption
    types = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)"]
    ints, number = parts.AttrType.INTS, parts.AttrType.INT
    return parts(
        kind,
        DOMAIN,
        VERSION,
        inputs=[
            parts.FormalParameter(name, "T", param_option=option.Optional if name in OPTIONAL else option.Single)
            for name in INPUTS[kind]
        ],
        outputs=[parts.FormalParameter(OUTPUT, "T")],
        type_constraints=[("T", types, "")],
        attributes=[
            parts.Attribute(name, ints if isinstance(default, tuple) else number, required=False)
            for name, default in ATTRIBUTES[kind].items()
        ],
    )


def _node(kind: str, *inputs: Any, **attributes: Any) -> Any:
    return values.Op(values.Opset(DOMAIN, VERSION), kind, _schema(kind))(*inputs, **attributes)


def _applied(input: Any, weight: Any, stride: Any, padding: Any, dilation: Any) -> Any:
    return _node(INVOLUTION, input, weight, stride=list(stride), padding=list(padding), dilation=list(dilation))


def _generated(
    input: Any,
    reduced: Any,
    span_weight: Any,
    span_bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    scale: Any = None,
    shift: Any = None,
    relu: bool = False,
) -> Any:
    geometry = {"stride": list(stride), "padding": list(padding), "dilation": list(dilation)}
    return _node(DYNAMIC_INVOLUTION, input, reduced, span_weight, span_bias, scale, shift, **geometry, relu=int(relu))


def _take_shapes(model: ModelProto) -> None:
    """Resize what is added to a tensor to the shape of that tensor, in place.

    The sizes are equal, but where the graph itself computes an image's size, OpenVINO 2026.4 reads them before they are
    there.
    """
    makers = {name: place for place, node in enumerate(model.graph.node) for name in node.output}
    sizes = {one.name: one.type.tensor_type.shape.SerializeToString() for one in model.graph.value_info}
    before: dict[int, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if node.op_type != "Add":
            continue
        for resized, other in (node.input, reversed(node.input)):
            place = makers.get(resized, -1)
            found = model.graph.node[place]
            there = 0 <= makers.get(other, -1) < place and sizes.get(other, 0) == sizes.get(resized, 1)
            if there and found.op_type == "Resize" and len(found.input) > 3:
                shape = onnx.helper.make_node("Shape", [other], [f"{resized}_shape"])
                before.setdefault(place, []).append(shape)
                found.input[3] = shape.output[0]
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for place, node in enumerate(nodes):
        model.graph.node.extend([*before.get(place, ()), node])


def _name_sizes(model: ModelProto, graph: Graph) -> None:
    """Give the open sizes the names that the metadata has."""
    names = {}
    for one, found in zip(graph.inputs, model.graph.input, strict=True):
        for place, name in one.open.items():
            names[found.type.tensor_type.shape.dim[place].dim_param] = name
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]

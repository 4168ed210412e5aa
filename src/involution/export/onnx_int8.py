"""8-bit models of ONNX: operators between QuantizeLinear and DequantizeLinear, as every runtime reads them.

Layers and the feature maps between them have 8 bits. These keep float32: the first layers; what the last layers write
and what is computed of it, scores and boxes, whose coordinates of hundreds of pixels 256 levels would only hold in
steps of some pixels. In a Faster R-CNN with one layer at a time in float32, the first convolution gave the feature
pyramid and what the last convolutions write 7.3 dB more signal to noise, and no other layer more than 0.22.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, NodeProto
from torch import Tensor

from involution.export.contract import DOMAIN
from involution.export.onnx_pooling import join_pooling
from involution.export.onnx_reading import reads
from involution.export.standard_onnx import expand

Inputs = Sequence[tuple[Tensor, ...]]

_LAYERS = ("Conv", "Gemm", "MatMul")
# what is worth 8 bits; an operator of another type keeps float32. A ReLU is what the lowest level of its output does
_KINDS = [*_LAYERS, "Add", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool"]


def quantise(model: ModelProto, inputs: Inputs) -> ModelProto:
    """A model with 8-bit weights, signed and per channel, and 8-bit activations, unsigned and per tensor.

    Args:
        model: of float32; involutions are nodes of the contract.
        inputs: what it is called with for each image that it is calibrated on.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    class Quantiser(QDQQuantizer):
        def quantize_activation_tensor(self, tensor_name: str) -> None:
            if tensor_name not in last:
                super().quantize_activation_tensor(tensor_name)

    model = join_pooling(model)
    last, kept = _in_float(model)
    logging.getLogger("root").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # of numpy, about scales of constants
        warnings.simplefilter("ignore")
        quantizer = Quantiser(
            model,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=_ranges(model, inputs),
            nodes_to_quantize=[],
            nodes_to_exclude=kept,
            op_types_to_quantize=_KINDS,
            extra_options={},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    found: ModelProto = quantizer.model.model
    return found


def _in_float(model: ModelProto) -> tuple[set[str], list[str]]:
    """What the last layers write, and names of the operators that keep float32."""
    weights = {one.name for one in model.graph.initializer}
    dims = {one.name: len(one.type.tensor_type.shape.dim) for one in model.graph.value_info}
    makers = {name: node for node in model.graph.node for name in node.output}

    def is_layer(node: NodeProto) -> bool:
        return node.domain == DOMAIN or (node.op_type in _LAYERS and node.input[1] in weights)

    last, kept = set(), set()
    rest = [one.name for one in model.graph.output]
    while rest:
        node = makers.get(name := rest.pop())
        # of a shape no values are read
        if node is None or node.name in kept or node.op_type in ("Shape", "Size"):
            continue
        if is_layer(node):
            last.add(name)
        else:
            kept.add(node.name)
            rest += reads(node)
    computed: set[str] = set()
    for node in model.graph.node:
        after = not computed.isdisjoint(reads(node))
        if after or is_layer(node):
            computed.update(node.output)
        # a first layer reads pixels; sums of other things than feature maps are of coordinates; a resize is a product
        small_sum = node.op_type == "Add" and dims.get(node.output[0], 4) < 4
        product = node.op_type in _LAYERS and not is_layer(node)
        if not after or small_sum or product:
            kept.add(node.name)
    return last, sorted(kept)


def _ranges(model: ModelProto, inputs: Inputs) -> Any:
    """The smallest and largest value of each tensor, from a run with standard operators alone."""
    from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator

    names = [one.name for one in model.graph.input]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(inputs)

        def get_next(self) -> dict[str, Any] | None:
            found = next(self.rest, None)
            if found is None:
                return None
            return {name: tensor.numpy(force=True) for name, tensor in zip(names, found, strict=True)}

    plain = expand(model) if any(one.domain == DOMAIN for one in model.opset_import) else model
    with tempfile.TemporaryDirectory(prefix="involution-calibration-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(plain, path)
        calibrator = create_calibrator(path, _KINDS, augmented_model_path=str(Path(folder) / "augmented.onnx"))
        calibrator.collect_data(Reader())
        return calibrator.compute_data()

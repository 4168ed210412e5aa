"""8-bit models of ONNX: operators between QuantizeLinear and DequantizeLinear, as every runtime reads them."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto
from torch import Tensor

from involution.export.contract import DOMAIN
from involution.export.onnx_pooling import join_pooling
from involution.export.standard_onnx import expand

Inputs = Sequence[tuple[Tensor, ...]]

# what is worth 8 bits; an operator of another type keeps float32. A ReLU is what the lowest level of its output does
_KINDS = ["Conv", "Gemm", "MatMul", "Add", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool"]


def quantise(model: ModelProto, inputs: Inputs) -> ModelProto:
    """A model with 8-bit weights, signed and per channel, and 8-bit activations, unsigned and per tensor.

    Args:
        model: of float32; involutions are nodes of the contract.
        inputs: what it is called with for each image that it is calibrated on.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    model = join_pooling(model)
    logging.getLogger("root").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # of numpy, about scales of constants
        warnings.simplefilter("ignore")
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=_ranges(model, inputs),
            nodes_to_quantize=[],
            nodes_to_exclude=[],
            op_types_to_quantize=_KINDS,
            extra_options={},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    found: ModelProto = quantizer.model.model
    return found


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

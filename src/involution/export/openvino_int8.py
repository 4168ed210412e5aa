"""8-bit models of OpenVINO, by NNCF's post-training quantisation."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from involution.export.openvino_involutions import measure, quantise_involutions

Inputs = Sequence[tuple[Tensor, ...]]


def quantise(model: Any, inputs: Inputs) -> tuple[Any, str]:
    """A model with 8-bit weights and activations, where OpenVINO has operators for them.

    Args:
        model: of float32.
        inputs: what it is called with for each image that it is calibrated on.

    Returns:
        The model, and how many of its involutions are in 8 bits.
    """
    import nncf
    from openvino.passes import ConstantFolding, Manager

    # span weights behind a reshape become constants
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(model)
    ranges = measure(model, inputs)
    nncf.set_log_level(logging.ERROR)
    data = nncf.Dataset(inputs, lambda tensors: [tensor.numpy(force=True) for tensor in tensors])
    # its progress bars
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        quantised = nncf.quantize(
            model,
            data,
            # unsigned numbers after a ReLU, signed ones elsewhere
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(inputs),
            # each bias by the layer's own outputs: slower, and nearer to float32
            fast_bias_correction=False,
        )
    return quantised, quantise_involutions(quantised, ranges)

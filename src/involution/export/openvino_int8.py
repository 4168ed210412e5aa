"""8-bit models of OpenVINO, by NNCF's post-training quantisation."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence
from typing import Any

from torch import Tensor

Inputs = Sequence[tuple[Tensor, ...]]


def quantise(model: Any, inputs: Inputs) -> Any:
    """A model with 8-bit weights and activations, where OpenVINO has operators for them.

    Args:
        model: of float32.
        inputs: what it is called with for each image that it is calibrated on.
    """
    import nncf

    nncf.set_log_level(logging.ERROR)
    data = nncf.Dataset(inputs, lambda tensors: [tensor.numpy(force=True) for tensor in tensors])
    # its progress bars
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return nncf.quantize(
            model,
            data,
            # unsigned numbers after a ReLU, signed ones elsewhere
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(inputs),
        )

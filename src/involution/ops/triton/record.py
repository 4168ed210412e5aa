"""The record of the GPU kernels, for CUDA (including ROCm) and XPU."""

from collections.abc import Callable
from typing import Any

from ..backends import Backend
from . import absence, dynamic_backward, dynamic_forward, forward, grad_input, grad_weight, launch

_KERNELS: dict[str, Callable[..., Any]] = {
    "involution2d": forward,
    "involution2d_grad_input": grad_input,
    "involution2d_grad_weight": grad_weight,
    "dynamic_involution2d": dynamic_forward,
    "dynamic_involution2d_affine": dynamic_forward,
    "dynamic_involution2d_backward": dynamic_backward,
}

BACKEND = Backend(
    name="triton",
    title="Triton",
    keys=("CUDA", "XPU"),
    operators=tuple(_KERNELS),
    dtypes=launch.DTYPES,
    absence=lambda: absence,
    kernels=_KERNELS,
    # not measured yet (`make bench-gpu`)
    prefers_fused=False,
    limits={
        name: f"more than {launch.MAX_FEATURES} reduced features" for name in _KERNELS if name.startswith("dynamic")
    },
)

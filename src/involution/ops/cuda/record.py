"""The record of the CUDA kernels."""

from collections.abc import Callable
from typing import Any

from ..backends import Backend
from . import DTYPES, absence, dynamic_backward, dynamic_forward, forward, grad_input, grad_weight

_KERNELS: dict[str, Callable[..., Any]] = {
    "involution2d": forward,
    "involution2d_grad_input": grad_input,
    "involution2d_grad_weight": grad_weight,
    "dynamic_involution2d": dynamic_forward,
    "dynamic_involution2d_affine": dynamic_forward,
    "dynamic_involution2d_backward": dynamic_backward,
}

BACKEND = Backend(
    name="cuda",
    title="CUDA",
    keys=("CUDA",),
    operators=tuple(_KERNELS),
    dtypes=DTYPES,
    absence=lambda: absence,
    kernels=_KERNELS,
    prefers_fused=True,
)

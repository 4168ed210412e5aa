"""The record of the plain PyTorch forms, which run wherever no other kernel does."""

from collections.abc import Callable
from typing import Any

from . import dynamic, reference
from .backends import DTYPES, Backend

_KERNELS: dict[str, Callable[..., Any]] = {
    **{f"involution{d}d": reference.shift_forward for d in (2, 3)},
    **{f"involution{d}d_grad_input": reference.shift_grad_input for d in (2, 3)},
    **{f"involution{d}d_grad_weight": reference.shift_grad_weight for d in (2, 3)},
    "dynamic_involution2d": dynamic.plain,
    "dynamic_involution2d_affine": dynamic.plain_affine,
    "dynamic_involution2d_backward": dynamic.plain_backward,
}

BACKEND = Backend(
    name="plain",
    title="plain PyTorch",
    keys=("CompositeExplicitAutograd",),
    operators=tuple(_KERNELS),
    dtypes=DTYPES,
    absence=lambda: None,
    kernels=_KERNELS,
)

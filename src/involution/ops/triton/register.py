"""Puts the GPU kernels behind the operators, for CUDA (ROCm too) and XPU; the plain forms serve what they can't."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from .. import dynamic, reference
from ..schema import LIBRARY
from . import Unsupported, dynamic_backward, dynamic_forward, forward, grad_input, grad_weight, reason

DEVICES = ("CUDA", "XPU")


def falling_back(kernel: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """Return a kernel that leaves to a plain form what it can't serve."""

    @functools.wraps(kernel)
    def served(*args: Any) -> Any:
        try:
            return kernel(*args)
        except Unsupported:
            return plain(*args)

    return served


KERNELS: dict[str, Callable[..., Any]] = {
    "involution2d": falling_back(forward, reference.shift_forward),
    "involution2d_grad_input": falling_back(grad_input, reference.shift_grad_input),
    "involution2d_grad_weight": falling_back(grad_weight, reference.shift_grad_weight),
    "dynamic_involution2d": falling_back(dynamic_forward, dynamic.plain),
    "dynamic_involution2d_affine": falling_back(dynamic_forward, dynamic.plain_affine),
    "dynamic_involution2d_backward": falling_back(dynamic_backward, dynamic.plain_backward),
}
"""What serves each operator on a GPU."""


def register() -> None:
    """Register the kernels, if triton is there."""
    if reason is not None:
        return
    for name, kernel in KERNELS.items():
        for device in DEVICES:
            LIBRARY.impl(getattr(torch.ops.involution, name).default, kernel, device)

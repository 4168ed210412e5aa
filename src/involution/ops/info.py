"""Which kernel runs each operator on this machine, and why a faster one does not."""

import torch

from .backends import Serving, serving
from .schema import OPERATORS


def served(dtype: torch.dtype = torch.float32) -> list[Serving]:
    """Return the kernel that runs each operator on the CPU and on the accelerator, if there is one."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    devices = ["cpu"] if accelerator is None else ["cpu", accelerator.type]
    return [serving(operator, device, dtype) for operator in OPERATORS for device in devices]

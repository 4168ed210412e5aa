"""Which kernel serves what on this machine, and why not the faster one."""

from dataclasses import dataclass

import torch

from . import native, triton

_OPERATORS = (
    *(f"involution{d}d{kind}" for d in (2, 3) for kind in ("", "_grad_input", "_grad_weight")),
    "dynamic_involution2d",
    "dynamic_involution2d_affine",
    "dynamic_involution2d_backward",
)
_DTYPES = "float16, bfloat16, float32, float64"


@dataclass(frozen=True)
class Served:
    """One operator on one kind of device.

    Attributes:
        operator: Name without the namespace.
        device: A device type.
        dtypes: What the kernel takes.
        kernel: Which kernel serves it.
        why_not: Why a faster kernel does not, or an empty string.
    """

    operator: str
    device: str
    dtypes: str
    kernel: str
    why_not: str


def served() -> list[Served]:
    """Return what serves each operator on the CPU and on the accelerator, if there is one."""
    rows = []
    for operator in _OPERATORS:
        has_native = torch._C._dispatch_has_kernel_for_dispatch_key(f"involution::{operator}", "CPU")
        if has_native:
            rows.append(Served(operator, "cpu", _DTYPES, f"C++ ({native.instruction_set()})", ""))
        else:
            why = native.reason or "no C++ kernel for this operator; its parts use those that there are"
            rows.append(Served(operator, "cpu", _DTYPES, "plain PyTorch", why))
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        if accelerator is not None:
            rows.append(_on_accelerator(operator, accelerator.type))
    return rows


def _on_accelerator(operator: str, device: str) -> Served:
    if torch._C._dispatch_has_kernel_for_dispatch_key(f"involution::{operator}", device.upper()):
        dtypes = ", ".join(str(dtype).removeprefix("torch.") for dtype in triton.launch.DTYPES)
        limit = f", more than {triton.launch.MAX_FEATURES} reduced features" if "dynamic" in operator else ""
        return Served(operator, device, dtypes, "Triton", f"plain PyTorch serves float64{limit}")
    why = triton.reason or f"no {device} kernel for this operator"
    return Served(operator, device, _DTYPES, "plain PyTorch", why)

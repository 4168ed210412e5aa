"""Finds and loads the C++ library of CPU kernels, and remembers why it could not.

The library is optional: where it is missing the plain forms serve, and the first call on the CPU warns once.
``INVOLUTION_NATIVE=0`` does without it in silence; with ``INVOLUTION_NATIVE=1`` a missing library is an error.
``INVOLUTION_CPU=avx512|avx2|baseline`` chooses the instruction set, which is otherwise the best that the processor has.
"""

import ctypes
import functools
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

LIBRARY_PATH = Path(__file__).with_name("libinvolution_cpu.so")
_SWITCH = "INVOLUTION_NATIVE"

# why the library is not loaded; None where it is
reason: str | None = "not looked for yet"


class NativeKernelWarning(UserWarning):
    """The C++ kernels are missing, so the CPU is served by the slower plain form."""


def load() -> None:
    """Load the library, which registers its kernels for the CPU; afterwards `reason` says why not, or is None."""
    global reason
    switch = os.environ.get(_SWITCH, "")
    if switch not in ("", "0", "1"):
        raise ValueError(f"{_SWITCH} must be 0 (never), 1 (always) or unset (where they are); got {switch!r}")
    if switch == "0":
        reason = f"{_SWITCH}=0"
    elif not LIBRARY_PATH.exists():
        reason = (
            "this installation has no compiled library: "
            "INVOLUTION_BUILD_NATIVE=1 pip install --no-build-isolation . builds it, or says why it can't"
        )
    else:
        try:
            torch.ops.load_library(str(LIBRARY_PATH))
            reason = None
        except OSError as error:
            reason = f"{LIBRARY_PATH} does not load: {error}"


def instruction_set() -> str | None:
    """Return the name of the instruction set in use, or None without the library."""
    if reason is not None:
        return None
    name = ctypes.CDLL(str(LIBRARY_PATH)).involution_instruction_set
    name.restype = ctypes.c_char_p
    return name().decode()


_told = False


def announced(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Return a plain form that tells once, before it serves the CPU, that and why the C++ kernels don't.

    With ``INVOLUTION_NATIVE=1`` it raises `RuntimeError` instead.
    """

    @functools.wraps(plain)
    def kernel(tensor: torch.Tensor, *args: Any) -> Any:
        if reason is not None and tensor.device.type == "cpu":
            _missing()
        return plain(tensor, *args)

    return kernel


def _missing() -> None:
    global _told
    switch = os.environ.get(_SWITCH)
    if switch == "1":
        raise RuntimeError(f"{_SWITCH}=1, but there are no C++ kernels: {reason}")
    if switch != "0" and not _told:
        _told = True
        warnings.warn(
            f"involution's C++ kernels are missing, and the CPU is slower without them: {reason}",
            NativeKernelWarning,
            stacklevel=3,
        )

"""Finds and loads the C++ library of CPU kernels, and remembers why it could not.

The library is optional: without it the plain forms run, and the first call on the CPU warns once. With
``INVOLUTION_NATIVE=0`` it is not used and nothing warns; with ``INVOLUTION_NATIVE=1`` a missing library is an error.
``INVOLUTION_CPU`` chooses the instruction set, which is otherwise the best one the processor has.
"""

import ctypes
from pathlib import Path

import torch

from .backends import DTYPES, Absence, Backend, missing, switch, wrong_value
from .schema import OPERATORS

LIBRARY_PATH = Path(__file__).with_name("libinvolution_cpu.so")
_SWITCH = "INVOLUTION_NATIVE"
_CHOICE = "INVOLUTION_CPU"

_absence: Absence | None = Absence("not looked for yet")
reason: str | None = "not looked for yet"
"""Why the library is not loaded; None if it is."""


def load() -> None:
    """Load the library, which registers its kernels for the CPU; `reason` then says why it failed, or is None."""
    global reason, _absence
    _absence = switch(_SWITCH) or _load()
    reason = None if _absence is None else _absence.reason


def _load() -> Absence | None:
    if not LIBRARY_PATH.exists():
        return missing(
            _SWITCH,
            "this installation has no compiled library: "
            "INVOLUTION_BUILD_NATIVE=1 pip install --no-build-isolation . builds it, or says why it can't",
        )
    try:
        torch.ops.load_library(str(LIBRARY_PATH))
    except OSError as error:
        return missing(_SWITCH, f"{LIBRARY_PATH} does not load: {error}")
    if _asked("involution_instruction_set") is None:
        return wrong_value(_CHOICE, f"one of {', '.join(instruction_sets())} of this library on this processor")
    return None


def instruction_set() -> str | None:
    """Return the name of the instruction set in use, or None without the library."""
    return None if reason is not None else _asked("involution_instruction_set")


def instruction_sets() -> list[str]:
    """Return the names of those in the library that this processor can run, best first; needs the library."""
    return (_asked("involution_instruction_sets") or "").split(", ")


def _asked(question: str) -> str | None:
    function = getattr(ctypes.CDLL(str(LIBRARY_PATH)), question)
    function.restype = ctypes.c_char_p
    answer = function()
    return None if answer is None else answer.decode()


BACKEND = Backend(
    name="native",
    title="C++",
    keys=("CPU",),
    operators=OPERATORS,
    dtypes=DTYPES,
    absence=lambda: _absence,
    # measured (`make bench-cpu`): at nearly every stage of RedNet, in inference and in training
    prefers_fused=True,
    variant=instruction_set,
)

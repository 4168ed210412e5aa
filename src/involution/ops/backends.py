"""One record for each backend, and what follows from the records.

A backend is a set of kernels: for some of the operators, on some devices, in some dtypes. Its record is all that the
rest of the package knows of it. `register` puts its kernels behind the operators, `serving` says which one serves a
call and why no faster one does, `prefers_fused` decides which of its two ways a module goes. The last backend that was
registered comes first; the first, plain PyTorch, serves whatever is left.

A backend is added by one record and one call of `register`: see ``involution/ops/__init__.py``.
"""

import contextlib
import difflib
import functools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from .schema import LIBRARY, OPERATORS

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What the operators take."""

_EVERYWHERE = "CompositeExplicitAutograd"


class BackendError(RuntimeError, ValueError):
    """A backend was asked for that is not here, or its environment variable has a wrong value."""


class BackendWarning(UserWarning):
    """A slower kernel serves than could."""


class Unsupported(Exception):
    """Raised by a kernel that can't serve a call, with the reason; the plain form serves it then."""


@dataclass(frozen=True)
class Absence:
    """Why a backend's kernels are not here.

    Attributes:
        reason: In a few words.
        consequence: Of a call that they would have served: the plain form serves it in silence, or after one warning,
            or there is an error.
    """

    reason: str
    consequence: Literal["silence", "warning", "error"] = "warning"


@dataclass(frozen=True)
class Backend:
    """What there is to know about a set of kernels.

    Attributes:
        name: Short, for file names and columns: ``"native"``.
        title: For people: ``"C++"``.
        keys: Dispatch keys of its devices, such as ``"CPU"`` or ``"CUDA"``.
        operators: Those that it has kernels for, names without the namespace.
        dtypes: What its kernels take; the plain form serves the others.
        absence: Why it is not here, or None where it is.
        kernels: Its kernels by operator. None where a library of its own registers them.
        prefers_fused: Whether generating and applying kernels at once is faster than one after the other. To be
            measured, not guessed.
        variant: Which of its variants runs here, such as the instruction set, if there are several.
        limits: What it leaves to the plain form beside other dtypes, by operator, in a few words.
    """

    name: str
    title: str
    keys: tuple[str, ...]
    operators: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    absence: Callable[[], Absence | None]
    kernels: Mapping[str, Callable[..., Any]] | None = None
    prefers_fused: bool = False
    variant: Callable[[], str | None] = lambda: None
    limits: Mapping[str, str] = field(default_factory=dict)

    def why_not(self, operator: str, dtype: torch.dtype) -> str | None:
        """Return why it does not serve an operator in a dtype on its devices, or None if it does."""
        absence = self.absence()
        if absence is not None:
            return absence.reason
        if operator not in self.operators:
            return f"no {self.title} kernel for this operator"
        if dtype not in self.dtypes:
            return f"the {self.title} kernels do not take {_name(dtype)}"
        return None


@dataclass(frozen=True)
class Serving:
    """Which kernel serves an operator on one kind of device, in one dtype.

    Attributes:
        operator: Name without the namespace.
        device: Type of the device.
        dtype: Of the tensors.
        backend: Name of the backend: ``"native"``, ``"triton"``, ``"plain"``.
        kernel: For people: ``"C++ (avx512)"``, ``"Triton"``, ``"plain PyTorch"``.
        tag: For file names and columns: ``"avx512"``, ``"triton"``, ``"plain"``.
        why_not: Why no faster kernel does, or what the kernel leaves to the plain form; or an empty string.
    """

    operator: str
    device: str
    dtype: torch.dtype
    backend: str
    kernel: str
    tag: str
    why_not: str


BACKENDS: dict[str, Backend] = {}
"""All that are registered, by name."""

# device type -> dtypes in which modules prefer the fused operator there; a plain table, so that torch.compile can look
# into it
_fused: dict[str, frozenset[torch.dtype]] = {}
_chosen: bool | None = None
_told: set[tuple[str, str]] = set()


def register(backend: Backend) -> None:
    """Add a backend, and put its kernels behind the operators if it is here.

    Raises:
        ValueError: If one of that name is there already.
    """
    if backend.name in BACKENDS:
        raise ValueError(f"there is a backend named {backend.name!r} already; give this one another name")
    BACKENDS[backend.name] = backend
    if backend.absence() is not None:
        return
    for operator, kernel in (backend.kernels or {}).items():
        overload = getattr(torch.ops.involution, operator).default
        for key in backend.keys:
            LIBRARY.impl(overload, wrapped(backend, operator, kernel), key)
    for device in (key.lower() for key in backend.keys if key != _EVERYWHERE):
        _fused[device] = frozenset(
            dtype for dtype in DTYPES if BACKENDS[serving("dynamic_involution2d", device, dtype).backend].prefers_fused
        )


def serving(operator: str, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Serving:
    """Say which kernel serves an operator.

    Args:
        operator: Name without the namespace, such as ``"involution2d_grad_input"``; of the gradients, too.
        device: A device or its type; it need not be here.
        dtype: Of the tensors.

    Raises:
        ValueError: If there is no such operator, or none takes that dtype.

    Example:
        >>> serving("involution3d", "mps").kernel
        'plain PyTorch'
    """
    # sequences are images of one row
    name = operator.replace("involution1d", "involution2d", 1)
    if name not in OPERATORS:
        close = difflib.get_close_matches(operator, OPERATORS, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(OPERATORS)}"
        raise ValueError(f"no operator is called {operator!r}; {hint}")
    if dtype not in DTYPES:
        raise ValueError(f"no kernel takes {_name(dtype)}; use one of {', '.join(map(_name, DTYPES))}")
    kind = torch.device(device).type
    reasons: list[str] = []
    for backend in _candidates(kind):
        reason = backend.why_not(name, dtype)
        if reason is None:
            variant = backend.variant()
            kernel = f"{backend.title} ({variant})" if variant else backend.title
            why_not = "; ".join(reasons) or _limits(backend, name)
            return Serving(operator, kind, dtype, backend.name, kernel, variant or backend.name, why_not)
        reasons.append(reason)
    raise ValueError(f"no kernel serves {operator} on {kind}: {'; '.join(reasons)}")


def prefers_fused(device: torch.device, dtype: torch.dtype) -> bool:
    """Decide whether a module calls the fused operator, where nobody can tell the difference but by time."""
    return dtype in _fused.get(device.type, ()) if _chosen is None else _chosen


@contextlib.contextmanager
def choose_fused(fused: bool | None) -> Iterator[None]:
    """Within the context, let modules run fused (True), or unfused (False), or as it is faster (None)."""
    global _chosen
    before, _chosen = _chosen, fused
    try:
        yield
    finally:
        _chosen = before


def switch(variable: str) -> Absence | None:
    """Read a backend's environment variable: 0 for never, 1 for always, nothing for where it is.

    Returns:
        Why the variable keeps the backend away, or None. A wrong value is told at once, and an error at the first call.
    """
    value = os.environ.get(variable, "")
    if value == "0":
        return Absence(f"{variable}=0", "silence")
    return None if value in ("", "1") else wrong_value(variable, "0 (never), 1 (always) or unset (where it is)")


def wrong_value(variable: str, wanted: str) -> Absence:
    """Tell that an environment variable has a wrong value, in one line, and return that as a reason."""
    reason = f"{variable} must be {wanted}; got {os.environ[variable]!r}"
    # as of a line that can't be shown: one that can would be printed below
    warnings.warn_explicit(reason, BackendWarning, "involution", 1)
    return Absence(reason, "error")


def missing(variable: str, reason: str) -> Absence:
    """Return a reason that is an error where the environment variable asks for the backend."""
    if os.environ.get(variable) == "1":
        return Absence(f"{variable}=1, but {reason}", "error")
    return Absence(reason)


def wrapped(backend: Backend, operator: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Return a kernel that leaves to the plain form what it can't serve, and does not keep the reason to itself."""
    if _EVERYWHERE in backend.keys:
        return _announced(operator, kernel)
    kernels = BACKENDS["plain"].kernels
    assert kernels is not None
    plain = kernels[operator]

    @functools.wraps(kernel)
    def served(tensor: torch.Tensor, *args: Any) -> Any:
        if tensor.dtype not in backend.dtypes:
            reason = f"the {backend.title} kernels do not take {_name(tensor.dtype)}"
        else:
            try:
                return kernel(tensor, *args)
            except Unsupported as refusal:
                reason = str(refusal)
        # there is nothing slow about an empty tensor
        if tensor.numel():
            _tell(backend.name, f"{operator}: {reason}")
        return plain(tensor, *args)

    return served


def _announced(operator: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def served(tensor: torch.Tensor, *args: Any) -> Any:
        for backend in _candidates(tensor.device.type):
            absence = backend.absence() if operator in backend.operators else None
            if absence is not None and absence.consequence == "error":
                raise BackendError(absence.reason)
            if absence is not None and absence.consequence == "warning":
                _tell(backend.name, f"the {backend.title} kernels are missing: {absence.reason}")
        return plain(tensor, *args)

    return served


def _tell(backend: str, reason: str) -> None:
    if (backend, reason) not in _told:
        _told.add((backend, reason))
        warnings.warn(f"plain PyTorch serves, which is slower: {reason}", BackendWarning, stacklevel=3)


def _candidates(device: str) -> Iterator[Backend]:
    # the last to be registered is the one that the dispatcher calls
    key = device.upper()
    return (b for b in reversed(BACKENDS.values()) if key in b.keys or _EVERYWHERE in b.keys)


def _limits(backend: Backend, operator: str) -> str:
    left = [_name(dtype) for dtype in DTYPES if dtype not in backend.dtypes]
    left += [backend.limits[operator]] if operator in backend.limits else []
    return f"plain PyTorch serves {', '.join(left)}" if left else ""


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

"""One record for each backend, and everything that is derived from the records.

A backend is a set of kernels for some of the operators, devices and dtypes. Its record is all that the rest of the
package knows about it. `register` registers its kernels for the operators, `serving` says which kernel runs a call and
why no faster one does, and `prefers_fused` decides which of its two paths a module takes. The backend registered last
has priority; the first one, plain PyTorch, handles whatever is left.

To add a backend, write one record and register it: see ``involution/ops/__init__.py``.
"""

import contextlib
import difflib
import functools
import itertools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from .schema import LIBRARY, OPERATORS

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""The dtypes that the operators accept."""

_EVERYWHERE = "CompositeExplicitAutograd"


class BackendError(RuntimeError, ValueError):
    """A requested backend is unavailable, or its environment variable has an invalid value."""


class BackendWarning(UserWarning):
    """A slower kernel runs than could."""


class Unsupported(Exception):
    """Raised, with the reason, by a kernel that can't handle a call; the plain form then handles it."""


@dataclass(frozen=True)
class Absence:
    """Why a backend's kernels are unavailable.

    Attributes:
        reason: In a few words.
        consequence: For a call they would have handled: the plain form runs silently, or after one warning, or the
            call is an error.
    """

    reason: str
    consequence: Literal["silence", "warning", "error"] = "warning"


@dataclass(frozen=True)
class Backend:
    """Everything there is to know about a set of kernels.

    Attributes:
        name: Short, for file names and columns: ``"native"``.
        title: For display: ``"C++"``.
        keys: Dispatch keys of its devices, such as ``"CPU"`` or ``"CUDA"``.
        operators: The operators it has kernels for, names without the namespace.
        dtypes: What its kernels accept; the plain form handles the others.
        absence: Why it is unavailable, or None if it is available.
        kernels: Its kernels by operator. None if a separate library registers them.
        prefers_fused: Whether generating and applying kernels in one pass is faster than one after the other. Measure
            it; don't guess.
        variant: Which of its variants runs here, such as the instruction set, if there are several.
        limits: What else it leaves to the plain form, by operator, in a few words.
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
        """Return why it does not run an operator in a dtype on its devices, or None if it does."""
        absence = self.absence()
        if absence is not None:
            return absence.reason
        if operator not in self.operators:
            return f"no {self.title} kernel for this operator"
        if dtype not in self.dtypes:
            return f"the {self.title} kernels do not support {_name(dtype)}"
        return None


@dataclass(frozen=True)
class Serving:
    """Which kernel runs an operator on one kind of device, in one dtype.

    Attributes:
        operator: Name without the namespace.
        device: Type of the device.
        dtype: Dtype of the tensors.
        backend: Name of the backend: ``"native"``, ``"triton"``, ``"plain"``.
        kernel: For display: ``"C++ (avx512)"``, ``"Triton"``, ``"plain PyTorch"``.
        tag: For file names and columns: ``"avx512"``, ``"triton"``, ``"plain"``.
        why_not: Why no faster kernel runs, or what the kernel leaves to the plain form, or an empty string.
    """

    operator: str
    device: str
    dtype: torch.dtype
    backend: str
    kernel: str
    tag: str
    why_not: str


BACKENDS: dict[str, Backend] = {}
"""All registered backends, by name."""

# device type -> dtypes in which modules prefer the fused operator there; a plain table, which torch.compile can read
_fused: dict[str, frozenset[torch.dtype]] = {}
_chosen: bool | None = None
_told: set[tuple[str, str]] = set()


def register(backend: Backend) -> None:
    """Add a backend, and register its kernels if it is available.

    Raises:
        ValueError: If there is already one with that name.
    """
    if backend.name in BACKENDS:
        raise ValueError(f"there is already a backend named {backend.name!r}; choose another name")
    BACKENDS[backend.name] = backend
    if backend.absence() is not None:
        return
    for operator, kernel in (backend.kernels or {}).items():
        overload = getattr(torch.ops.involution, operator).default
        for key in backend.keys:
            _implement(overload, wrapped(backend, operator, kernel), key)
    for device in (key.lower() for key in backend.keys if key != _EVERYWHERE):
        _fused[device] = frozenset(
            dtype for dtype in DTYPES if BACKENDS[serving("dynamic_involution2d", device, dtype).backend].prefers_fused
        )


def _implement(overload: Any, kernel: Callable[..., Any], key: str) -> None:
    with warnings.catch_warnings():
        # PyTorch's own, where a slower backend's kernel is replaced
        warnings.filterwarnings("ignore", "Warning only once for all operators", UserWarning)
        LIBRARY.impl(overload, kernel, key, allow_override=True)


def serving(operator: str, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Serving:
    """Return which kernel runs an operator.

    Args:
        operator: Name without the namespace, including gradients such as ``"involution2d_grad_input"``.
        device: A device or its type; it need not exist on this machine.
        dtype: Dtype of the tensors.

    Raises:
        ValueError: If there is no such operator, or no kernel accepts that dtype.

    Example:
        >>> serving("involution3d", "mps").kernel
        'plain PyTorch'
    """
    # a sequence is an image with one row
    name = operator.replace("involution1d", "involution2d", 1)
    if name not in OPERATORS:
        close = difflib.get_close_matches(operator, OPERATORS, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(OPERATORS)}"
        raise ValueError(f"no operator is called {operator!r}; {hint}")
    if dtype not in DTYPES:
        raise ValueError(f"no kernel supports {_name(dtype)}; use one of {', '.join(map(_name, DTYPES))}")
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
    raise ValueError(f"no kernel runs {operator} on {kind}: {'; '.join(reasons)}")


def prefers_fused(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether a module should call the fused operator, if both paths give the same result."""
    return dtype in _fused.get(device.type, ()) if _chosen is None else _chosen


def fused_is_chosen() -> bool:
    """Return whether `choose_fused` demands the fused operator."""
    return _chosen is True


@contextlib.contextmanager
def choose_fused(fused: bool | None) -> Iterator[None]:
    """Make modules run fused (True), unfused (False), or whichever is faster (None), inside the context.

    What torch.export and torch.jit.trace record inside it is one operator for each module with True, its kernel
    generator and the plain operator otherwise.

    Example:
        >>> from involution import Involution2d
        >>> module = Involution2d(16, 7).eval()
        >>> with choose_fused(True):
        ...     program = torch.export.export(module, (torch.rand(1, 16, 9, 9),))
        >>> any(node.target is torch.ops.involution.dynamic_involution2d.default for node in program.graph.nodes)
        True
    """
    global _chosen
    before, _chosen = _chosen, fused
    try:
        yield
    finally:
        _chosen = before


def switch(variable: str) -> Absence | None:
    """Read a backend's environment variable: 0 for never, 1 for always, unset to use it if available.

    Returns:
        Why the variable disables the backend, or None. An invalid value warns now and is an error at the first call.
    """
    value = os.environ.get(variable, "")
    if value == "0":
        return Absence(f"{variable}=0", "silence")
    return None if value in ("", "1") else wrong_value(variable, "0 (never), 1 (always) or unset (if available)")


def wrong_value(variable: str, wanted: str) -> Absence:
    """Warn in one line that an environment variable has an invalid value, and return that as a reason."""
    reason = f"{variable} must be {wanted}; got {os.environ[variable]!r}"
    # with a location that has no source line, which would be printed below
    warnings.warn_explicit(reason, BackendWarning, "involution", 1)
    return Absence(reason, "error")


def missing(variable: str, reason: str) -> Absence:
    """Return a reason that is an error if the environment variable demands the backend."""
    if os.environ.get(variable) == "1":
        return Absence(f"{variable}=1, but {reason}", "error")
    return Absence(reason)


def wrapped(backend: Backend, operator: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Return a kernel that leaves to the plain form what it can't handle, and reports the reason."""
    if _EVERYWHERE in backend.keys:
        return _announced(operator, kernel)
    plain, next_best = _below(backend, operator)

    @functools.wraps(kernel)
    def served(tensor: torch.Tensor, *args: Any) -> Any:
        if tensor.dtype not in backend.dtypes:
            reason = f"the {backend.title} kernels do not support {_name(tensor.dtype)}"
        else:
            try:
                return kernel(tensor, *args)
            except Unsupported as refusal:
                reason = str(refusal)
        # an empty tensor is never slow
        if plain and tensor.numel():
            _tell(backend.name, f"{operator}: {reason}")
        return next_best(tensor, *args)

    return served


def _below(backend: Backend, operator: str) -> tuple[bool, Callable[..., Any]]:
    """Return whether the plain form runs what a backend can't handle, and what runs it."""
    before = itertools.takewhile(lambda other: other is not backend, BACKENDS.values())
    for other in reversed(list(before)):
        kernel = (other.kernels or {}).get(operator)
        if kernel is not None and set(other.keys) & set(backend.keys) and other.absence() is None:
            return False, wrapped(other, operator, kernel)
    return True, (BACKENDS["plain"].kernels or {})[operator]


def _announced(operator: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def served(tensor: torch.Tensor, *args: Any) -> Any:
        for value in (tensor, *args):
            _require_memory(value)
        for backend in _candidates(tensor.device.type):
            absence = backend.absence() if operator in backend.operators else None
            if absence is not None and absence.consequence == "error":
                raise BackendError(absence.reason)
            if absence is not None and absence.consequence == "warning":
                _tell(backend.name, f"the {backend.title} kernels are missing: {absence.reason}")
        return plain(tensor, *args)

    return served


def _require_memory(value: Any) -> None:
    # where a storage was given back by resize_(0), most of PyTorch's own kernels end the process
    real = isinstance(value, torch.Tensor) and value.device.type in ("cpu", "cuda", "xpu")
    if real and value.numel() and not value.untyped_storage().nbytes():
        raise RuntimeError("involution: a tensor's data is not allocated; its storage was resized")


def _tell(backend: str, reason: str) -> None:
    if (backend, reason) not in _told:
        _told.add((backend, reason))
        warnings.warn(f"using plain PyTorch, which is slower: {reason}", BackendWarning, stacklevel=3)


def _candidates(device: str) -> Iterator[Backend]:
    # the dispatcher calls the one registered last
    key = device.upper()
    return (b for b in reversed(BACKENDS.values()) if key in b.keys or _EVERYWHERE in b.keys)


def _limits(backend: Backend, operator: str) -> str:
    left = [_name(dtype) for dtype in DTYPES if dtype not in backend.dtypes]
    left += [backend.limits[operator]] if operator in backend.limits else []
    return f"plain PyTorch handles {', '.join(left)}" if left else ""


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

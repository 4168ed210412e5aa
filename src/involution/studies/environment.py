"""What a process that measures needs in its environment before it starts, and which kernels it then measures."""

import os
import sys

import torch

from ..ops import native, triton

# glibc gives large tensors back to the system at each call, and their fresh pages would be most of what is timed;
# the profiler behind the memory figures would log each start and stop
ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "KINETO_LOG_LEVEL": "6",
}


def start_for_measuring() -> None:
    """Start this process anew, with the same arguments, unless `ENVIRONMENT` is set already.

    The allocator and the profiler read it only when a process starts.
    """
    missing = {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
    if missing:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **missing})


def kernels() -> str:
    """Return which kernels serve on the GPU, or without one on the CPU: ``triton``, ``avx512`` and so on, ``plain``."""
    if torch.cuda.is_available():
        return "plain" if triton.reason else "triton"
    return native.instruction_set() or "plain"


def out_of_memory(error: RuntimeError) -> bool:
    """Say whether an allocator found no room; the CPU's has no class of its own for it."""
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)

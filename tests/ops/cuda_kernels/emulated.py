"""The CUDA kernels as a program for the CPU, one thread after the other: for tests where there is no GPU."""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

from involution.ops.cuda import compiler

COMPILER = shutil.which("g++") or shutil.which("clang++")
FLAGS = ["-x", "c++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
# directives of NVRTC; what is not wanted is not read, and then not used, which this compiler can't know
FLAGS += [
    "-Wno-unknown-pragmas",
    "-Wno-maybe-uninitialized",
    "-Wno-uninitialized",
    "-Wno-unused-function",
    "-Wno-unused-parameter",
]


@functools.cache
def _folder():
    return tempfile.TemporaryDirectory(prefix="involution-cuda-")


@functools.cache
def library(constants, *more):
    """Return the kernels compiled with their constants, and with more of the compiler's options."""
    path = Path(_folder().name) / f"{abs(hash((constants, more)))}.so"
    flags = [*FLAGS, f"-I{Path(__file__).parent}", *more, *compiler.options(constants)]
    subprocess.run([COMPILER, *flags, str(compiler.source(constants)), "-o", str(path)], check=True)
    return ctypes.CDLL(str(path))


def run(constants, args, device):
    """Run a kernel, in place of `involution.ops.cuda.run`."""
    built = library(constants)
    of = dict(constants)
    kernel = ctypes.cast(getattr(built, compiler.KERNELS[of["KERNEL_NUMBER"]]), ctypes.c_void_p)
    built.run(kernel, ctypes.byref(args), -(-args.threads // of["THREADS"]))

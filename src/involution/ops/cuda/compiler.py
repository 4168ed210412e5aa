"""Compiles the kernels at run time with NVRTC, which comes with PyTorch's CUDA builds, and launches its kernels."""

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch

from ..backends import Unsupported

FOLDER = Path(__file__).parent
KERNELS = ("forward", "grad_input", "grad_weight", "pack", "fused")

Constants = tuple[tuple[str, int], ...]
"""What a kernel is compiled with, by name."""

_POINTERS = ("x", "w", "out", "scale", "shift", "span", "bias")
_LONGS = ("x_n", "w_n", "out_n")
_INTS = (
    *("x_h", "w_h", "out_h", "map_w", "map_g", "map_u", "map_v"),
    *("height", "width", "out_height", "out_width", "band", "tiles", "bands", "images", "each"),
)


class Args(ctypes.Structure):
    """The kernels' only argument, as common.h declares it."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_longlong) for name in _LONGS),
        *((name, ctypes.c_int) for name in _INTS),
        ("threads", ctypes.c_uint),
        ("relu", ctypes.c_int),
    )


def source(constants: Constants) -> Path:
    """Return the file that has a kernel."""
    return FOLDER / ("fused.cu" if KERNELS[dict(constants)["KERNEL_NUMBER"]] == "fused" else "kernels.cu")


def options(constants: Constants) -> list[str]:
    """Return a compiler's options that define the constants."""
    return [f"-D{name}={value}" for name, value in constants]


def compile_to_cubin(constants: Constants, architecture: str) -> bytes:
    """Compile for an architecture such as ``"sm_90"``; needs no GPU.

    Raises:
        RuntimeError: With the compiler's log.
    """
    from cuda.bindings import nvrtc

    def checked(result: Any, *values: Any) -> Any:
        if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise RuntimeError(f"NVRTC: {result.name}")
        return values[0] if values else None

    path = source(constants)
    headers = [(FOLDER / "common.h").read_bytes()], [b"common.h"]
    program = checked(*nvrtc.nvrtcCreateProgram(path.read_bytes(), path.name.encode(), 1, *headers))
    flags = [f"--gpu-architecture={architecture}", "--std=c++17", *options(constants)]
    (result,) = nvrtc.nvrtcCompileProgram(program, len(flags), [flag.encode() for flag in flags])
    if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = b" " * checked(*nvrtc.nvrtcGetProgramLogSize(program))
        nvrtc.nvrtcGetProgramLog(program, log)
        raise RuntimeError(f"{path.name} does not compile for {architecture}: {log.decode()}")
    cubin = b" " * checked(*nvrtc.nvrtcGetCUBINSize(program))
    checked(*nvrtc.nvrtcGetCUBIN(program, cubin))
    nvrtc.nvrtcDestroyProgram(program)
    return cubin


@functools.cache
def function(constants: Constants, device: int) -> Any:
    """Return a kernel on a device, compiled by its first call."""
    from cuda.bindings import driver

    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        raise Unsupported(f"compute capability {major}.{minor}: the CUDA kernels need 8.0")
    cubin = compile_to_cubin(constants, f"sm_{major}{minor}")
    module = _checked(*driver.cuModuleLoadData(cubin))
    of = dict(constants)
    kernel = _checked(*driver.cuModuleGetFunction(module, KERNELS[of["KERNEL_NUMBER"]].encode()))
    shared = of.get("SHARED", 0)
    if shared:
        limit = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _checked(*driver.cuFuncSetAttribute(kernel, limit, shared))
    return kernel, of["THREADS"], shared


def launch(constants: Constants, args: Args, device: int) -> None:
    """Start a kernel on the device's current stream."""
    from cuda.bindings import driver

    kernel, threads, shared = function(constants, device)
    pointer = ctypes.c_void_p(ctypes.addressof(args))
    stream = torch._C._cuda_getCurrentRawStream(device)
    blocks = -(-args.threads // threads)
    _checked(*driver.cuLaunchKernel(kernel, blocks, 1, 1, threads, 1, 1, shared, stream, ctypes.addressof(pointer), 0))


def _checked(result: Any, *values: Any) -> Any:
    if result.value != 0:
        raise RuntimeError(f"CUDA: {result.name}")
    return values[0] if values else None

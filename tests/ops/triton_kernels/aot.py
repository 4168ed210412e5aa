"""Compile the GPU kernels without a GPU, as they are launched on RedNet-50's layers; print what the assembler says.

Run as a program, for the interpreter that the other tests use can't be switched off in their process:
``python tests/ops/triton_kernels/aot.py sm_90 bfloat16`` prints a JSON line for each kernel and layer, or for those of
the numbers of channels that follow.
"""

import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from involution.ops import triton as launchers
from involution.ops.triton import kernels, launch

POINTERS = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32"}
# channels, kernel size, stride: RedNet's stem, stages 1 to 4 (one at stride 2), and more features than those have
LAYERS = ((32, 3, 1), (64, 7, 1), (128, 7, 1), (256, 7, 1), (512, 7, 2), (1024, 7, 1))


def launches(dtype, only):
    """Yield the kernels' launches in a training step and an inference of each layer, stage 1 with wide offsets, too."""
    seen = []
    launchers._start = lambda name, programs, args, constants, *, wide: seen.append((name, args, constants, wide))
    for channels, k, stride in LAYERS:
        if only and channels not in only:
            continue
        layer = f"C{channels} K{k} stride {stride}"
        last = {"device": "meta", "dtype": dtype}
        geometry = [stride] * 2, [k // 2] * 2, [1, 1]

        def map_like(*shape, last=last):
            return torch.empty(shape, **last).contiguous(memory_format=torch.channels_last)

        x, dy = map_like(2, channels, 28, 28), map_like(2, channels, 28 // stride, 28 // stride)
        r = map_like(2, channels // 4, *dy.shape[2:])
        groups = channels // 16
        w = map_like(2, groups * k * k, *dy.shape[2:]).unflatten(1, (groups, k, k))
        span = torch.empty(groups, k, k, channels // 4, **last)
        bias = torch.empty(groups, k, k, **last)
        launchers.forward(x, w, *geometry)
        launchers.grad_input(dy, w, x.shape[2:], *geometry)
        launchers.grad_weight(dy, x, groups, (k, k), *geometry)
        launchers.dynamic_forward(x, r, span, bias, *geometry)
        launchers.dynamic_backward(dy, x, r, span, bias, *geometry, [True] * 4)
        yield from ((layer, *launch) for launch in seen)
        if channels == 64:
            yield from ((f"{layer} wide", *launch[:-1], True) for launch in seen)
        seen.clear()


def compiled(name, args, constants, wide, capability):
    """Compile one launch, its arguments specialised as Triton would at run time."""
    function = getattr(kernels, name)
    names = list(inspect.signature(function.fn).parameters)
    signature, constexprs, attributes = {}, {}, {}
    for i, (parameter, value) in enumerate(zip(names, args, strict=False)):
        if isinstance(value, torch.Tensor):
            signature[parameter] = POINTERS[value.dtype]
            attributes[(i,)] = [["tt.divisibility", 16]]
        elif value == 1 or function.params[i].is_constexpr:
            signature[parameter], constexprs[parameter] = "constexpr", value
        else:
            signature[parameter] = "i32"
            if value % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
    for parameter, value in {**constants, "WIDE": wide}.items():
        signature[parameter], constexprs[parameter] = "constexpr", value
    signature = {parameter: signature[parameter] for parameter in names}
    source = ASTSource(function, signature, constexprs, attributes)
    config = launch.config(name, args[0].dtype)
    options = {"num_warps": config.warps, "num_stages": config.stages, "maxnreg": launch.MAX_REGISTERS}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def usage(binary):
    """Return registers and bytes of spilled stack, by cuobjdump."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(re.search(rf"{key}:(\d+)", text)[1]) for key in ("REG", "STACK", "LOCAL"))
    return registers, stack + local


def main(architecture, dtype, *channels):
    capability = int(architecture.removeprefix("sm_"))
    for layer, name, args, constants, wide in launches(getattr(torch, dtype), [int(one) for one in channels]):
        kernel = compiled(name, args, constants, wide, capability)
        registers, spilled = usage(kernel.asm["cubin"])
        tensor_core = sorted(set(re.findall(r"wgmma|mma\.sync|tcgen05\.mma", kernel.asm["ptx"])))
        # loads of 128 bits, into registers or shared memory
        vectors = len(
            re.findall(r"ld\.global[.\w:]*\.v4\.b32|cp\.async\.\w+\.shared\.global[^;]*, 0x10", kernel.asm["ptx"])
        )
        row = {
            "kernel": name,
            "layer": layer,
            "registers": registers,
            "spilled": spilled,
            "shared": kernel.metadata.shared,
            "tensor_core": tensor_core,
            "vectors": vectors,
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

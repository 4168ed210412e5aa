"""`import involution` costs next to nothing beyond `import torch`."""

import subprocess
import sys

import pytest

# parts that torch itself puts off, the FLOP counter with triton and sympy behind it
LAZY = {"torch.utils.flop_counter", "torch._dynamo", "torch._inductor", "torch.onnx"}


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_imports_nothing_beyond_torch():
    # torch may have loaded some of it itself
    code = "import sys, torch; had = set(sys.modules); import involution; print(*set(sys.modules) - had)"
    added = set(run(code).split())
    assert "involution.ops" in added
    assert not added & LAZY
    assert {name.partition(".")[0] for name in added} <= {"involution", "torch", *sys.stdlib_module_names}


def test_takes_under_50_ms():
    # processor time and the best of several: another program on the machine must not count
    code = """
import time, torch
start = time.process_time()
import involution
print(time.process_time() - start)
"""
    times = []
    for _ in range(5):
        times.append(float(run(code)))
        if times[-1] < 0.05:
            return
    pytest.fail(f"import involution took {min(times) * 1000:.0f} ms of processor time beyond torch")


def test_public_names():
    import involution

    assert involution.__version__
    for name in involution.__all__:
        assert getattr(involution, name).__doc__

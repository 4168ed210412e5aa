"""Ten thousand argument sets for each instruction set and the plain forms; a tenth of that in the quick run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from involution.ops import native

KERNELS = [*([] if native.reason else native.instruction_sets()), "plain"]
kernels = pytest.mark.parametrize("kernel", KERNELS)


def fuzz(kernel, first, count):
    chosen = {"INVOLUTION_NATIVE": "0"} if kernel == "plain" else {"INVOLUTION_CPU": kernel, "INVOLUTION_NATIVE": "1"}
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **chosen, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-W", "error", str(Path(__file__).with_name("fuzz.py")), str(first), str(count)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@kernels
def test_a_tenth(kernel):
    share = 1000 // len(KERNELS)
    fuzz(kernel, share * KERNELS.index(kernel), share)


@pytest.mark.slow
@kernels
@pytest.mark.parametrize("tenth", range(10))
def test_all(kernel, tenth):
    fuzz(kernel, 1000 * tenth, 1000)

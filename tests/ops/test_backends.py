"""The records of the backends: who serves what, which way a module goes, and that one record is all a new one takes."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch

from involution import Involution2d
from involution.ops import backends, native
from involution.ops.backends import Absence, Backend, prefers_fused, serving
from involution.ops.schema import OPERATORS

HALF = (torch.float16, torch.bfloat16)


def run(program, **environment):
    environment = {**os.environ, "INVOLUTION_NATIVE": "0", **environment}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("key", ["CPU", "CUDA", "XPU", "MPS"])
def test_the_records_say_what_the_dispatcher_does(operator, key):
    found = torch._C._dispatch_has_kernel_for_dispatch_key(f"involution::{operator}", key)
    assert found == (serving(operator, key.lower()).backend != "plain")


def test_what_serves_the_cpu():
    row = serving("involution2d", "cpu", torch.bfloat16)
    if native.reason is None:
        assert (row.backend, row.tag, row.why_not) == ("native", native.instruction_set(), "")
        assert row.kernel == f"C++ ({row.tag})"
    else:
        assert (row.backend, row.tag, row.why_not) == ("plain", "plain", native.reason)
    assert serving("involution1d_grad_input", "cpu:0").tag == row.tag


@pytest.mark.parametrize("operator", ["involution2d", "dynamic_involution2d_backward"])
def test_what_serves_a_device_without_kernels(operator):
    row = serving(operator, torch.device("mps"))
    assert (row.device, row.backend, row.kernel, row.why_not) == ("mps", "plain", "plain PyTorch", "")
    assert not prefers_fused(torch.device("mps"), torch.float32)


def test_questions_that_have_no_answer():
    with pytest.raises(ValueError, match="no operator is called 'involuton2d'; did you mean involution2d"):
        serving("involuton2d", "cpu")
    with pytest.raises(ValueError, match=r"'softmax'; there are involution2d, .*dynamic_involution2d_backward"):
        serving("softmax", "cpu")
    with pytest.raises(ValueError, match="no kernel supports int64; use one of float16, bfloat16, float32, float64"):
        serving("involution2d", "cpu", torch.int64)


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="already a backend named 'plain'"):
        backends.register(backends.BACKENDS["plain"])


def test_reasons_of_a_backend():
    record = Backend("toy", "Toy", ("CPU",), ("involution2d",), HALF, lambda: None)
    assert record.why_not("involution2d", torch.float16) is None
    assert record.why_not("involution2d", torch.float32) == "the Toy kernels do not support float32"
    assert record.why_not("involution3d", torch.float16) == "no Toy kernel for this operator"
    gone = Backend("toy", "Toy", ("CPU",), ("involution2d",), HALF, lambda: Absence("no battery"))
    assert gone.why_not("involution2d", torch.float16) == "no battery"


@pytest.mark.skipif(native.reason is not None, reason=f"no C++ kernels: {native.reason}")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_the_choice_is_the_records_and_can_be_made_by_hand(compiled):
    module, x = Involution2d(16, 3).eval(), torch.randn(1, 16, 5, 5)
    call = torch.compile(module, fullgraph=True, backend="aot_eager") if compiled else module

    def operators():
        with torch.no_grad(), torch.profiler.profile() as profile:
            call(x)
        return {event.name.partition("::")[2] for event in profile.events() if "involution::" in event.name}

    assert operators() == {"dynamic_involution2d"}
    with backends.choose_fused(False):
        assert operators() == {"involution2d"}
        with backends.choose_fused(None):
            assert operators() == {"dynamic_involution2d"}
    assert operators() == {"dynamic_involution2d"}


TOY = """
import torch
import involution
from involution import Involution2d
from involution.ops import backends, reference
from involution.ops.info import served

called = []

def forward(*args):
    called.append("involution2d")
    return reference.shift_forward(*args)

def dynamic(input, reduced, *args):
    called.append("dynamic_involution2d")
    if reduced.shape[1] > 4:
        raise backends.Unsupported("too many features")
    weight = reference.span(reduced, *args[:2])
    return reference.shift_forward(input, weight, *args[2:])

assert not backends.prefers_fused(torch.device("cpu"), torch.float32)
backends.register(
    backends.Backend(
        name="toy",
        title="Toy",
        keys=("CPU",),
        operators=("involution2d", "dynamic_involution2d"),
        dtypes=(torch.float32,),
        absence=lambda: None,
        kernels={"involution2d": forward, "dynamic_involution2d": dynamic},
        prefers_fused=True,
        limits={"dynamic_involution2d": "more than 4 features"},
    )
)
"""


def test_a_backend_is_one_record_and_one_registration():
    run(
        TOY
        + """
rows = {row.operator: row for row in served() if row.device == "cpu"}
assert (rows["involution2d"].kernel, rows["involution2d"].tag) == ("Toy", "toy")
assert rows["involution2d"].why_not == "plain PyTorch handles float16, bfloat16, float64"
assert rows["dynamic_involution2d"].why_not.endswith(", more than 4 features")
assert rows["involution3d"].kernel == "plain PyTorch"
assert rows["involution3d"].why_not == "no Toy kernel for this operator; INVOLUTION_NATIVE=0"
row = backends.serving("involution2d", "cpu", torch.float64)
assert (row.backend, row.why_not) == ("plain", "the Toy kernels do not support float64; INVOLUTION_NATIVE=0")

assert backends.prefers_fused(torch.device("cpu"), torch.float32)
assert not backends.prefers_fused(torch.device("cpu"), torch.float64)
module, x = Involution2d(16, 3).eval(), torch.randn(1, 16, 5, 5)
y = module(x)
assert called == ["dynamic_involution2d"], called
with backends.choose_fused(False):
    torch.testing.assert_close(module(x), y)
assert called == ["dynamic_involution2d", "involution2d"], called
"""
    )


def test_what_a_backend_leaves_to_the_plain_form_is_told_once():
    run(
        TOY
        + """
import warnings

def told(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in caught if issubclass(w.category, backends.BackendWarning)]

def wide(size=5):
    x, reduced = torch.randn(1, 16, size, size), torch.randn(1, 8, size, size)
    return involution.dynamic_involution2d(x, reduced, torch.randn(1, 3, 3, 8), padding="same")

message = "using plain PyTorch, which is slower: dynamic_involution2d: too many features"
assert told(lambda: wide(0)) == []
assert told(wide) == [message]
assert told(wide) == []
x, w = torch.zeros(1, 4, 3, 3).double(), torch.zeros(1, 1, 1, 1, 3, 3).double()
message = "using plain PyTorch, which is slower: involution2d: the Toy kernels do not support float64"
assert told(lambda: involution.involution2d(x, w)) == [message]
"""
    )


def test_a_backend_that_is_not_here_registers_nothing():
    run("""
    import torch
    from involution.ops import backends

    record = backends.Backend("toy", "Toy", ("MPS",), ("involution2d",), (torch.float32,),
                              lambda: backends.Absence("no battery"), {"involution2d": None}, prefers_fused=True)
    backends.register(record)
    assert not torch._C._dispatch_has_kernel_for_dispatch_key("involution::involution2d", "MPS")
    assert backends.serving("involution2d", "mps").why_not == "no battery"
    assert not backends.prefers_fused(torch.device("mps"), torch.float32)
    """)


@pytest.mark.parametrize(("value", "error"), [("", False), ("yes", True)])
def test_a_wrong_switch_is_one_line_at_import_and_an_error_at_the_first_call(value, error):
    program = """
        import sys, torch, involution
        print("imported", file=sys.stderr, flush=True)
        involution.involution2d(torch.zeros(1, 4, 3, 3), torch.zeros(1, 1, 1, 1, 3, 3))
    """
    message = "INVOLUTION_NATIVE must be 0 (never), 1 (always) or unset (if available); got 'yes'"
    environment = {**os.environ, "INVOLUTION_NATIVE": value}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    at_import, at_call = done.stderr.split("imported\n")
    assert done.returncode == error
    if error:
        assert at_import == f"involution:1: BackendWarning: {message}\n"
        assert at_call.splitlines()[-1] == f"involution.ops.backends.BackendError: {message}"
    else:
        assert "INVOLUTION_NATIVE" not in done.stderr

"""FLOP formulas for `torch.utils.flop_counter.FlopCounterMode`, counting two per multiply-add as it does.

The counter's module takes 100 ms or more to import, so the formulas are registered when something else imports it.
"""

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch

from involution.after import after_import

# defines the operators
from . import schema as schema

Shape = Sequence[int]


def _forward(input: Shape, weight: Shape, *args: Any, **kwargs: Any) -> int:
    dims = (len(weight) - 2) // 2
    return 2 * math.prod(input[:2]) * math.prod(weight[2 : 2 + dims]) * math.prod(weight[2 + dims :])


def _grad_input(grad: Shape, weight: Shape, *args: Any, **kwargs: Any) -> int:
    return _forward(grad, weight)


def _grad_weight(grad: Shape, input: Shape, groups: int, kernel_size: Shape, *args: Any, **kwargs: Any) -> int:
    return 2 * math.prod(grad) * math.prod(kernel_size)


def _span(reduced: Shape, span_weight: Shape) -> int:
    return 2 * reduced[0] * math.prod(reduced[2:]) * math.prod(span_weight)


def _dynamic(input: Shape, reduced: Shape, span_weight: Shape, *args: Any, **kwargs: Any) -> int:
    taps = math.prod(span_weight[1:3])
    return _span(reduced, span_weight) + 2 * math.prod(input[:2]) * taps * math.prod(reduced[2:])


def _dynamic_backward(grad: Shape, input: Shape, reduced: Shape, span_weight: Shape, *args: Any, **_: Any) -> int:
    mask = args[-1]
    aggregation = 2 * math.prod(grad) * math.prod(span_weight[1:3])
    spans = mask[0] + mask[1] + mask[2]
    return spans * _span(reduced, span_weight) + (mask[0] + any(mask[1:])) * aggregation


def _register(counter: ModuleType) -> None:
    ops = torch.ops.involution
    for dims in (2, 3):
        for suffix, formula in (("", _forward), ("_grad_input", _grad_input), ("_grad_weight", _grad_weight)):
            counter.register_flop_formula(getattr(ops, f"involution{dims}d{suffix}"))(formula)
    counter.register_flop_formula(ops.dynamic_involution2d)(_dynamic)
    counter.register_flop_formula(ops.dynamic_involution2d_affine)(_dynamic)
    counter.register_flop_formula(ops.dynamic_involution2d_backward)(_dynamic_backward)


after_import("torch.utils.flop_counter", _register)

"""How time and memory of one layer grow with each of its sizes, while the others stay as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from involution.ops import dynamic_involution2d, involution2d, reference
from involution.ops.backends import serving
from involution.studies.growth_table import local_slopes
from involution.studies.harness import Measurement, Options, Row, Suite, Target, measure, not_measured, target


@dataclass(frozen=True)
class _Case:
    size: int = 56
    batch: int = 1
    channels: int = 64
    kernel: int = 7
    group: int = 16
    threads: int = 0

    @property
    def groups(self) -> int:
        return self.channels // self.group

    @property
    def features(self) -> int:
        return max(1, self.channels // 4)

    @property
    def shape(self) -> str:
        return f"{self.batch}×{self.channels}×{self.size}×{self.size}, K {self.kernel}, groups of {self.group}"

    def holds(self, fused: bool, backward: bool) -> int:
        """Return about how many bytes a call needs."""
        kernels = self.features if fused else self.groups * self.kernel**2
        return 4 * self.batch * self.size**2 * (2 * self.channels + kernels) * (1 + 2 * backward)


@dataclass(frozen=True)
class _Axis:
    title: str
    values: tuple[int, ...]
    # what time should be proportional to
    power: int = 1


_AXES = {
    "size": _Axis("H·W", (56, 112, 224, 448, 896, 1792, 4096), 2),
    "batch": _Axis("batch", (1, 2, 4, 8, 16)),
    "channels": _Axis("channels", (16, 32, 64, 128, 256, 512)),
    "kernel": _Axis("K²", (3, 5, 7, 9, 11, 13, 15, 21, 31), 2),
    "group": _Axis("group width", (1, 4, 8, 16, 32, 64)),
    "threads": _Axis("threads", (1, 2)),
}
_DRY = {"size": (6, 8), "channels": (16, 32), "kernel": (3, 5), "group": (4, 8)}


def _plan(options: Options) -> Iterator[Measurement]:
    settings = options.filled(
        batches=(1,),
        seconds=0 if options.dry_run else 0.1 if options.quick else 0.5,
        rounds=2 if options.dry_run else 3,
    )
    for part in options.parts:
        axis = _AXES[part]
        values = _DRY.get(part, (1, 2)) if options.dry_run else axis.values[:4] if options.quick else axis.values
        # with one group, the largest image with its kernels fits into most memories
        base = _Case(channels=16 if part == "size" else 64, batch=settings.batches[0])
        base = replace(base, size=6, channels=16, kernel=3) if options.dry_run else base
        for value in values:
            case = replace(base, **{part: value})
            yield Measurement(
                f"{axis.title}: {case.shape}{_threads(case)}", partial(_rows, axis, value, case, settings)
            )


def _threads(case: _Case) -> str:
    return f", {case.threads} threads" if case.threads else ""


def _rows(axis: _Axis, value: int, case: _Case, settings: Any) -> Iterator[Row]:
    before = torch.get_num_threads()
    torch.set_num_threads(case.threads or before)
    try:
        columns: dict[str, Any] = {"measure": axis.title, "layer": case.shape, "batch": case.batch, "dtype": "float32"}
        columns |= {"value": value**axis.power, "serving": serving("dynamic_involution2d", "cpu").kernel}
        columns |= {"threads": torch.get_num_threads()}
        for fused in (True, False):
            candidates = {}
            for backward in (False, True):
                name = f"{'fused' if fused else 'kernels given'}{', with backward' if backward else ''}"
                if case.holds(fused, backward) > 0.7 * _free_memory():
                    yield not_measured(f"{axis.title} {case.shape}, {name}", "no room in memory")
                    continue
                candidates[name] = partial(_call, backward)
            if candidates:
                tensors = _tensors(case, fused)
                bound = {name: partial(call, fused, case, tensors) for name, call in candidates.items()}
                if case.holds(False, True) < 2**28:
                    _check(fused, case, tensors)
                how: dict[str, Any] = {"seconds": settings.seconds, "rounds": settings.rounds, "warm": case.size < 448}
                yield from measure(bound, next(iter(bound)), **how, **columns)
    finally:
        torch.set_num_threads(before)


def _tensors(case: _Case, fused: bool) -> tuple[Tensor, ...]:
    """Return input, kernel map or reduced features with the span's parameters, and gradient of the output."""
    torch.manual_seed(0)

    def image(channels: int) -> Tensor:
        made = torch.empty(case.batch, case.size, case.size, channels)
        # a generator would take longer than the operator
        pattern = torch.randn(min(made.numel(), 2**16))
        flat = made.flatten()
        flat.copy_(pattern.repeat(-(-flat.numel() // pattern.numel()))[: flat.numel()])
        return made.permute(0, 3, 1, 2)

    x, grad = image(case.channels), image(case.channels)
    taps = (case.groups, case.kernel, case.kernel)
    if fused:
        return x, image(case.features), torch.randn(*taps, case.features), torch.randn(*taps), grad
    return x, image(case.groups * case.kernel**2).unflatten(1, taps), grad


def _form(fused: bool, case: _Case, *tensors: Any) -> Tensor:
    options: dict[str, Any] = {"padding": (case.kernel - 1) // 2}
    return dynamic_involution2d(*tensors, **options) if fused else involution2d(*tensors, **options)


def _call(backward: bool, fused: bool, case: _Case, tensors: Sequence[Tensor]) -> Any:
    *operands, grad = tensors
    if not backward:
        with torch.inference_mode():
            return _form(fused, case, *operands)
    leaves = [operand.detach().requires_grad_() for operand in operands]
    return torch.autograd.grad(_form(fused, case, *leaves), leaves, grad)


def _check(fused: bool, case: _Case, tensors: Sequence[Tensor]) -> None:
    x, *generated, _ = tensors
    weight = reference.span(*generated) if fused else generated[0]
    padding = [(case.kernel - 1) // 2] * 2
    truth = reference.shift_forward(x, weight, [1, 1], padding, [1, 1])
    found = _call(False, fused, case, tensors)
    torch.testing.assert_close(found, truth, rtol=1e-3, atol=1e-3 * float(truth.abs().max()))


def _free_memory() -> float:
    """Return the bytes that can still be had, infinite where the system does not say."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return float("inf")
    found = [line.split()[1] for line in text.splitlines() if line.startswith("MemAvailable:")]
    return 1024 * float(found[0]) if found else float("inf")


def _targets(rows: Sequence[Mapping[str, Any]]) -> list[Target]:
    found: list[Target] = []
    for candidate in ("fused", "fused, with backward"):
        for title, name in (("H·W", "images beyond 448×448"), ("K²", "kernels beyond 11×11")):
            beyond = 448**2 if title == "H·W" else 11**2
            some = [row for row in rows if (row["measure"], row["candidate"]) == (title, candidate)]
            steep = [slope for value, slope in local_slopes(some) if value > beyond]
            found += target(f"slope of time, {name}, {candidate}, steepest", steep, most=1.15, worst=True)
    return found


SUITE = Suite(tuple(_AXES), _plan, _targets, on_cpu=True)

"""What is NaN or infinite: found before it reaches the weights, and traced to where it began."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics import Metric
from typing_extensions import override

from involution.engine.faults import TrainingDiverged
from involution.engine.process import tell
from involution.engine.sharding import gathered, is_sharded, own_part

_ADVICE = "lower optimizer.lr, lengthen schedule.warmup_epochs or set trainer.clip_grad_norm"
# steps in a row that are left out before a training is given up
_MOST = 10
# of a gradient: in float32 the square of one ten times as large is infinite
_LARGEST = 1e18


class NonFinite(L.Callback):
    """Ends a training, or leaves a step out, whose gradients are not finite, before they reach the weights.

    Neither may their squares be infinite, which optimisers keep: no training is resumed from these.

    A loss that is NaN or infinite has such gradients. In 16-mixed precision gradients overflow now and then, which the
    scaler of the gradients sees to: there the loss itself counts.

    Args:
        action: what to do about it.
    """

    def __init__(self, action: Literal["stop", "skip"]) -> None:
        self.action = action
        self._batch: tuple[Any, int] | None = None
        self._buffers: list[Tensor] = []
        self._row = 0

    @override
    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._batch = (batch, batch_idx)
        if self.action == "skip" and batch_idx % trainer.accumulate_grad_batches == 0:
            # a forward pass changes the statistics of batch norms
            self._buffers = [buffer.clone() for buffer in pl_module.model.buffers()]

    @override
    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        parameters = [one for group in optimizer.param_groups for one in group["params"] if one.grad is not None]
        fine = finite([one.grad for one in parameters], below=_LARGEST)
        if is_sharded(pl_module.model):
            # another device may have the part that is not
            fine = _everywhere(trainer, fine)
        if fine:
            self._row = 0
            return
        batch, index = self._batch or (None, 0)
        with gathered(pl_module.model):
            loss, where = trace(trainer, pl_module, batch, index)
        if trainer.precision == "16-mixed" and _everywhere(trainer, bool(torch.isfinite(loss))):
            return
        where = _first_told(trainer, where) or _gradient(pl_module)
        what = f"a gradient is not below {_LARGEST:g}" if torch.isfinite(loss) else f"the loss became {float(loss)}"
        said = (
            f"{what} in epoch {trainer.current_epoch + 1}, step {index // trainer.accumulate_grad_batches + 1}: {where}"
        )
        self._row += 1
        if self.action == "stop" or self._row == _MOST:
            raise TrainingDiverged(f"{said}; {_ADVICE}")
        tell(f"warning: {said}; this step is left out")
        for parameter in parameters:
            parameter.grad = None
        for buffer, kept in zip(pl_module.model.buffers(), self._buffers, strict=True):
            buffer.copy_(kept)

    @override
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._batch = None


def finite(tensors: list[Tensor], below: float = math.inf) -> bool:
    """Whether all numbers of some tensors are below a limit: one question to the device for all of them."""
    floats = [own_part(one) for one in tensors if one.is_floating_point()]
    # a device may have no part of a small one
    floats = [one for one in floats if one.numel()]
    return bool(torch.nn.utils.get_total_norm(floats, math.inf) < below)


def check_weights(trainer: L.Trainer, module: nn.Module) -> None:
    """Raise `TrainingDiverged` rather than let weights that are not finite take the place of finite ones."""
    if not _everywhere(trainer, finite([one.detach() for one in (*module.parameters(), *module.buffers())])):
        values = [*module.named_parameters(), *module.named_buffers()]
        wrong = [name for name, value in values if not torch.isfinite(own_part(value)).all()]
        raise TrainingDiverged(f"the weights are not finite any more ({', '.join(wrong[:3])}): not saved; {_ADVICE}")


def trace(trainer: L.Trainer, module: Any, batch: Any, index: int) -> tuple[Tensor, str]:
    """The loss of a batch, and in words what of it is first not finite; empty where all is.

    The batch goes through the network once more, with the same random numbers, and leaves nothing behind.
    """
    if not all(map(_finite, _tensors(batch))):
        return torch.tensor(torch.nan), "an image of the batch has values that are not finite"
    if not finite([one.detach() for one in module.model.parameters()]):
        return torch.tensor(torch.nan), "the weights are not finite"
    first: list[str] = []
    names = {one: name for name, one in module.model.named_modules()}

    def watch(layer: nn.Module, inputs: Any, outputs: Any) -> None:
        if not first and layer in names and not all(map(_finite, _tensors(outputs))):
            first.append(f"the first layer whose output is not finite is {names[layer]} ({_kind(layer)})")

    handle = nn.modules.module.register_module_forward_hook(watch)
    stance = torch.compiler.set_stance("force_eager")
    try:
        with torch.no_grad(), _restored(module), trainer.precision_plugin.train_step_context(), stance:
            module.on_train_batch_start(batch, index)
            loss: Tensor = module.training_step(batch, index)
    finally:
        handle.remove()
    return loss.detach().float(), first[0] if first else ("" if _finite(loss) else "every layer's output is finite")


def _kind(layer: nn.Module) -> str:
    # the class that `fully_shard` makes of another one
    return type(layer).__name__.removeprefix("FSDP") if is_sharded(layer) else type(layer).__name__


def _gradient(module: Any) -> str:
    """The gradient that is not finite, or too large, nearest to the loss."""
    gradients = {name: one.grad for name, one in module.model.named_parameters() if one.grad is not None}
    wrong = [name for name, one in gradients.items() if not finite([one], below=_LARGEST)]
    return f"every layer's output is finite, but not the gradient of {wrong[-1]}" if wrong else "an earlier batch of it"


def _everywhere(trainer: L.Trainer, value: bool) -> bool:
    return bool(trainer.strategy.reduce_boolean_decision(value, all=True))


def _first_told(trainer: L.Trainer, where: str) -> str:
    """What the first device found that found something."""
    if trainer.world_size == 1:
        return where
    found: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(found, where)
    return next(filter(None, found), "")


@contextmanager
def _restored(module: nn.Module) -> Iterator[None]:
    """Put buffers and sums back to what they were."""
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    metrics = [one for one in module.modules() if isinstance(one, Metric)]
    states = [{name: getattr(metric, name) for name in metric._defaults} for metric in metrics]
    states = [{name: v.clone() if isinstance(v, Tensor) else list(v) for name, v in one.items()} for one in states]
    try:
        yield
    finally:
        for buffer, kept in buffers:
            buffer.copy_(kept)
        for metric, state in zip(metrics, states, strict=True):
            for name, value in state.items():
                setattr(metric, name, value)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner)


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(own_part(value)).all())

"""What a checkpoint keeps beside network and card, for a training to go on with: checked before anything uses it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from involution.models.errors import CheckpointError
from involution.models.readers import check_tensors
from involution.models.shards import Shards
from involution.plain import plain, shown


def check_training_state(
    checkpoint: Mapping[str, Any], path: str | os.PathLike[str], groups: Sequence[Mapping[str, Any]]
) -> None:
    """Raise `CheckpointError` for a state that a training could not go on with.

    Args:
        checkpoint: the contents, as `read_checkpoint` gave them.
        path: the file, for messages.
        groups: the optimiser's groups of parameters in this training, as `param_groups` gives them.
    """

    def refuse(what: str, value: Any, wanted: str) -> None:
        raise CheckpointError(f"can't resume from {path}: its {what} is {shown(value)}, wanted {wanted}")

    for name in ("epoch", "global_step"):
        value = checkpoint.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
            refuse(name, value, "a number from 0")
    writer = checkpoint.get("pytorch-lightning_version")
    if not isinstance(writer, str) or not re.fullmatch(r"\d{1,6}(\.\d{1,6}){1,3}[\w.+]{0,30}", writer):
        refuse("pytorch-lightning_version", writer, "a version")
    for name in ("loops", "callbacks"):
        if not isinstance(checkpoint.get(name), dict):
            refuse(name, checkpoint.get(name), "a mapping")
    complaint = plain(checkpoint["loops"])
    if complaint:
        raise CheckpointError(f"can't resume from {path}: a part of its loops {complaint}")
    if "RunRecorder" in checkpoint["callbacks"]:
        _check_history(checkpoint["callbacks"]["RunRecorder"], refuse)
    if "EarlyStop" in checkpoint["callbacks"]:
        _check_early_stop(checkpoint["callbacks"]["EarlyStop"], refuse)
    for name in ("optimizer_states", "lr_schedulers"):
        value = checkpoint.get(name)
        if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], dict):
            refuse(name, value, "a list of one state")
    complaint = plain(checkpoint["lr_schedulers"][0])
    if complaint:
        raise CheckpointError(f"can't resume from {path}: a part of its lr_schedulers {complaint}")
    shards = Shards.of(checkpoint, path)
    _check_optimizer(checkpoint["optimizer_states"][0], path, groups, refuse, shards)
    if "current_model_state" in checkpoint:
        weights = checkpoint["current_model_state"]
        if not isinstance(weights, dict):
            refuse("current_model_state", weights, "tensors by name")
        check_tensors(weights, path, shards)


def _check_history(recorder: Any, refuse: Any) -> None:
    if not isinstance(recorder, dict) or not isinstance(recorder.get("history"), list):
        refuse("record of epochs", recorder, "a list of rows")
    for row in recorder["history"]:
        if not isinstance(row, dict) or not all(isinstance(k, str) and _number(v) for k, v in row.items()):
            refuse("record of epochs", row, "numbers by name")
    for name in ("best_score", "train_seconds", "images"):
        if not _number(recorder.get(name)):
            refuse(name, recorder.get(name), "a number")
    if not _number(recorder.get("best_epoch", 0)):
        refuse("best_epoch", recorder["best_epoch"], "a number")
    figures = recorder.get("train_figures") or {}
    if not isinstance(figures, dict) or not all(isinstance(k, str) and _number(v) for k, v in figures.items()):
        refuse("train_figures", figures, "numbers by name")

    logged_as = recorder.get("logged_as")
    if logged_as is not None and not (
        isinstance(logged_as, str) and re.fullmatch(r"[a-z]{1,20}:[\w-]{1,100}", logged_as)
    ):
        refuse("logger's name of the run", logged_as, "such as wandb:1a2b3c4d")


def _check_early_stop(state: Any, refuse: Any) -> None:
    numbers = ("wait_count", "stopped_epoch", "patience", "stopping_reason")
    right = isinstance(state, dict) and all(_number(state.get(name)) for name in numbers)
    if not right or not isinstance(state.get("best_score"), Tensor) or state["best_score"].numel() != 1:
        refuse("state of early stopping", state, f"numbers for best_score, {', '.join(numbers)}")


def _check_optimizer(
    state: dict[str, Any],
    path: str | os.PathLike[str],
    groups: Sequence[Mapping[str, Any]],
    refuse: Any,
    shards: Shards | None,
) -> None:
    given, entries = state.get("param_groups"), state.get("state")
    if not isinstance(given, list) or not isinstance(entries, dict):
        refuse("optimizer state", given, "groups of parameters and the state of each parameter")
    sizes = [len(group["params"]) for group in groups]
    found = [group.get("params") if isinstance(group, dict) else None for group in given]  # type: ignore[union-attr]
    if [len(one) if isinstance(one, list) else None for one in found] != sizes:
        refuse("optimizer state", found, f"groups of {sizes} parameters")
    options = [{key: value for key, value in group.items() if key != "params"} for group in given]  # type: ignore[union-attr]
    complaint = plain(options)
    if complaint:
        raise CheckpointError(f"can't resume from {path}: an option of its optimizer {complaint}")
    places = [place for one in found for place in one]  # type: ignore[union-attr]
    if places != list(range(len(places))):
        refuse("optimizer state", places, "parameters counted from 0")
    parameters = [parameter for group in groups for parameter in group["params"]]
    for place, values in entries.items():  # type: ignore[union-attr]
        if not isinstance(place, int) or not 0 <= place < len(parameters) or not isinstance(values, dict):
            refuse("optimizer state", place, f"the states of parameters 0 to {len(parameters) - 1}")
        tensors = {str(name): value for name, value in values.items() if isinstance(value, Tensor)}
        check_tensors(tensors, path, shards)
        for name, value in tensors.items():
            if not _belongs(value.shape, parameters[place].shape):
                wanted = f"a tensor like the parameter, {tuple(parameters[place].shape)}"
                refuse(f"optimizer's {name} of parameter {place}", tuple(value.shape), wanted)
        complaint = plain({str(name): value for name, value in values.items() if name not in tensors})
        if complaint:
            raise CheckpointError(f"can't resume from {path}: the optimizer's state of parameter {place} {complaint}")


def _belongs(shape: Sequence[int], parameter: Sequence[int]) -> bool:
    """Whether an optimiser may keep a tensor of this shape: a number, one like the parameter, or a factor of it."""
    sizes = list(parameter)
    for size in shape:
        if size != 1:
            if size not in sizes:
                return False
            sizes.remove(size)
    return True


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from involution.data.errors import nearest
from involution.engine.config import OptimizerConfig
from involution.engine.devices import cpu_has_bfloat16
from involution.engine.process import tell
from involution.engine.settings import ConfigError
from involution.engine.trunk import head_parameters, layer_depths


def param_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """The trainable parameters in groups that share a learning rate and a weight decay.

    Without `decay_norm_and_bias`, one-dimensional parameters form groups without decay. With a `head_lr_factor` other
    than 1, the head forms separate groups. With a `layer_decay` below 1, each layer of the backbone does: its rate is
    that of the layer above it times the decay, as in timm's `param_groups_layer_decay`. Empty groups are left out.

    Raises:
        ConfigError: for a layer decay of a network that does not say what its layers are.
    """
    head = {id(parameter) for parameter in head_parameters(model)}
    depths = layer_depths(model) if config.layer_decay < 1 else {}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        decay = config.weight_decay if config.decay_norm_and_bias or parameter.ndim > 1 else 0.0
        factor = config.head_lr_factor if id(parameter) in head else 1.0
        factor *= config.layer_decay ** depths.get(id(parameter), 0)
        groups.setdefault((config.lr * factor, decay), []).append(parameter)
    return [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in groups.items()]


def check_optimizer(config: OptimizerConfig) -> None:
    """Raise `ConfigError` for a name that timm does not know."""
    from timm.optim import list_optimizers

    known = [str(name) for name in list_optimizers()]
    if config.name not in known:
        raise ConfigError(f"no optimizer named {config.name!r}{nearest(config.name, known)}")


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """One of timm's optimisers over the groups of `param_groups`.

    Raises:
        ConfigError: for a name that timm does not know.
    """
    from timm.optim import create_optimizer_v2, get_optimizer_info

    check_optimizer(config)
    info = get_optimizer_info(config.name)
    extra: Mapping[str, Any] = {"betas": (config.momentum, 0.999)} if info.has_betas and info.num_betas == 2 else {}
    if "muon" in config.name:
        _choose_dtype_of_muon(config.name, next(model.parameters()).device)
    return create_optimizer_v2(
        param_groups(model, config),
        opt=config.name,
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        **extra,
    )


def _choose_dtype_of_muon(name: str, device: torch.device) -> None:
    # timm's Muon multiplies in bfloat16, over twenty times as slow on a CPU without instructions for it, and has no
    # setting for that
    import timm.optim.muon as muon

    slow = device.type == "cpu" and not cpu_has_bfloat16()
    before = muon.zeropower_via_newtonschulz
    plain = before.func if isinstance(before, partial) else before
    muon.zeropower_via_newtonschulz = partial(plain, dtype=torch.float32) if slow else plain
    if slow:
        tell(f"optimizer: {name} multiplies in float32, as this processor has no instructions for bfloat16")

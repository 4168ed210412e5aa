from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from involution.data.errors import nearest
from involution.engine.config import OptimizerConfig
from involution.engine.settings import ConfigError


def param_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """The trainable parameters in groups that share a learning rate and a weight decay.

    Without `decay_norm_and_bias`, one-dimensional parameters form groups without decay. With a `head_lr_factor` other
    than 1, the head forms separate groups: the network's `head_parameters()`, or the classifier of timm's networks.
    Empty groups are left out.
    """
    head = {id(parameter) for parameter in _head(model)}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        decay = config.weight_decay if config.decay_norm_and_bias or parameter.ndim > 1 else 0.0
        factor = config.head_lr_factor if id(parameter) in head else 1.0
        groups.setdefault((config.lr * factor, decay), []).append(parameter)
    return [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in groups.items()]


def _head(model: nn.Module) -> Iterable[nn.Parameter]:
    # our own networks name their head's parameters; timm's have a classifier
    if hasattr(model, "head_parameters"):
        return model.head_parameters()  # type: ignore[operator]
    return model.get_classifier().parameters()  # type: ignore[operator]


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
    return create_optimizer_v2(
        param_groups(model, config),
        opt=config.name,
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        **extra,
    )

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from involution.data.errors import nearest
from involution.engine.config import ConfigError, OptimizerConfig
from involution.models.pyramid import Backbone
from involution.segmentation import SmpSegmenter


def param_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """The trainable parameters in groups of one learning rate and one weight decay.

    Without `decay_norm_and_bias`, one-dimensional parameters form groups without decay; with a
    `head_lr_factor` other than 1 the head forms groups of its own: the classifier of timm's networks, all but the
    backbone of a detector. Empty groups are left out.
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
    if hasattr(model, "get_classifier"):
        return model.get_classifier().parameters()  # type: ignore[operator]
    backbones: list[nn.Module] = [module for module in model.modules() if isinstance(module, Backbone)]
    if isinstance(model, SmpSegmenter):
        backbones = [model.encoder]
    inside = {id(parameter) for backbone in backbones for parameter in backbone.parameters()}
    return [parameter for parameter in model.parameters() if id(parameter) not in inside]


def check_optimizer(config: OptimizerConfig) -> None:
    """Raise `ConfigError` for a name that timm does not know, or a learning rate of 0 or less."""
    from timm.optim import list_optimizers

    known = [str(name) for name in list_optimizers()]
    if config.name not in known:
        raise ConfigError(f"no optimizer named {config.name!r}{nearest(config.name, known)}")
    if config.lr <= 0 or config.head_lr_factor <= 0:
        raise ConfigError(
            f"optimizer.lr and optimizer.head_lr_factor must be greater than 0, got {config.lr} and "
            f"{config.head_lr_factor}"
        )


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

import math
from operator import attrgetter
from typing import Any

from involution.engine.config import ClassifyConfig, ConfigError, RunConfig
from involution.engine.optimizer import check_optimizer
from involution.engine.schedule import check_schedule

# setting -> smallest and largest value allowed
_RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1),
    "devices": (1, math.inf),
    "data.image_size": (1, math.inf),
    "data.batch_size": (1, math.inf),
    "data.workers": (0, math.inf),
    # what scikit-learn takes
    "data.split_seed": (0, 2**32 - 1),
    "augment.flip": (0, 1),
    "augment.rotate": (0, 180),
    "augment.translate": (0, 1),
    "augment.shear": (0, 89),
    "augment.randaugment": (0, math.inf),
    "augment.randaugment_magnitude": (0, 30),
    "augment.erase": (0, 1),
    "augment.mixup": (0, math.inf),
    "augment.cutmix": (0, math.inf),
    "optimizer.momentum": (0, 1),
    "optimizer.weight_decay": (0, math.inf),
    "schedule.final": (0, 1),
    "schedule.warmup_epochs": (0, math.inf),
    "schedule.warmup_steps": (0, math.inf),
    "schedule.warmup_start": (0, 1),
    "schedule.gamma": (0, 1),
    "schedule.power": (0, math.inf),
    "trainer.epochs": (1, math.inf),
    "trainer.steps": (1, math.inf),
    "trainer.label_smoothing": (0, 1),
    "trainer.clip_grad_norm": (0, math.inf),
    "trainer.accumulate": (1, math.inf),
}


def check_config(config: ClassifyConfig) -> None:
    """Raise `ConfigError` for settings of a classification that are out of range or do not go together."""
    check_run(config)
    data, augment = config.data, config.augment
    if data.channels not in (1, 3) or len(data.mean) != data.channels or len(data.std) != data.channels:
        raise ConfigError(
            f"data.channels must be 1 or 3 with as many data.mean and data.std, got {data.channels}, "
            f"{len(data.mean)} and {len(data.std)}"
        )
    if data.interpolation not in ("bilinear", "bicubic"):
        raise ConfigError(f"data.interpolation must be bilinear or bicubic, got {data.interpolation!r}")
    if not 0 < data.crop_pct <= 1:
        raise ConfigError(f"data.crop_pct must be greater than 0 and at most 1, got {data.crop_pct}")
    crop = augment.crop_scale
    if crop is not None and not 0 < crop[0] <= crop[1] <= 1:
        raise ConfigError(f"augment.crop_scale must be two shares, the smaller one first, got {list(crop)}")
    if not 0 < augment.scale[0] <= augment.scale[1]:
        raise ConfigError(f"augment.scale must be two factors, the smaller one first, got {list(augment.scale)}")
    if min(data.std) <= 0:
        raise ConfigError(f"data.std must be greater than 0, got {list(data.std)}")


def check_run(config: RunConfig) -> None:
    """Raise `ConfigError` for settings that every task has and that are out of range or do not go together."""
    settings: Any = config
    batch_size, trainer = settings.data.batch_size, config.trainer
    check_schedule(config.schedule)
    check_optimizer(config.optimizer)
    for name, (low, high) in _RANGES.items():
        try:
            value = attrgetter(name)(config)
        except AttributeError:
            # a setting of another task
            continue
        if value is not None and not low <= value <= high:
            wanted = f"{low} or more" if high == math.inf else f"from {low} to {high}"
            raise ConfigError(f"{name} must be {wanted}, got {value}")
    if batch_size % (config.devices * trainer.accumulate):
        raise ConfigError(
            f"data.batch_size ({batch_size}) must be a multiple of devices x trainer.accumulate "
            f"({config.devices} x {trainer.accumulate})"
        )
    if trainer.ema_decay is not None and not 0 < trainer.ema_decay < 1:
        raise ConfigError(f"trainer.ema_decay must lie between 0 and 1, got {trainer.ema_decay}")
    if trainer.precision not in ("32-true", "64-true", "bf16-mixed", "16-mixed"):
        known = "32-true, 64-true, bf16-mixed, 16-mixed"
        raise ConfigError(f"trainer.precision must be one of {known}, got {trainer.precision!r}")
    if "/" in config.name or not config.name:
        raise ConfigError(f"name must be the name of a folder, got {config.name!r}")

from involution.engine.config import ClassifyConfig, ConfigError
from involution.engine.optimizer import check_optimizer
from involution.engine.schedule import check_schedule


def check_config(config: ClassifyConfig) -> None:
    """Raise `ConfigError` for settings that are out of range or do not go together."""
    data, trainer = config.data, config.trainer
    check_schedule(config.schedule)
    check_optimizer(config.optimizer)
    parts = config.devices * trainer.accumulate
    if parts < 1 or data.batch_size < 1 or data.batch_size % parts:
        raise ConfigError(
            f"data.batch_size ({data.batch_size}) must be a multiple of devices x trainer.accumulate "
            f"({config.devices} x {trainer.accumulate})"
        )
    if data.channels not in (1, 3) or len(data.mean) != data.channels or len(data.std) != data.channels:
        raise ConfigError(
            f"data.channels must be 1 or 3 with as many data.mean and data.std, got {data.channels}, "
            f"{len(data.mean)} and {len(data.std)}"
        )
    if data.interpolation not in ("bilinear", "bicubic"):
        raise ConfigError(f"data.interpolation must be bilinear or bicubic, got {data.interpolation!r}")
    positive = {
        "trainer.epochs": trainer.epochs,
        "data.image_size": data.image_size,
    }
    for name, value in positive.items():
        if value <= 0:
            raise ConfigError(f"{name} must be greater than 0, got {value}")
    if trainer.ema_decay is not None and not 0 < trainer.ema_decay < 1:
        raise ConfigError(f"trainer.ema_decay must lie between 0 and 1, got {trainer.ema_decay}")
    if trainer.precision not in ("32-true", "64-true", "bf16-mixed", "16-mixed"):
        known = "32-true, 64-true, bf16-mixed, 16-mixed"
        raise ConfigError(f"trainer.precision must be one of {known}, got {trainer.precision!r}")
    if "/" in config.name or not config.name:
        raise ConfigError(f"name must be the name of a folder, got {config.name!r}")

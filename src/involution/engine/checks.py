"""Checks that the settings of a run are in range and go together."""

from involution.engine.config import RunConfig
from involution.engine.interval import interval
from involution.engine.optimizer import check_optimizer
from involution.engine.schedule import check_schedule
from involution.engine.settings import ConfigError, check_settings
from involution.engine.task import get_task


def check_config(config: RunConfig) -> None:
    """Check all settings, one by one and together: first those of every task, then the task's own.

    Raises:
        ConfigError: for settings that are out of range or do not go together.
    """
    check_settings(config)
    check_schedule(config.schedule)
    check_optimizer(config.optimizer)
    batch_size, trainer = config.data.batch_size, config.trainer
    if batch_size % (config.devices * trainer.accumulate):
        raise ConfigError(
            f"data.batch_size ({batch_size}) must be a multiple of devices x trainer.accumulate "
            f"({config.devices} x {trainer.accumulate})"
        )
    if trainer.ema_decay is not None and not 0 < trainer.ema_decay < 1:
        raise ConfigError(f"trainer.ema_decay must be between 0 and 1, got {trainer.ema_decay}")
    if isinstance(config.model.freeze, str) and config.model.weights is None:
        raise ConfigError("model.freeze needs model.weights: parts that were never trained must not be frozen")
    if config.model.freeze_epochs is not None and not isinstance(config.model.freeze, str):
        raise ConfigError("model.freeze_epochs needs model.freeze, the parts: stem,layer1")
    if "/" in config.name or not config.name:
        raise ConfigError(f"name must be the name of a folder, got {config.name!r}")
    interval(trainer.checkpoint_every)
    get_task(config.task).check(config)


def check_units(config: RunConfig) -> None:
    """Refuse a new run whose mean and deviation are for values of 0 to 255, as other tools have them.

    Raises:
        ConfigError: naming them.
    """
    mean, std = config.data.mean, config.data.std
    if not all(0 <= value <= 1 for value in mean) or not all(value <= 1 for value in std):
        raise ConfigError(
            f"data.mean and data.std are for values of 0 to 1, got {list(mean)} and {list(std)}; divide those for "
            "values of 0 to 255 by 255"
        )

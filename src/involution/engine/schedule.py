import math

from involution.engine.config import ScheduleConfig
from involution.engine.settings import ConfigError


def lr_factor(step: int, steps_per_epoch: int, epochs: float, schedule: ScheduleConfig) -> float:
    """Fraction of the peak learning rate at an optimiser step.

    With update "epoch" and cosine decay, in epoch e of E: `final + (1 - final) * (1 + cos(pi * e / E)) / 2`;
    during the warm-up of W steps it is multiplied by `1 - (1 - step / W) * (1 - warmup_start)`. This is the
    published ImageNet schedule of RedNet. With decay "step" the rate is multiplied by gamma after each milestone.

    Args:
        step: number of optimiser steps done.
        steps_per_epoch: optimiser steps per epoch.
        epochs: length of the training.
        schedule: the settings.

    Returns:
        The factor, at most 1.
    """
    done = step // steps_per_epoch / epochs if schedule.update == "epoch" else step / (steps_per_epoch * epochs)
    left = {
        "cosine": 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0))),
        "linear": 1.0 - min(done, 1.0),
        "constant": 1.0,
        "poly": (1.0 - min(done, 1.0)) ** schedule.power,
        "step": schedule.gamma ** sum(step >= epoch * steps_per_epoch for epoch in schedule.milestones),
    }[schedule.decay]
    factor = schedule.final + (1.0 - schedule.final) * left
    warmup = schedule.warmup_epochs * steps_per_epoch + schedule.warmup_steps
    if step < warmup:
        factor *= 1.0 - (1.0 - step / warmup) * (1.0 - schedule.warmup_start)
    return factor


def check_schedule(schedule: ScheduleConfig) -> None:
    """Raise `ConfigError` for a schedule that lacks what its decay needs."""
    if schedule.decay == "step" and not schedule.milestones:
        raise ConfigError("schedule.decay step needs schedule.milestones, the epochs after which the rate drops")

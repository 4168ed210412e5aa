"""Devices by name."""

import torch

from involution.engine.settings import ConfigError


def find_device(name: str) -> torch.device:
    """The device with that name; "auto" uses an accelerator if there is one.

    Raises:
        ConfigError: If there is no such device.
    """
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return found or torch.device("cpu")
    try:
        # as in training, where it has always been a name, too
        device = torch.device("cuda" if name == "gpu" else name)
    except RuntimeError as error:
        raise ConfigError(
            f"no device named {name!r}; wanted auto, cpu{f' or {found.type}' if found else ''}"
        ) from error
    count = torch.accelerator.device_count() if found is not None and device.type == found.type else 0
    if device.type != "cpu" and (device.index or 0) >= count:
        raise ConfigError(
            f"device {name} is not available: this machine has cpu{f' and {found.type}' if found else ' only'}"
        )
    return device


def cpu_has_bfloat16() -> bool:
    """Return whether this processor multiplies bfloat16 by instructions of its own."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()

"""What the registered models are made of: RedNets, their 7×7 stems and their convolution twins."""

from typing import Any

from involution.models.rednet import RedNet, ResNetC

_DEPTHS = {
    26: (1, 2, 4, 1),
    38: (2, 3, 5, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
_LAYOUTS: dict[str, dict[str, Any]] = {
    **{f"rednet{depth}": {"layers": layers} for depth, layers in _DEPTHS.items()},
    "rednet_nano": {"layers": (2, 2, 2), "channels": (16, 32, 64), "stem_width": 16, "small_input": True},
    "rednet_micro": {"layers": (3, 3, 3), "channels": (32, 64, 128), "stem_width": 16, "small_input": True},
}


def _variants() -> dict[str, tuple[type[ResNetC], dict[str, Any]]]:
    """Return class and arguments of every registered model: a layout, its 7×7 stem, its twin."""
    variants: dict[str, tuple[type[ResNetC], dict[str, Any]]] = {}
    for name, layout in _LAYOUTS.items():
        variants[name] = (RedNet, layout)
        if not layout.get("small_input"):
            variants[f"{name}_stem7"] = (RedNet, {**layout, "stem_kernel": 7})
        variants[f"{name}_conv"] = (ResNetC, layout)
    return variants


VARIANTS = _variants()

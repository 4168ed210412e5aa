"""Involution (CVPR 2021, arXiv 2103.06255): the operator, the modules and the RedNet models built on it.

torch takes seconds to import. This package waits for it, so that the command can answer at once: the names below are
filled in when one is asked for, and the operator is registered as soon as torch is there.
"""

from __future__ import annotations

from involution import interrupt

if interrupt.is_command():
    interrupt.listen()

import importlib

from involution.after import after_import

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from involution import nn as nn
    from involution import ops as ops
    from involution.nn import Involution1d, Involution2d, Involution3d
    from involution.ops import dynamic_involution2d, involution1d, involution2d, involution3d

__version__ = "0.1.0"

__all__ = [
    "Involution1d",
    "Involution2d",
    "Involution3d",
    "dynamic_involution2d",
    "involution1d",
    "involution2d",
    "involution3d",
]

_ROOMS = ("nn", "ops")


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"involution.{name}")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # classes are modules, functions the operator
    room = importlib.import_module("involution.nn" if name[0].isupper() else "involution.ops")
    value = getattr(room, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, *_ROOMS, "__version__"]


# `torch.ops.involution` and exported programs need no more than `import involution`
after_import("torch", lambda torch: importlib.import_module("involution.ops"))

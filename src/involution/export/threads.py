"""With how many threads other runtimes compute."""

from __future__ import annotations

import os
import sys

from involution.after import after_import

_chosen: list[int] = []


def use_threads(count: int) -> None:
    """Let all runtimes compute with this many threads, PyTorch too, if it is ever imported."""
    _chosen[:] = [count]
    after_import("torch", lambda torch: torch.set_num_threads(count))


def threads() -> int:
    """With how many threads a runtime is to compute; 0 for as many as it likes."""
    if _chosen:
        return _chosen[0]
    if (torch := sys.modules.get("torch")) is not None:
        return int(torch.get_num_threads())
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() else 0

"""PyTorch's programs of torch.export, which run in Python with this package."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from involution.export.archive import is_archive, read_entry
from involution.export.graph import Graph, Run, trace
from involution.export.metadata import KEY
from involution.export.registry import Format, Settings, register


def _write(graph: Graph, metadata: str, path: Path, settings: Settings) -> None:
    torch.export.save(trace(graph), path, extra_files={f"{KEY}.json": metadata})


def _load(path: Path) -> Run:
    module = torch.export.load(path).module()

    @torch.inference_mode()
    def run(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(module(*inputs))

    return run


register(
    Format(
        name="pt2",
        suffix=".pt2",
        description="a program of torch.export, for PyTorch in Python with this package",
        runtime="torch",
        packages=(),
        write=_write,
        metadata=read_entry,
        load=_load,
        recognises=partial(is_archive, compiled=False),
    )
)

"""PyTorch's programs of torch.export, which run in Python with this package."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from involution.export.archive import is_archive, read_entry
from involution.export.metadata import KEY
from involution.export.registry import Format, Settings, register

if TYPE_CHECKING:
    from torch import Tensor

    from involution.export.graph import Graph, Run


def _write(graph: Graph, metadata: str, path: Path, settings: Settings) -> None:
    import torch

    from involution.export.graph import trace

    # where the disk is full, PyTorch's own writer of files ends the process
    archive = io.BytesIO()
    torch.export.save(trace(graph), archive, extra_files={f"{KEY}.json": metadata})
    path.write_bytes(archive.getbuffer())


def _load(path: Path) -> Run:
    import torch

    from involution.models.readers import check_archive

    check_archive(path)
    module = torch.export.load(path).module()

    @torch.inference_mode()
    def run(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        try:
            return tuple(module(*inputs))
        # what the program was traced for does not hold
        except AssertionError as error:
            raise RuntimeError(str(error)) from error

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

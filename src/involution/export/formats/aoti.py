"""Packages of AOTInductor: the network compiled to a library for this machine's processor."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from involution.export.archive import is_archive, read_entry
from involution.export.errors import ExportError
from involution.export.metadata import KEY
from involution.export.registry import Format, Settings, register

if TYPE_CHECKING:
    from torch import Tensor

    from involution.export.graph import Graph, Run


def _check(settings: Settings) -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ExportError("aoti needs a C++ compiler, and none was found; install g++ or set CXX") from error


def _write(graph: Graph, metadata: str, path: Path, settings: Settings) -> None:
    import torch
    from torch._inductor import aoti_compile_and_package

    from involution.export.graph import trace
    from involution.models.compiled import without_word_of_cuda

    # weights become constants in the order that their convolutions want
    options = {"freezing": True, "aot_inductor.metadata": {KEY: metadata}}
    program = trace(graph)
    # where the disk is full, PyTorch's own writer of files ends the process
    archive = io.BytesIO()
    try:
        with torch.no_grad(), without_word_of_cuda(), warnings.catch_warnings():
            # of libraries about their own parts
            warnings.simplefilter("ignore")
            aoti_compile_and_package(program, package_path=archive, inductor_configs=options)
    # it fails in many ways, with pages of text
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ExportError(f"AOTInductor can't compile this network: {first[:300]}") from error
    path.write_bytes(archive.getbuffer())


def _load(path: Path) -> Run:
    import torch
    from torch._inductor import aoti_load_package

    from involution.models.readers import check_archive

    check_archive(path)
    module = aoti_load_package(str(path))

    @torch.inference_mode()
    def run(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        # compiled for this memory order
        return tuple(module(*(tensor.contiguous() for tensor in inputs)))

    return run


register(
    Format(
        name="aoti",
        suffix=".pt2",
        description="compiled by AOTInductor for this processor, for PyTorch in Python and C++",
        runtime="aoti",
        packages=(),
        write=_write,
        metadata=read_entry,
        load=_load,
        recognises=partial(is_archive, compiled=True),
        check=_check,
    )
)

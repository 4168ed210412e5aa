"""Trained networks as files for other runtimes.

Example:
    >>> from involution.export import export_checkpoint, load_exported
    >>> print(export_checkpoint("runs/digits/best.ckpt", "aoti"))  # doctest: +SKIP
    >>> load_exported("best.pt2", "aoti").predict("seven.png").label  # doctest: +SKIP
    '7'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from involution.export.errors import ExportError as ExportError
    from involution.export.libraries import LibraryError as LibraryError
    from involution.export.libraries import onnx_library as onnx_library
    from involution.export.libraries import openvino_library as openvino_library
    from involution.export.load import load_exported as load_exported
    from involution.export.metadata import Metadata as Metadata
    from involution.export.write import Exported as Exported
    from involution.export.write import export_checkpoint as export_checkpoint

# what is asked for is imported then: the libraries for other runtimes need none of what exporting needs
_PLACES = {
    "ExportError": "errors",
    "Exported": "write",
    "LibraryError": "libraries",
    "Metadata": "metadata",
    "export_checkpoint": "write",
    "load_exported": "load",
    "onnx_library": "libraries",
    "openvino_library": "libraries",
}

__all__ = [
    "ExportError",
    "Exported",
    "LibraryError",
    "Metadata",
    "export_checkpoint",
    "load_exported",
    "onnx_library",
    "openvino_library",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)

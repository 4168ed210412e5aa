"""Trained networks as files for other runtimes.

Example:
    >>> from involution.export import export_checkpoint, load_exported
    >>> print(export_checkpoint("runs/digits/best.ckpt", "aoti"))  # doctest: +SKIP
    >>> load_exported("best.pt2", "aoti").predict("seven.png").label  # doctest: +SKIP
    '7'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from involution.after import on_demand

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
    "ExportError": "involution.export.errors",
    "Exported": "involution.export.write",
    "LibraryError": "involution.export.libraries",
    "Metadata": "involution.export.metadata",
    "export_checkpoint": "involution.export.write",
    "load_exported": "involution.export.load",
    "onnx_library": "involution.export.libraries",
    "openvino_library": "involution.export.libraries",
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

__getattr__ = on_demand(__name__, _PLACES)

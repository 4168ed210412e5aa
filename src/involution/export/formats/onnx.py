"""ONNX files: of standard operators for any runtime, or of this package's operators for its library."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from involution.export.check import milliseconds
from involution.export.contract import DOMAIN
from involution.export.errors import ExportError
from involution.export.libraries import BUILD, LibraryError, onnx_library
from involution.export.metadata import KEY, KEY_8_BITS
from involution.export.registry import Format, Settings, on_tensors, register
from involution.export.threads import threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from involution.export.graph import Graph
    from involution.export.registry import ArrayRun

# ONNX Runtime looks at it when it is imported, by whatever comes first: it would report to its makers, and leave files
# in the home folder
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# the oldest and the newest version of ONNX's operators that PyTorch writes, and the one that is usual
_OLDEST, _NEWEST, _OPSET = 18, 23, 20
# beside the file with standard operators while it is compared: the one for the library
_LIBRARY = ".library"


def _check(settings: Settings) -> None:
    if settings.opset is not None and not _OLDEST <= settings.opset <= _NEWEST:
        raise ExportError(f"wanted an opset from {_OLDEST} to {_NEWEST}, got {settings.opset}")
    if settings.operators not in ("standard", "library"):
        raise ExportError(f"wanted operators standard or library, got {settings.operators!r}")
    if settings.operators == "library":
        # or says why there is none
        onnx_library()


def _write(graph: Graph, metadata: str, path: Path, settings: Settings) -> None:
    import onnx

    from involution.export.graph import trace
    from involution.export.onnx_program import to_onnx

    model = to_onnx(trace(graph), graph, settings.opset or _OPSET)
    with_library, said = model, ""
    if settings.int8 is not None:
        from involution.export.onnx_int8 import quantise
        from involution.export.onnx_involutions import quantise_involutions

        model = quantise(model, settings.int8)
        with_library, said = quantise_involutions(model)
    elif settings.weights != "float32":
        from involution.export.onnx_weights import store_as

        store_as(model, settings.weights)
    if settings.operators == "standard" and any(one.domain == DOMAIN for one in model.opset_import):
        from involution.export.standard_onnx import expand

        onnx.save(with_library, path.with_suffix(_LIBRARY))
        model = expand(model)
        onnx.checker.check_model(model, full_check=True)
        said = said and "involutions in float32, as standard operators compute them"
    else:
        model = with_library
    for name, value in ((KEY, metadata), (KEY_8_BITS, said)):
        if value:
            model.metadata_props.add(key=name, value=value)
    onnx.save(model, path)


def _metadata(path: Path) -> str | None:
    return _entry(path, KEY)


def _entry(path: Path, name: str) -> str | None:
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    # protobuf's own error, which is no public name of onnx
    except Exception as error:
        raise ExportError(f"{path}: not an ONNX file, or a damaged one") from error
    return next((entry.value for entry in model.metadata_props if entry.key == name), None)


def _session(path: Path) -> Any:
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    # what is wrong is raised
    options.log_severity_level = 4
    model = onnx.load(path, load_external_data=False)
    if any(one.domain == DOMAIN for one in model.opset_import):
        options.register_custom_ops_library(onnx_library())
    try:
        # the library's operators are CPU kernels
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    # of a class of its own
    except Exception as error:
        unknown = re.search(rf"{DOMAIN}:(\w+)\(-?\d+\) is not a registered", str(error))
        if unknown is None:
            raise
        raise LibraryError(
            f"{path}: needs {unknown[1]}, which the installed library for ONNX Runtime does not have; a newer one is "
            f"needed: {BUILD}"
        ) from error


def _load(path: Path) -> ArrayRun:
    session = _session(path)
    names = [one.name for one in session.get_inputs()]

    def run(inputs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        try:
            return tuple(session.run(None, dict(zip(names, inputs, strict=True))))
        # of classes of its own, with pages of text
        except Exception as error:
            raise RuntimeError(" ".join(str(error).split())[:300]) from error

    return run


def _remark(path: Path, graph: Graph) -> str:
    """How many involutions are in 8 bits, and how much slower standard operators are than the library's."""
    return "; ".join(filter(None, (_entry(path, KEY_8_BITS), _slower(path, graph))))


def _slower(path: Path, graph: Graph) -> str:
    other = path.with_suffix(_LIBRARY)
    if not other.is_file():
        return ""
    try:
        runs = [_load(path), _load(other)]
    except LibraryError:
        return "slower than with --operators library, whose library is not built here"
    inputs = [(one.example[:1] if 0 in one.open else one.example).numpy() for one in graph.inputs]
    ours, theirs = milliseconds(*(lambda run=run: run(inputs) for run in runs))
    return f"{ours / theirs:.1f} times the time of --operators library"


register(
    Format(
        name="onnx",
        suffix=".onnx",
        description="for ONNX Runtime and whatever else reads ONNX",
        runtime="onnx",
        packages=("onnx", "onnxruntime"),
        writers=("onnxscript",),
        write=_write,
        metadata=_metadata,
        load=on_tensors(_load),
        load_arrays=_load,
        recognises=lambda path: path.suffix == ".onnx",
        options=("opset", "operators", "int8", "weights"),
        check=_check,
        remark=_remark,
    )
)

"""OpenVINO's IR, an .xml with the graph and a .bin with the weights, for this package's extension."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from involution.export.contract import DOMAIN
from involution.export.errors import ExportError
from involution.export.libraries import openvino_library
from involution.export.metadata import KEY, KEY_8_BITS
from involution.export.registry import Format, Settings, on_tensors, register
from involution.export.threads import threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from involution.export.graph import Graph
    from involution.export.registry import ArrayRun

# whatever the processor has: a file computes what PyTorch does
_PRECISION = "f32"
# entry of the .xml for the checksums of both files
_SUMS = f"{KEY}_sums"
_OPSET = 20
# batch sizes for which a network is kept compiled
_KEPT = 4


def _write(graph: Graph, metadata: str, path: Path, settings: Settings) -> None:
    import onnx
    import openvino

    from involution.export.graph import trace
    from involution.export.onnx_program import to_onnx
    from involution.export.onnx_sizes import read_sizes

    model = to_onnx(trace(graph), graph, _OPSET)
    read_sizes(model)
    between = path.with_suffix(".onnx")
    onnx.save(model, between)
    core = _core(any(one.domain == DOMAIN for one in model.opset_import))
    try:
        converted = core.read_model(between)
        if settings.int8 is not None:
            from involution.export.openvino_int8 import quantise

            converted, remark = quantise(converted, settings.int8)
            converted.set_rt_info(remark, [KEY_8_BITS])
        converted.set_rt_info(metadata, [KEY])
        half = settings.weights == "float16"
        openvino.save_model(converted, path, compress_to_fp16=half)
        # once more, to say in the one file what is in the other
        converted.set_rt_info(_sums(path), [_SUMS])
        openvino.save_model(converted, path, compress_to_fp16=half)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO can't take this network: {' '.join(str(error).split())[:300]}") from error


def _check(settings: Settings) -> None:
    if settings.weights == "bfloat16":
        raise ExportError("OpenVINO's files can't store weights as bfloat16; wanted float16 or float32")


def _core(with_extension: bool) -> Any:
    import openvino

    core = openvino.Core()
    if with_extension:
        core.add_extension(openvino_library())
    return core


def _metadata(path: Path) -> str | None:
    return _entry(path, KEY)


def _remark(path: Path, graph: Graph) -> str:
    return _entry(path, KEY_8_BITS) or ""


def _entry(path: Path, name: str) -> str | None:
    entry = _parsed(path).find(f"rt_info/{name}")
    return None if entry is None else entry.get("value")


def _parsed(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ExportError(f"{path}: not an IR of OpenVINO, or a damaged one") from error


def _sums(path: Path) -> str:
    """Checksums of the layers in the .xml and of the weights in the .bin."""
    layers = _parsed(path).find("layers")
    both = b"" if layers is None else ElementTree.tostring(layers), path.with_suffix(".bin").read_bytes()
    return " ".join(hashlib.sha256(one).hexdigest() for one in both)


def _check_pair(path: Path) -> None:
    """Raise `ExportError` where the .bin is not the one that was written with the .xml.

    What another tool saved anew has other layers, and can't be told.
    """
    said, found = (_entry(path, _SUMS) or "").split(), _sums(path).split()
    if said[:1] == found[:1] and said != found:
        raise ExportError(
            f"{path}: {path.with_suffix('.bin').name} is not what was written with it, but of another network, or "
            "damaged; keep both files of an export together"
        )


def _load(path: Path) -> ArrayRun:
    core = _core(any(layer.get("version") == DOMAIN for layer in _parsed(path).iter("layer")))
    if not path.with_suffix(".bin").is_file():
        raise ExportError(f"{path}: its weights are missing, {path.with_suffix('.bin').name} in the same folder")
    _check_pair(path)
    options = {"INFERENCE_PRECISION_HINT": _PRECISION, "INFERENCE_NUM_THREADS": threads()}

    @functools.lru_cache(_KEPT)
    def compiled(batch: int | None) -> Any:
        """The network for one batch size, or as it is in the file."""
        chosen = model if batch is None else model.clone()
        if batch is not None:
            chosen.reshape(
                {one: [batch, *list(one.partial_shape)[1:]] for one in chosen.inputs if one.partial_shape.is_dynamic}
            )
        return core.compile_model(chosen, "CPU", options)

    try:
        model = core.read_model(path)
        # for an open batch OpenVINO copies tensors into another memory order and back around each involution
        unfixed = [one for one in model.inputs if one.partial_shape.is_dynamic]
        only_batch = bool(unfixed) and all(size.is_static for one in unfixed for size in list(one.partial_shape)[1:])
        compiled(1 if only_batch else None)
    except RuntimeError as error:
        raise ExportError(f"{path}: OpenVINO can't load it: {' '.join(str(error).split())[:300]}") from error

    def run(inputs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        network = compiled(len(inputs[0]) or None if only_batch else None)
        found = network(list(inputs))
        # the memory of the results is used again by the next call
        return tuple(found[place].copy() for place in range(len(network.outputs)))

    return run


register(
    Format(
        name="openvino",
        suffix=".xml",
        description="for OpenVINO with this package's extension, with a .bin beside it",
        runtime="openvino",
        packages=("openvino",),
        writers=("onnx", "onnxscript"),
        write=_write,
        metadata=_metadata,
        load=on_tensors(_load),
        load_arrays=_load,
        recognises=lambda path: path.suffix == ".xml",
        options=("int8", "weights"),
        beside=(".bin",),
        check=_check,
        remark=_remark,
        quantisers=("nncf",),
    )
)

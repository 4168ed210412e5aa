"""Safe readers of checkpoint files: a file is data, none of it is ever executed."""

import codecs
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from involution.models.layouts import CheckpointError

# the pickled magic number that opens torch.save's format before PyTorch 1.6
_LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a checkpoint file by name.

    Reads safetensors, ``torch.save`` files (a state dict, or one under ``state_dict`` or ``model``) and
    PaddlePaddle's pickles of NumPy arrays. PyTorch's files go through ``torch.load(weights_only=True)``,
    PaddlePaddle's through an unpickler that rebuilds NumPy arrays and refuses everything else.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: No such file.
        CheckpointError: Not a checkpoint, broken, without tensors, or a pickle that asks for code to be run.
    """
    return read_with_classes(path)[0]


def read_with_classes(path: str | Path) -> tuple[dict[str, torch.Tensor], list[str] | None]:
    """Read as `read_state_dict` does, and the class names that mmcv's files may have under ``meta``.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: No such file.
        CheckpointError: As `read_state_dict`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint file {path}")
    with path.open("rb") as file:
        head = file.read(64)
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        content = _read_safetensors(path)
    elif head.startswith((b"PK\x03\x04", _LEGACY_TORCH)):
        content = _read_torch(path)
    elif head.startswith(b"\x80"):
        content = _read_paddle(path)
    else:
        hint = ", a web page saved in its place" if head.lstrip().startswith(b"<") else ""
        raise CheckpointError(
            f"{path} is no checkpoint{hint}: wanted safetensors, a torch.save file or PaddlePaddle's "
            f".pdparams, got a file that begins with {head[:16]!r}"
        )
    return _tensors(content, path), _classes(content)


def _classes(content: Any) -> list[str] | None:
    meta = content.get("meta") if isinstance(content, Mapping) else None
    names = meta.get("CLASSES") if isinstance(meta, Mapping) else None
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        return None
    return list(names)


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is broken: {error}") from error


def _read_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_numpy_globals()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"(?:GLOBAL|global|class|function) `?([\w.]+)", str(error))
        reason = f"its pickle asks for {wanted[1]}" if wanted else "its pickle holds more than tensors"
        raise CheckpointError(
            f"{path} is refused, nothing of it was run: {reason}, which a checkpoint has no need of"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} is broken: {error}") from error


def _numpy_globals() -> list[Any]:
    # the training log in the authors' files holds NumPy scalars, named differently before NumPy 2
    import numpy as np

    reconstruct, scalar = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    named = [
        (function, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for function, name in ((reconstruct, "_reconstruct"), (scalar, "scalar"))
    ]
    dtypes = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?")]
    return [*named, np.ndarray, np.dtype, *dtypes]


class _Refused(pickle.UnpicklingError):
    """A pickle names what no array needs."""


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds NumPy arrays, and nothing else that a pickle may name."""

    def find_class(self, module: str, name: str) -> Any:
        import numpy as np

        module = module.replace("numpy._core.", "numpy.core.")
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): _empty_array,
            ("numpy.core.numeric", "_frombuffer"): _array_from_buffer,
            # an argument of _reconstruct only, so it need not be callable
            ("numpy", "ndarray"): "ndarray",
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _latin1,
        }
        if (module, name) not in allowed:
            raise _Refused(f"{module}.{name}")
        return allowed[module, name]


def _empty_array(*_: Any) -> Any:
    # the state that follows sets shape and type; these arguments could ask for any amount of memory
    import numpy as np

    return np.ndarray((0,), dtype="b")


def _array_from_buffer(buffer: bytes, dtype: Any, shape: tuple[int, ...], order: Any) -> Any:
    import numpy as np

    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)


def _latin1(text: str, encoding: str) -> bytes:
    # the bytes of an array in pickle protocols 0 to 2
    if encoding != "latin1":
        raise _Refused(f"bytes encoded as {encoding!r}")
    return codecs.encode(text, "latin1")


def _read_paddle(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file, encoding="latin1").load()
    except _Refused as error:
        raise CheckpointError(
            f"{path} is refused, nothing of it was run: its pickle asks for {error}, "
            "where only NumPy arrays by name are read"
        ) from error
    # a broken or hostile stream can raise nearly anything from the unpickler
    except Exception as error:
        raise CheckpointError(f"{path} is broken: {type(error).__name__}: {error}") from error
    if isinstance(content, Mapping):
        return {key: value for key, value in content.items() if key != "StructuredToParameterName@@"}
    return content


def _tensors(content: Any, path: Path) -> dict[str, torch.Tensor]:
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds no state dict: wanted tensors by name, got {type(content).__name__}")
    import numpy as np

    tensors: dict[str, torch.Tensor] = {}
    for name, value in content.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.dtype.itemsize <= 8:
            # a copy: arrays from a pickle can be read-only or big-endian
            value = torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            kind = f"array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
            raise CheckpointError(f"{path} holds more than tensors by name: {name!r} is of type {kind}")
        tensors[name] = value
    return tensors

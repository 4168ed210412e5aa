"""PaddlePaddle's pickles of NumPy arrays, read by an unpickler that rebuilds these and nothing else."""

import codecs
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from involution.models.errors import CheckpointError, in_one_line


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


def read_paddle(file: Path) -> Any:
    """Read a file of PaddlePaddle: arrays by name, as a rule.

    Raises:
        CheckpointError: It is damaged, or asks for code to be run.
    """
    try:
        with file.open("rb") as stream:
            content = _ArrayUnpickler(stream, encoding="latin1").load()
    except _Refused as error:
        raise CheckpointError(
            f"{file} is refused, nothing of it was run: its pickle asks for {error}, "
            "where only NumPy arrays by name are read"
        ) from error
    # a broken or hostile stream can raise nearly anything from the unpickler
    except Exception as error:
        raise CheckpointError(f"{file} is damaged: {in_one_line(error)}") from error
    if isinstance(content, Mapping):
        return {key: value for key, value in content.items() if key != "StructuredToParameterName@@"}
    return content

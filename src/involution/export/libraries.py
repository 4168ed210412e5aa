"""The C++ libraries that compute the nodes of `involution.export.contract` in other runtimes.

ONNX Runtime's has a stable C interface, so it is compiled when this package is installed and serves every version from
1.17. OpenVINO's C++ changes from release to release: its extension is compiled at first use, for the version that is
installed, and kept in a cache.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from involution.export.errors import ExportError
from involution.extras import require

CACHE = "INVOLUTION_CACHE"
_NATIVE = Path(__file__).with_name("native")
_ONNXRUNTIME = "libinvolution_onnxruntime.so"
_KERNELS, _SOURCES = "kernels.o", ("register_openvino.cpp", "node.h", "problem.h")
_FLAGS = ("-std=c++17", "-O2", "-g0", "-w", "-fPIC", "-shared", "-fvisibility=hidden")
BUILD = "INVOLUTION_BUILD_NATIVE=1 pip install --no-build-isolation . builds it, or says why it can't"


class LibraryError(ExportError):
    """A library that can't be had; the message says why and what to do."""


def onnx_library() -> str:
    """Return the path of the library of custom operators for ONNX Runtime 1.17 or later.

    ``SessionOptions.register_custom_ops_library`` takes it; it needs neither torch nor Python.

    Raises:
        LibraryError: This installation has none.
    """
    return str(_built(_ONNXRUNTIME, "library for ONNX Runtime"))


def openvino_library() -> str:
    """Return the path of the extension for the installed OpenVINO, which ``Core.add_extension`` takes.

    The first call compiles it, in about half a minute, and keeps it in the folder of ``INVOLUTION_CACHE``, by default
    ``~/.cache/involution``. Other processes wait for the one that compiles.

    Raises:
        MissingExtra: OpenVINO is not installed.
        LibraryError: There is nothing to compile, no compiler, or compiling fails.
        OSError: The cache can't be written.
    """
    require("openvino")
    import openvino

    folder, version = Path(openvino.__file__).parent, openvino.get_version()
    parts = [_built(name, "kernels for OpenVINO") for name in (_KERNELS, *_SOURCES)]
    key = hashlib.sha256("\0".join([version, str(folder), *_FLAGS]).encode())
    for part in parts:
        key.update(part.read_bytes())
    release = version.split("-")[0]
    library = cache_folder() / f"libinvolution_openvino-{release}-{key.hexdigest()[:16]}.so"
    if not library.is_file():
        with _alone(library):
            # another process may have made it meanwhile
            if not library.is_file():
                _compile(library, folder, release)
    return str(library)


def cache_folder() -> Path:
    """Return the folder of what is compiled at first use."""
    if given := os.environ.get(CACHE):
        return Path(given).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "involution"


def _built(name: str, title: str) -> Path:
    """A file that the installation compiled or copied."""
    file = _NATIVE / name
    if not file.is_file():
        raise LibraryError(f"this installation has no {title} ({name}): {BUILD}")
    return file


def _compile(library: Path, folder: Path, release: str) -> None:
    """Compile the extension; the file appears whole or not at all."""
    given = os.environ.get("CXX", "").split()
    choices = [given] if given else [["c++"], ["g++"], ["clang++"]]
    compiler = next((words for words in choices if shutil.which(words[0])), None)
    if compiler is None:
        names = ", ".join(words[0] for words in choices)
        raise LibraryError(
            f"the extension for OpenVINO {release} is compiled at first use, and there is no C++ compiler ({names}): "
            "install one, or name it by CXX"
        )
    linked = [_shared(folder / "libs", name) for name in ("openvino", "tbb")]
    part = library.with_name(f".{library.name}.{os.getpid()}.part")
    command = [*compiler, *_FLAGS, f"-I{folder / 'include'}", str(_NATIVE / _SOURCES[0]), str(_NATIVE / _KERNELS)]
    command += [*linked, f"-Wl,-rpath,{folder / 'libs'}", "-o", str(part)]
    if sys.platform != "darwin":
        command.append("-Wl,--gc-sections")
    print(f"compiling the extension for OpenVINO {release}, once: {library}", file=sys.stderr)
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["?"]
            raise LibraryError(f"the extension for OpenVINO {release} can't be compiled by {compiler[0]}: {said[0]}")
        os.replace(part, library)
    finally:
        part.unlink(missing_ok=True)


def _shared(folder: Path, name: str) -> str:
    """A library of OpenVINO's package, by the name without version."""
    found = sorted([*folder.glob(f"lib{name}.so*"), *folder.glob(f"lib{name}.*dylib")])
    if not found:
        raise LibraryError(f"OpenVINO's package has no lib{name} in {folder}; pip install --force-reinstall openvino")
    return str(found[0])


@contextmanager
def _alone(library: Path) -> Iterator[None]:
    """Wait until no other process compiles this library."""
    from filelock import FileLock

    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(library.with_suffix(".lock"))
        lock.acquire()
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}; {CACHE} chooses another place", str(library.parent)) from error
    try:
        yield
    finally:
        lock.release()

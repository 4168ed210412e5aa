"""Builds the optional C++ library of CPU kernels; everything else about the package is in pyproject.toml.

It needs torch's headers and GCC or Clang, so install with ``pip install --no-build-isolation .``; without them the
package is pure Python and works. ``INVOLUTION_BUILD_NATIVE=0`` leaves the library out, ``1`` makes a failure an error.
"""

import os
import platform
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import setuptools

if int(setuptools.__version__.split(".")[0]) < 77:
    # without isolation nobody else checks
    raise SystemExit(f"building needs setuptools >= 77; got {setuptools.__version__}. Run pip install -U setuptools")

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

# torch 2.10, the first with all that the library calls; it then runs with every later one
TARGET = "0x020a000000000000"
FLAGS = ["-std=c++17", "-O3", "-g0", "-Wall", "-Wextra", "-Wno-psabi", "-fPIC", "-fvisibility=hidden"]
FLAGS += ["-ffp-contract=fast", "-fno-math-errno"]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq"]
SETS: dict[str, list[str]] = {"baseline": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    SETS |= {"avx2": AVX2, "avx512": AVX512}


def why_not() -> str | None:
    """Return what keeps the library from being built, if anything does."""
    if os.environ.get("INVOLUTION_BUILD_NATIVE") == "0":
        return "INVOLUTION_BUILD_NATIVE=0"
    if sys.platform == "win32":
        return "no support for Windows' compiler"
    if find_spec("torch") is None:
        return "torch is not here while building; use pip install --no-build-isolation"
    if not any(shutil.which(compiler) for compiler in (os.environ.get("CXX", "").split() or ["c++", "g++", "clang++"])):
        return "no C++ compiler found"
    return None


class BuildNative(build_ext):
    """Compile each instruction set's file with its own flags."""

    def get_ext_filename(self, name: str) -> str:
        """Return a name without Python's tag: the library does not depend on it."""
        return os.path.join(*name.split(".")) + ".so"

    def build_extension(self, extension: Extension) -> None:
        """Compile and link; a failure costs the library, not the package, unless it was asked for."""
        try:
            self._build(extension)
        except Exception as error:
            if os.environ.get("INVOLUTION_BUILD_NATIVE") == "1":
                raise
            self.warn(f"involution's C++ kernels were not built: {error}")

    def copy_extensions_to_source(self) -> None:
        """Copy for an editable install, if there is something to copy."""
        if all(Path(self.build_lib, self.get_ext_filename(e.name)).exists() for e in self.extensions):
            super().copy_extensions_to_source()

    def _build(self, extension: Extension) -> None:
        spec = find_spec("torch")
        assert spec is not None
        assert spec.origin is not None
        torch = Path(spec.origin).parent
        jobs = [(f"csrc/sets/{name}.cpp", flags) for name, flags in SETS.items()]
        jobs += [("csrc/dispatch.cpp", []), ("csrc/register.cpp", ["-isystem", str(torch / "include")])]

        def compile_one(job: tuple[str, list[str]]) -> list[str]:
            source, flags = job
            return self.compiler.compile(
                [source],
                output_dir=self.build_temp,
                macros=[("TORCH_TARGET_VERSION", TARGET)],
                extra_postargs=[*FLAGS, *flags],
                depends=extension.depends,
            )

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = [file for files in pool.map(compile_one, jobs) for file in files]
        self.compiler.link_shared_object(
            objects,
            self.get_ext_fullpath(extension.name),
            libraries=["torch", "torch_cpu", "c10"],
            library_dirs=[str(torch / "lib")],
            target_lang="c++",
        )


class Wheel(bdist_wheel):
    """One wheel for every Python: the library uses nothing of it."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return py3-none-<platform>, or the pure tag where there is no library."""
        _, _, system = super().get_tag()
        return "py3", "none", system


reason = why_not()
if reason and os.environ.get("INVOLUTION_BUILD_NATIVE") == "1":
    raise SystemExit(f"INVOLUTION_BUILD_NATIVE=1, but {reason}")
if reason:
    print(f"involution's C++ kernels are left out: {reason}", file=sys.stderr)
native = Extension(
    "involution.ops.libinvolution_cpu",
    sources=["csrc/register.cpp"],
    depends=[str(path) for path in Path("csrc").rglob("*") if path.is_file()],
    language="c++",
)
setup(ext_modules=[] if reason else [native], cmdclass={"build_ext": BuildNative, "bdist_wheel": Wheel})

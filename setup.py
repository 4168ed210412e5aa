"""Builds the optional C++ library of CPU kernels; everything else about the package is in pyproject.toml.

It needs torch's headers and GCC or Clang, so install with ``pip install --no-build-isolation .``; without them the
package is pure Python and works. ``INVOLUTION_BUILD_NATIVE=0`` leaves the library out, ``1`` makes a failure an error.
"""

import os
import platform
import re
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
ARCHITECTURE = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())


def instruction_sets() -> dict[str, list[str]]:
    """Return the compiler's flags for each instruction set that this architecture has."""
    lines = re.findall(r"^INVOLUTION_SET\((\w+), (\w+), (.*)\)$", Path("csrc/sets/list.h").read_text(), re.MULTILINE)
    return {
        name: [f"-m{feature}" for feature in re.findall(r"F\((\w+)\)", features)]
        for name, architecture, features in lines
        if architecture in ("any", ARCHITECTURE)
    }


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
        jobs = [("csrc/sets/set.cpp", name, flags) for name, flags in instruction_sets().items()]
        jobs += [("csrc/dispatch.cpp", "all", []), ("csrc/register.cpp", "all", ["-isystem", str(torch / "include")])]

        def compile_one(job: tuple[str, str, list[str]]) -> list[str]:
            source, name, flags = job
            return self.compiler.compile(
                [source],
                output_dir=os.path.join(self.build_temp, name),
                macros=[("TORCH_TARGET_VERSION", TARGET), ("INVOLUTION_NAME", name)],
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

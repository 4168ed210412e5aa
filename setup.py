"""Builds the optional C++ libraries of CPU kernels; everything else about the package is in pyproject.toml.

They need GCC or Clang and torch's headers, so install with ``pip install --no-build-isolation .``; without them the
package is pure Python and works. ``INVOLUTION_BUILD_NATIVE=0`` leaves them out, ``1`` makes a failure an error, and
``runtimes`` builds those for other runtimes alone, which need no torch; a failure is an error then, too. ``kernels``
compiles all that needs no torch, for a build that follows: what is compiled is kept in build/objects.
``INVOLUTION_BUILD_SETS=native`` compiles two of the instruction sets, the best that this processor has and the one that
every processor has; the library then runs elsewhere, too, but not as fast.
"""

import hashlib
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, cached_property
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
FLAGS += ["-ffp-contract=fast", "-fno-math-errno", "-ffunction-sections", "-fdata-sections"]
WANTED = os.environ.get("INVOLUTION_BUILD_NATIVE")
MUST = WANTED in ("1", "runtimes")
WITHOUT_TORCH = WANTED in ("runtimes", "kernels")
# a library for inference leaves the gradients out
USED_ALONE = "-Wl,-dead_strip" if sys.platform == "darwin" else "-Wl,--gc-sections"
# the target's when cross-compiling, as sysconfig has it
MACHINE = os.environ.get("_PYTHON_HOST_PLATFORM", platform.machine()).rpartition("-")[2].lower()
ARCHITECTURE = {"amd64": "x86_64"}.get(MACHINE, MACHINE)


def readme() -> str:
    """Return README.md, with links into INVOLUTION_REPOSITORY where it is set: PyPI has no files beside it."""
    text = Path("README.md").read_text(encoding="utf-8")
    home = os.environ.get("INVOLUTION_REPOSITORY", "").rstrip("/")
    version = re.search(r'^__version__ = "(.+)"', Path("src/involution/__init__.py").read_text(), re.MULTILINE)
    if not home or version is None:
        return text
    kinds = {r"\]\(": "blob", r'(?:src|srcset)="': "raw"}
    for before, kind in kinds.items():
        text = re.sub(rf"({before})(?!\w+:|#)", rf"\g<1>{home}/{kind}/v{version[1]}/", text)
    return text


@cache
def instruction_sets() -> dict[str, list[str]]:
    """Return the compiler's flags for each instruction set that is compiled, the best first."""
    reader = runpy.run_path("csrc/sets/listed.py")
    found: dict[str, list[str]] = reader["listed"](ARCHITECTURE)
    native = os.environ.get("INVOLUTION_BUILD_SETS") == "native"
    # all sets for a compiler that can't tell
    if native and (here := reader["run_here"](found, os.environ.get("CXX", "c++").split())):
        found = {name: found[name] for name in dict.fromkeys([here[0], here[-1]])}
    return found


def why_not() -> str | None:
    """Return what keeps the library from being built, if anything does."""
    if WANTED == "0":
        return "INVOLUTION_BUILD_NATIVE=0"
    if sys.platform == "win32":
        return "no support for Windows' compiler"
    if not WITHOUT_TORCH and find_spec("torch") is None:
        return "torch is not here while building; use pip install --no-build-isolation"
    if not any(shutil.which(compiler) for compiler in (os.environ.get("CXX", "").split() or ["c++", "g++", "clang++"])):
        return "no C++ compiler found"
    return None


def torch_folder() -> Path:
    """Return the folder of the installed torch."""
    spec = find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


class BuildNative(build_ext):
    """Compile each instruction set's file with its own flags, once for all libraries."""

    def get_ext_filename(self, name: str) -> str:
        """Return a name without Python's tag, which the libraries don't need; `name` may be the last part alone."""
        return os.path.join(*name.split(".")) + (".o" if KERNELS.endswith(name) else ".so")

    def build_extension(self, extension: Extension) -> None:
        """Compile and link; a failure costs the library, not the package, unless it was asked for."""
        try:
            self._build(extension)
        except Exception as error:
            if MUST:
                raise
            self.warn(f"involution's C++ kernels were not built: {extension.name}: {error}")

    def copy_extensions_to_source(self) -> None:
        """Copy what was built, for an editable install."""
        built = [self.get_ext_filename(extension.name) for extension in self.extensions]
        for name in [*built, *(os.path.join(*NATIVE.split("."), source) for source in OPENVINO_SOURCES)]:
            if Path(self.build_lib, name).exists():
                Path("src", name).parent.mkdir(exist_ok=True)
                self.copy_file(os.path.join(self.build_lib, name), os.path.join("src", name))

    def _build(self, extension: Extension) -> None:
        if WANTED == "kernels":
            for compiled in self._compiled.values():
                compiled.result()
            return
        path = Path(self.get_ext_fullpath(extension.name))
        path.parent.mkdir(parents=True, exist_ok=True)
        used = [("csrc/sets/set.cpp", name) for name in instruction_sets()]
        used += [("csrc/dispatch.cpp", "all" if extension.sources[0] == REGISTER else "inference")]
        objects = [self._compiled[one].result() for one in used]
        if extension.name == KERNELS:
            # the C++ of OpenVINO has no stable ABI: the rest is compiled where it is used
            # with what an older compiler's libgcc may not have
            libgcc = ["-lgcc"] if sys.platform == "linux" else []
            self.spawn([*self.compiler.linker_so[:1], "-r", "-nostdlib", *objects, *libgcc, "-o", str(path)])
            for source in OPENVINO_SOURCES:
                self.copy_file(os.path.join("csrc", source), str(path.parent / source))
            return
        objects.append(self._compiled[extension.sources[0], "all"].result())
        if extension.name == ONNXRUNTIME:
            self.compiler.link_shared_object(objects, str(path), extra_postargs=[USED_ALONE], target_lang="c++")
            return
        self.compiler.link_shared_object(
            objects,
            str(path),
            libraries=["torch", "torch_cpu", "c10"],
            library_dirs=[str(torch_folder() / "lib")],
            target_lang="c++",
        )

    @cached_property
    def _compiled(self) -> dict[tuple[str, str], Future[str]]:
        """The object of each source and name, all compiled side by side, those that take longest first."""
        compiles = [("csrc/sets/set.cpp", *found) for found in instruction_sets().items()]
        if not WITHOUT_TORCH:
            compiles += [(REGISTER, "all", ["-isystem", str(torch_folder() / "include")])]
            compiles += [("csrc/dispatch.cpp", "all", [])]
        compiles += [("csrc/register_onnxruntime.cpp", "all", [])]
        compiles += [("csrc/dispatch.cpp", "inference", ["-DINVOLUTION_INFERENCE"])]
        pool = ThreadPoolExecutor(os.cpu_count())
        return {(source, name): pool.submit(self._compile, source, name, flags) for source, name, flags in compiles}

    def _compile(self, source: str, name: str, flags: list[str]) -> str:
        """Return the object of a source, from build/objects if it was compiled before from the same text."""
        command = [*self.compiler.compiler_so_cxx, *FLAGS, *flags, f"-DINVOLUTION_NAME={name}"]
        command += [f"-DTORCH_TARGET_VERSION={TARGET}", source]
        text = subprocess.run([*command, "-E"], stdout=subprocess.PIPE, check=True).stdout
        key = hashlib.sha256("\0".join(command).encode() + text).hexdigest()[:16]
        found = Path("build", "objects", f"{Path(source).stem}-{name}-{key}.o")
        if not found.exists():
            found.parent.mkdir(parents=True, exist_ok=True)
            part = found.with_suffix(f".{os.getpid()}.part")
            self.spawn([*command, "-c", "-o", str(part)])
            part.replace(found)
        return str(found)


class Wheel(bdist_wheel):
    """One wheel for every Python: the library uses nothing of it."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return py3-none-<platform>, or the pure tag where there is no library."""
        _, _, system = super().get_tag()
        return "py3", "none", system


reason = why_not()
if reason and MUST:
    raise SystemExit(f"INVOLUTION_BUILD_NATIVE={WANTED}, but {reason}")
if reason:
    print(f"involution's C++ kernels are left out: {reason}", file=sys.stderr)
REGISTER = "csrc/register.cpp"
NATIVE = "involution.export.native"
ONNXRUNTIME, KERNELS = f"{NATIVE}.libinvolution_onnxruntime", f"{NATIVE}.kernels"
# what `involution.export` compiles with the kernels for the installed OpenVINO
OPENVINO_SOURCES = ("problem.h", "node.h", "register_openvino.cpp")
sources = {
    **({} if WITHOUT_TORCH else {"involution.ops.libinvolution_cpu": REGISTER}),
    ONNXRUNTIME: "csrc/register_onnxruntime.cpp",
    KERNELS: "csrc/dispatch.cpp",
}
depends = [str(path) for path in Path("csrc").rglob("*") if path.is_file()]
libraries = [Extension(name, [source], depends=depends, language="c++") for name, source in sources.items()]
setup(
    long_description=readme(),
    long_description_content_type="text/markdown",
    ext_modules=[] if reason else libraries,
    cmdclass={"build_ext": BuildNative, "bdist_wheel": Wheel},
)

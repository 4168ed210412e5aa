"""A C++ compiler for setup.py: GCC compiles, zig links against the glibc that is asked for.

``CXX="python release/cxx.py ARCHITECTURE GLIBC"``. zig brings the symbols of every glibc, so that a new Linux links
for an old one. GCC's libstdc++ stays, since exceptions go through torch, which uses it.
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# torch is loaded before the kernels are; its name is all that the linker needs, for any architecture
TORCH = ("torch", "torch_cpu", "c10")


def gcc(architecture: str, language: str) -> str:
    """Return GCC's command for an architecture: this machine's own, or Debian's cross compiler."""
    return language if architecture == os.uname().machine else f"{architecture}-linux-gnu-{language}"


def answer(*words: str) -> str:
    """Return what a command prints."""
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def stand_ins(architecture: str, link: list[str]) -> Path:
    """Make empty libraries with the names of torch's."""
    folder = Path("build", "stand-ins", architecture).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for name in TORCH:
        library = folder / f"lib{name}.so"
        if not library.exists():
            subprocess.run([*link, "-x", "c", os.devnull, f"-Wl,-soname,{library.name}", "-o", library], check=True)
    return folder


def main(architecture: str, glibc: str, *arguments: str) -> int:
    """Compile, or link where a shared library is wanted."""
    compiler = gcc(architecture, "g++")
    if "-shared" not in arguments:
        return subprocess.run([compiler, *arguments], check=False).returncode
    target = f"{architecture}-linux-gnu.{glibc}"
    link = [sys.executable, "-m", "ziglang", "cc", "-target", target, "-O2", "-s", "-shared"]
    # the parts of GCC that its objects need: the rest of libgcc is linked in, as older systems don't have all of it
    parts = ("libgcc.a", "libgcc_s.so.1", "libstdc++.so")
    found = [answer(compiler, f"-print-file-name={part}") for part in parts]
    ours = [word for word in arguments if word.endswith(".o") or word.startswith(("-l", "-Wl,--gc-sections"))]
    output = arguments[arguments.index("-o") + 1]
    command = [*link, "-Wl,--no-as-needed", f"-L{stand_ins(architecture, link)}", *ours, str(HERE / "older.c"), *found]
    return subprocess.run([*command, "-o", output], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

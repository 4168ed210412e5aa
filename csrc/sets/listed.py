"""Reads list.h: the instruction sets, and which of them this processor runs.

``python csrc/sets/listed.py ARCHITECTURE COMPILER …`` prints a line for each, the best first: "run" or "left-out", its
name, the compiler's flags.
"""

import os
import re
import subprocess
import sys
from pathlib import Path


def listed(architecture: str) -> dict[str, list[str]]:
    """Return the compiler's flags for each instruction set of an architecture, the best first."""
    text = Path(__file__).with_name("list.h").read_text()
    lines = re.findall(r"^INVOLUTION_SET\((\w+), (\w+), (.*)\)$", text, re.MULTILINE)
    return {
        name: [f"-m{feature}" for feature in re.findall(r"F\((\w+)\)", features)]
        for name, of, features in lines
        if of in ("any", architecture)
    }


def run_here(sets: dict[str, list[str]], compiler: list[str]) -> list[str]:
    """Return the names of those that this processor runs; none for a compiler that can't tell."""
    words = [*compiler, "-march=native", "-dM", "-E", "-x", "c", os.devnull]
    macros = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    found = [
        name for name, flags in sets.items() if all(f"#define __{flag[2:].upper()}__ " in macros for flag in flags)
    ]
    return found if macros else []


if __name__ == "__main__":
    sets = listed(sys.argv[1])
    here = run_here(sets, sys.argv[2:]) or list(sets)
    for name, flags in sets.items():
        print("run" if name in here else "left-out", name, *flags)

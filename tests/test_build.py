"""What setup.py compiles: each source once, and again when it changed.

The compiler is a stand-in that writes down what it is asked for.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMPILER = """
import sys
from pathlib import Path

words = sys.argv[1:]
source = next((word for word in words if word.endswith(".cpp")), None)
if "-dM" in words:
    print("#define __AVX2__ 1", "#define __FMA__ 1", "#define __F16C__ 1", sep="; ")
elif "-E" in words:
    print(Path(source).read_text())
elif "-c" not in words:
    if "-o" in words:
        linked = Path(words[words.index("-o") + 1])
        linked.write_text("#!/bin/sh")
        linked.chmod(0o755)
else:
    name = next((word for word in words if word.startswith("-DINVOLUTION_NAME=")), "")
    with open("compiled", "a") as log:
        print(Path(source).stem, name.partition("=")[2], file=log)
    Path(words[words.index("-o") + 1]).touch()
"""


@pytest.fixture
def tree(tmp_path):
    """A copy of what setup.py reads."""
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "src/involution/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "compiler.py").write_text(COMPILER)
    return tmp_path


def compiled(tree, wanted, instruction_sets="all"):
    """What a build asks of the compiler."""
    chosen = {"INVOLUTION_BUILD_NATIVE": wanted, "INVOLUTION_BUILD_SETS": instruction_sets}
    variables = {**os.environ, "CXX": f"{sys.executable} compiler.py", **chosen}
    words = [sys.executable, "setup.py", "--quiet", "build_ext"]
    done = subprocess.run(words, cwd=tree, env=variables, capture_output=True, text=True, check=False)
    log = tree / "compiled"
    found = sorted(log.read_text().splitlines()) if log.exists() else []
    log.unlink(missing_ok=True)
    return found, done


def sets():
    listed = re.findall(r"^INVOLUTION_SET\((\w+), (\w+),", (ROOT / "csrc/sets/list.h").read_text(), re.MULTILINE)
    return {f"set {name}" for name, architecture in listed if architecture in ("any", os.uname().machine)}


def test_what_was_compiled_is_taken_again_until_it_changes(tree):
    found, done = compiled(tree, "kernels")
    assert done.returncode == 0, done.stderr
    assert sets() <= set(found)
    # which wants torch's headers
    assert "register all" not in found
    assert compiled(tree, "kernels")[0] == []
    changed = tree / "csrc/sets/set.cpp"
    changed.write_text(f"{changed.read_text()}// changed\n")
    assert compiled(tree, "kernels")[0] == sorted(sets())
    assert compiled(tree, "1")[0] == ["dispatch all", "register all"]


def test_a_compile_that_was_cut_short_is_not_taken(tree):
    whole, _ = compiled(tree, "kernels")
    for file in (tree / "build/objects").iterdir():
        file.rename(file.with_suffix(".1.part"))
    assert compiled(tree, "kernels")[0] == whole


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="other processors have one instruction set")
def test_a_demo_compiles_the_best_of_this_processors_sets_and_the_plain_one(tree):
    # the stand-in's processor has no AVX-512
    found, _ = compiled(tree, "kernels", "native")
    assert {line for line in found if line.startswith("set ")} == {"set avx2", "set baseline"}
    assert compiled(tree, "kernels")[0] == ["set avx512"]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="other processors have one instruction set")
def test_a_compiler_that_can_not_tell_its_processor_compiles_all_sets(tree):
    (tree / "compiler.py").write_text(
        COMPILER.replace('if "-dM" in words:', 'if "-dM" in words:\n    sys.exit(1)\nif False:')
    )
    found, done = compiled(tree, "kernels", "native")
    assert done.returncode == 0, done.stderr
    assert sets() <= set(found)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="other processors have one instruction set")
def test_the_sanitizers_leave_out_what_this_processor_does_not_run(tree):
    variables = {**os.environ, "CXX": f"{sys.executable} {tree}/compiler.py", "PYTHON": sys.executable}
    done = subprocess.run(["csrc/sanitize.sh"], cwd=tree, env=variables, capture_output=True, text=True, check=True)
    assert done.stdout == "avx512 is left out: this processor does not run it\n"
    found = set((tree / "csrc/compiled").read_text().splitlines())
    assert found == {"driver ", "dispatch ", "set avx2", "set baseline"}

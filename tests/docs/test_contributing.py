"""What CONTRIBUTING names is there: files, folders, tests, names in files, and public rooms."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
QUOTED = sorted(set(re.findall(r"`([^`\n]+)`", TEXT)))
FOLDERS = ("csrc", "src/", "tests", "benchmarks", "docs", ".ci/")
PATHS = [word for word in QUOTED if word.startswith(FOLDERS) or word.endswith((".py", ".md"))]
TESTS = [word for word in PATHS if "::" in word]


def test_the_text_names_many():
    assert len(PATHS) > 40
    assert len(TESTS) > 6


@pytest.mark.parametrize("path", [path.split("::")[0] for path in PATHS if " " not in path and path != "config.py"])
def test_every_file_exists(path):
    # `spec.py` and the like are of any task
    assert (ROOT / path).exists() or list((ROOT / "src/involution/engine/tasks").glob(f"*/{path}"))


@pytest.mark.parametrize("test", TESTS)
def test_every_test_exists(test):
    file, name = test.split("::")
    assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")


def test_every_name_is_in_the_file_that_is_named_for_it():
    named = re.findall(r"`([\w/.]+\.py)`, `(\w+)`", TEXT)
    named += [(file, name) for name, file in re.findall(r"`(\w+)` (?:in|of)\s+`([\w/.]+\.py)`", TEXT)]
    assert ("src/involution/engine/task.py", "_TASKS") in named
    assert [(file, name) for file, name in named if name not in (ROOT / file).read_text(encoding="utf-8")] == []


@pytest.mark.parametrize("room", sorted({word for word in QUOTED if re.fullmatch(r"involution(\.\w+)*", word)}))
def test_every_public_room_can_be_imported(room):
    assert importlib.import_module(room).__name__ == room


def test_every_make_target_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"make ([a-z][\w-]+)", TEXT))
    assert "bench" in targets
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []

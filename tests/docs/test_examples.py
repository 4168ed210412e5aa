"""What the site says is tried: its Python runs, its command lines parse, its commands and options exist."""

import re
from pathlib import Path

import matplotlib
import pytest
from command_lines import parse, parser_of
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

from involution import cli
from involution.data import registry

ROOT = Path(__file__).parents[2]
PAGES = {
    str(page.relative_to(ROOT)): page
    for page in sorted([ROOT / "README.md", ROOT / "examples" / "README.md", *(ROOT / "docs").rglob("*.md")])
}


def python_blocks(page):
    return list(Sybil([PythonCodeBlockParser(), SkipParser()]).parse(page).examples())


WITH_PYTHON = [name for name, page in PAGES.items() if python_blocks(page)]


# the blocks of a page run in their order, with the names that those before have made
@pytest.mark.parametrize("name", WITH_PYTHON)
def test_python_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    # a page registers a format of its own
    monkeypatch.setattr(registry, "_FORMATS", {(item.task, item.name): item for item in registry.formats()})
    for example in python_blocks(PAGES[name]):
        example.evaluate()


def command_lines():
    found = set()
    for name, page in PAGES.items():
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        # README indents them
        blocks += re.findall(r"^    (involution [^\n]+)", text, re.MULTILINE)
        found |= {(name, line) for block in blocks for line in block.replace("\\\n", " ").splitlines() if line}
    return sorted(found)


def test_every_linked_file_exists():
    linked = {
        (name, page.parent / target)
        for name, page in PAGES.items()
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    }
    assert ("README.md", ROOT / "docs/install.md") in linked
    assert [(name, str(target)) for name, target in linked if not target.exists()] == []


@pytest.mark.parametrize(("name", "line"), command_lines())
def test_command_line_parses(name, line):
    parse(line)


def test_a_wrong_command_line_would_fail():
    with pytest.raises(Exception, match=r"--data\.spek"):
        parse("involution classify train --data.spek digits")


def test_every_option_that_the_text_names_exists():
    known = {option for words in cli.commands() for option in parser_of(words)[0]._option_string_actions}
    named = {
        (name, option)
        for name, page in PAGES.items()
        for option in re.findall(r"`(--[\w.-]+)[^`\n]*`", page.read_text(encoding="utf-8"))
    }
    assert ("docs/faq.md", "--trainer.clip_grad_norm") in named
    assert [(name, option) for name, option in named if option not in known] == []

"""Each table of README and of the site is what the files of results make it, and stands in one place."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def fill():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs")
        yield importlib.import_module("fill")


@pytest.fixture(scope="module")
def tables(fill):
    return fill.tables()


def pages():
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_are_generated(fill, tables, page):
    text = page.read_text(encoding="utf-8")
    assert fill.filled(text, tables) == text, "`python docs/fill.py` writes the tables again"


def test_each_table_has_its_place(fill, tables):
    found = [name for page in pages() for name in fill.places(page.read_text(encoding="utf-8"))]
    assert sorted(found) == sorted(tables)


def test_a_table_that_there_is_not_is_an_error(fill, tables):
    with pytest.raises(ValueError, match=r"no table 'sped'; there are networks, speed"):
        fill.filled("<!-- table: sped -->\n<!-- end -->\n", tables)


def test_an_old_table_is_written_again(fill, tables):
    text = "a\n\n<!-- table: speed -->\n\n| of last year |\n\n<!-- end -->\n\nb\n"
    new = fill.filled(text, tables)
    assert new.startswith("a\n\n<!-- table: speed -->\n\n|")
    assert new.endswith("\n\n<!-- end -->\n\nb\n")
    assert "last year" not in new


# pages with tables of figures that come from elsewhere, and where that is
OTHERS = {
    "docs/kernels.md": ["read the kernels (49 / 16 weights)"],
    "docs/guides/finetune.md": ["`--optimizer.layer_decay 0.75`", "`--trainer.ema_decay 0.999`"],
    "docs/dispatch.md": ["CUDA"],
    # versions of what is supported
    "docs/install.md": ["system and processor", "Python", "torch"],
    # a path, and the defaults of options, which their own test compares
    "docs/guides/serving.md": [
        "`GET /openapi.json`",
        "`--timeout`",
        "`--head-timeout`",
        "`--batch-wait`",
        "`--drain`",
    ],
}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_no_other_table_has_figures(page):
    text = re.sub(r"<!-- table: .*?<!-- end -->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    rows = [
        line for line in text.splitlines() if line.startswith("|") and re.search(r"\d\.\d|\d ?(%|ms|s|MB|GB)\b", line)
    ]
    known = OTHERS.get(str(page.relative_to(ROOT)), [])
    assert [row.split("|")[1].strip() for row in rows] == known

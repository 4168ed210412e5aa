"""README's figures are those of the results' files, and what it says of them holds there."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def readme(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    spec = importlib.util.spec_from_file_location("readme", ROOT / "docs" / "readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_generated(readme):
    assert readme.filled(TEXT) == TEXT, "`python docs/readme.py` writes README's tables again"


def test_a_table_without_a_place_is_an_error(readme):
    with pytest.raises(ValueError, match=r"one place for the table 'speed'; it has 0"):
        readme.filled(TEXT.replace("<!-- table: speed -->", ""))


def test_no_figure_stands_outside_of_the_tables():
    others = r"<!-- table.*?<!-- end -->|^```.*?^```|^    .*?$|\(http[^)]*\)"
    prose = re.sub(others, "", TEXT, flags=re.DOTALL | re.MULTILINE)
    # the oldest Python that will do
    assert re.findall(r"\d+[.,]\d+|\d+ ?%", prose) == ["3.10"]


def test_what_is_said_of_accuracy_and_time_holds(readme):
    rows = {row["model"]: row for row in readme.results.rows("cost")}

    def ahead(depth, figure):
        return rows[f"rednet{depth}"][figure] - rows[f"rednet{depth}_conv"]["published_top1"]

    figures = ("published_top1", "published_top1_paper")
    assert min(ahead(depth, figure) for depth in (26, 38, 50, 101) for figure in figures) > 0
    assert ahead(152, "published_top1") < 0 == ahead(152, "published_top1_paper")
    assert all(rows[f"rednet{depth}"]["p50_of_twin"] < 1 for depth in (26, 38, 50, 101, 152))

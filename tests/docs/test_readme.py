"""README's figures are those of the results' files, and what it says of them holds there."""

import re
from pathlib import Path

from involution.studies.origin import read_csv

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_no_figure_stands_outside_of_the_tables():
    others = r"<!-- table.*?<!-- end -->|^```.*?^```|^    .*?$|\(http[^)]*\)"
    prose = re.sub(others, "", TEXT, flags=re.DOTALL | re.MULTILINE)
    # the oldest Python that will do
    assert re.findall(r"\d+[.,]\d+|\d+ ?%", prose) == ["3.10"]


def test_what_is_said_of_accuracy_and_time_holds():
    file = ROOT / "benchmarks/results/cost_amd-epyc-avx512_torch2.14.1.csv"
    rows = {row["model"]: row for row in read_csv(file)}

    def ahead(depth, figure):
        return rows[f"rednet{depth}"][figure] - rows[f"rednet{depth}_conv"]["published_top1"]

    figures = ("published_top1", "published_top1_paper")
    assert min(ahead(depth, figure) for depth in (26, 38, 50, 101) for figure in figures) > 0
    assert ahead(152, "published_top1") < 0 == ahead(152, "published_top1_paper")
    assert all(rows[f"rednet{depth}"]["p50_of_twin"] < 1 for depth in (26, 38, 50, 101, 152))

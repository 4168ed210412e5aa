import importlib.util
import statistics
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "docs" / "results.py"


@pytest.fixture(scope="module")
def results():
    spec = importlib.util.spec_from_file_location("results", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_show_what_was_measured(results):
    row = next(
        row
        for row in results.rows("cpu")
        if (row["measure"], row["batch"], row["candidate"]) == ("inference", 8, "RedNet-50, folded")
    )
    figure = f"{row['p50_ratio']:.2f} ({row['p20_ratio']:.2f}–{row['p80_ratio']:.2f})"
    tables = results.tables()
    assert f"| inference | RedNet-50, folded | ResNet-50, folded | 8 | {figure} |" in tables["measured_ratios"]
    cost = {row["model"]: row for row in results.rows("cost")}
    assert f"| {cost['rednet152']['p50_ms']:.1f} (" in tables["measured_time"]


def test_a_figure_is_the_median_over_the_layers_of_ratios_within_rounds(results):
    figures = {cells[0]: cells[1:] for cells in results.short().rows}
    unfold = [
        row["p50_ratio"]
        for row in results.rows("cpu")
        if (row["measure"], row["candidate"], row["batch"]) == ("forward", "unfold", 8)
    ]
    assert len(unfold) == 8
    assert figures["unfold ÷ involution, forward"][1] == f"{statistics.median(unfold):.2f}"
    held = {
        (row["layer"], row["candidate"]): row["peak_bytes"]
        for row in results.rows("operator")
        if (row["measure"], row["batch"], row["memory_format"]) == ("forward", 1, "channels_last")
    }
    median = statistics.median(held[layer, "unfold"] / held[layer, "involution"] for layer, _ in held)
    assert figures["peak memory of unfold ÷ involution, forward"][0] == f"{median:.2f}"

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


def test_detectors_measured_by_themselves_replace_those_of_the_whole_suite(results, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    header = "measure,layer,batch,candidate,base,p50_ms,p50_ratio\n"
    line = '"Faster R-CNN, OpenVINO",800×1344,1,RedNet-50,ResNet-50,{},0.8\n'
    kept = "inference,,1,RedNet-50,ResNet-50,50,0.8\n"
    (tmp_path / "deployment_here.csv").write_text(header + kept + line.format(2000), encoding="utf-8")
    (tmp_path / "deployment-detection_here.csv").write_text(header + line.format(1500), encoding="utf-8")
    assert [row["p50_ms"] for row in results._with_detectors("here")] == [50, 1500]


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


def test_what_is_said_of_accuracy_against_cost_holds(results):
    from involution.studies.envelope.networks import CONVOLUTION, DEPTHWISE, FAMILIES, LAST, NOT_LAST, REDNET
    from involution.studies.envelope.table import COSTS, gain
    from involution.studies.envelope.tasks import CLUTTER, FEW, MOVED, TASKS

    rows = results.rows("envelope")
    found = {
        (task, family, cost): gain(rows, task, family, cost)
        for task in TASKS
        for family in FAMILIES
        if family != CONVOLUTION
        for cost in COSTS
    }
    verdicts = {key: value.verdict for key, value in found.items()}
    assert {verdicts[task, DEPTHWISE, cost] for task in TASKS for cost in ("parameters", "macs")} == {"ahead"}
    assert "behind" not in {
        verdicts[task, family, cost] for task in TASKS for family in (DEPTHWISE, LAST) for cost in COSTS
    }
    assert [verdicts[task, REDNET, "parameters"] for task in (MOVED, CLUTTER, FEW)] == ["level", "level", "behind"]
    assert {verdicts[task, REDNET, "p50_training_ms"] for task in TASKS} == {"behind"}
    for task in TASKS:
        for cost in COSTS:
            points = {family: found[task, family, cost].points for family in FAMILIES if family != CONVOLUTION}
            assert min(points, key=points.get) == NOT_LAST
            assert max(points, key=points.get) == DEPTHWISE
    trained = {(row["task"], row["family"], row["width"]): row["train_accuracy"] for row in rows}
    assert all(
        trained[task, REDNET, width] > trained[task, CONVOLUTION, width] - 7 for task in TASKS for width in (8, 12, 16)
    )

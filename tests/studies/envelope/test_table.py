import pytest

from involution.studies.envelope import figure, table
from involution.studies.envelope.networks import CONVOLUTION, DEPTHWISE, REDNET
from involution.studies.envelope.runs import MEASURES, Plan
from involution.studies.envelope.tasks import FEW, MOVED

PLAN = Plan(tasks=(MOVED, FEW), families=(CONVOLUTION, DEPTHWISE, REDNET), widths=(8, 16))
BASE = {8: 60.0, 16: 70.0}


def accuracy(run):
    """RedNet is 10 points ahead on moved digits; all are alike on few images."""
    ahead = 10 if run.family == REDNET and run.task == MOVED else 0
    return BASE[run.width] + ahead + run.seed - 1


def made(plan=PLAN):
    found = {
        run: {"accuracy": accuracy(run), "images": 1197, "train_accuracy": 99.0, "seconds": 2.0} for run in plan.runs()
    }
    times = [
        {"family": family, "width": width, "measure": measure}
        | {f"{p}_ms": width / 8 for p in ("p20", "p50", "p80")}
        | {f"{p}_ratio": 1.0 for p in ("p20", "p50", "p80")}
        for family in plan.families
        for width in plan.widths
        for measure in MEASURES
    ]
    return table.rows(plan, found, times)


@pytest.fixture
def rows():
    return made()


def test_rows(rows):
    row = next(row for row in rows if (row["task"], row["family"], row["width"]) == (MOVED, REDNET, 16))
    assert (row["accuracy_mean"], row["accuracy_std"], row["accuracies"]) == (80.0, 1.0, "79.000 80.000 81.000")
    assert (row["parameters"], row["macs"], row["seeds"], row["p50_training_ms"]) == (90930, 5368832, 3, 2.0)
    assert len(rows) == len(PLAN.cases())


def test_who_is_ahead_at_equal_cost(rows):
    found = table.gain(rows, MOVED, REDNET, "p50_inference_ms")
    assert str(found) == "+10.0 ± 0.8, ahead"
    assert table.gain(rows, FEW, REDNET, "p50_training_ms").verdict == "level"
    # the same accuracies with fewer parameters
    assert table.gain(rows, FEW, REDNET, "parameters").points > 1
    assert table.gain(rows[:1], MOVED, REDNET, "macs") is None


def test_a_single_seed_says_nothing_of_chance():
    found = table.gain(made(Plan(1, PLAN.tasks, PLAN.families, PLAN.widths)), MOVED, REDNET, "macs")
    assert found.verdict == ""
    assert "±" not in str(found)


def test_the_envelope(rows):
    # the depthwise networks have the fewest multiply-adds but for RedNet's
    assert table.envelope(rows, MOVED, "macs") == [(REDNET, 8), (REDNET, 16)]
    assert table.envelope(rows, MOVED, "p50_inference_ms") == [(REDNET, 8), (REDNET, 16)]


def test_tables_and_notes(rows):
    text = table.markdown(rows)
    assert (
        "| RedNet, involution 7×7 | 16 | 90.9 | 5.37 | 2.000 (1.00) | 2.000 (1.00) | 80.0 ± 1.0 | 70.0 ± 1.0 |" in text
    )
    assert "| moved digits | RedNet, involution 7×7 | " in text
    assert "by time of inference RedNet, involution 7×7 (8, 16)" in text
    assert "mean ± standard deviation of 3 seeds" in text
    costs = table.rows(PLAN, {})
    assert [shown.title for shown in table.tables(costs)] == ["Networks, their costs and accuracies in %"]
    assert not any("Accuracy" in line for line in table.notes(costs))


@pytest.mark.parametrize("style", ["light", "dark"])
def test_figure(rows, style):
    drawn = figure.figure(rows, style)
    assert len(drawn.axes) == 4 * 2
    labels = drawn.axes[0].get_legend_handles_labels()[1]
    assert labels == [CONVOLUTION, DEPTHWISE, REDNET]
    assert figure.figure(table.rows(PLAN, {}), style) is None


def test_pictures(rows, tmp_path):
    assert figure.write_pictures(tmp_path, rows) == ["envelope-light.png", "envelope-dark.png"]
    assert {path.name for path in tmp_path.glob("*.png")} == {"envelope-light.png", "envelope-dark.png"}

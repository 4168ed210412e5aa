import pytest

from involution.studies.photo import table
from involution.studies.photo.networks import NETWORKS, PER_PIXEL
from involution.studies.photo.runs import STEPS, TIME, Plan

PLAN = Plan(seconds=2, steps=5, seeds=2, comparisons=(TIME, STEPS))


@pytest.fixture
def rows():
    """The kernels for each pixel have 30 and 31 dB at equal time and 20 dB at equal steps; the others 25."""

    def record(run):
        own = run.network == PER_PIXEL
        psnr = (30.0 + run.seed if run.seconds else 20.0) if own else 25.0
        common = {"ssim": 0.5, "noisy_psnr": 20.5, "noisy_ssim": 0.2}
        return {"psnr": psnr, "steps": run.steps or 100, "seconds": run.seconds or 1.0, **common}

    return table.rows(PLAN, {run: record(run) for run in PLAN.runs()})


def test_means_and_spread_over_seeds(rows):
    row = next(row for row in rows if (row["network"], row["comparison"]) == (PER_PIXEL, TIME))
    assert (row["psnr_mean"], row["psnr_std"], row["psnrs"]) == (30.5, 0.707, "30.000 31.000")
    assert (row["train"], row["test"], row["seeds"], row["steps"], row["seconds"]) == ("china", "flower", 2, 100, 2.0)
    assert len(rows) == 2 * 2 * len(NETWORKS)


def test_who_is_ahead_is_said_of_each_comparison(rows):
    assert table.gain(rows, TIME, "china") == (5.5, "one 7×7 convolution")
    assert table.gain(rows, STEPS, "flower") == (-5.0, "one 7×7 convolution")
    lines = table.notes(rows)
    assert any(line.startswith("equal time: 2 s: ") and "+5.50 dB from china" in line for line in lines)
    assert any(line.startswith("equal steps: 5: ") and "-5.00 dB from flower" in line for line in lines)
    assert "flower as given: PSNR 20.50 dB, SSIM 0.200." in lines
    assert "for 8 s of training on these photographs" in lines[-1]
    rates = {entry.learning_rate for entry in NETWORKS.values()}
    assert all(str(rate) in lines[-1] for rate in rates)


def test_tables(rows):
    text = table.markdown(rows)
    assert "| kernels for each pixel | 3,601 | 3,667 | 100 | 30.50 ± 0.71 | 0.500 ± 0.000 |" in text
    assert "| kernels for each pixel | china | 30.50 ± 0.71 | 20.00 ± 0.00 |" in text
    assert table.gain(rows[:1], TIME, "china") is None

"""`involution cost --scale`."""

from pathlib import Path

import pytest

from involution.cli import main
from involution.studies.origin import read_csv

GIVEN = ["--models", "rednet26", "--step-ms", "100", "--batch-size", "8"]
RESULTS = str(Path(__file__).parents[2] / "benchmarks" / "results" / "gpu_nvidia-h200-cuda_torch2.11.0.csv")


def test_it_predicts_from_a_given_step(tmp_path, capsys):
    words = ["--strategy", "ddp", "--node-gb", "1", "--node-hop-us", "0", "--overlap", "0", "--output", str(tmp_path)]
    assert main(["cost", "--scale", "1", "4", *GIVEN, *words]) == 0
    said = capsys.readouterr().out
    assert "Predicted, not measured: training, 8 images a device" in said
    assert "rednet26, 100 ms for 8 images, as given" in said
    one, four = read_csv(tmp_path / "scale.csv")
    assert one["step_ms"] == 100
    # 2·3/4 of 36.932664 MB at 1 GB/s
    assert four["step_ms"] == pytest.approx(155.399, abs=1e-3)
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["scale.csv", "scale.md", "scale.png"]


def test_it_predicts_from_measured_steps(tmp_path):
    words = ["--models", "rednet50", "resnet50", "--step-from", RESULTS, "--output", str(tmp_path)]
    assert main(["cost", "--scale", *words]) == 0
    rows = read_csv(tmp_path / "scale.csv")
    assert [row["devices"] for row in rows[:7]] == [8, 16, 32, 64, 128, 256, 512]
    assert {(row["model"], row["strategy"]) for row in rows} == {
        (model, strategy) for model in ("rednet50", "resnet50") for strategy in ("ddp", "fsdp")
    }
    assert all(0 < row["efficiency"] <= 1 for row in rows)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--step-ms", "100"], "--step-ms needs --scale"),
        (["--node-devices", "4"], "--node-devices needs --scale"),
        (["--scale", "8"], "--scale needs the time of a training step on one device: give --step-ms, or --step-from"),
        (["--scale", "8", *GIVEN, "--step-from", RESULTS], "(one of them)"),
        (["--scale", "0", *GIVEN], "--scale must be 1 or more devices, got 0"),
        (["--scale", "8", "--step-ms", "100"], "also give --batch-size, its images"),
        (["--scale", "8", *GIVEN, "--models", "rednet26", "rednet38"], "also give one network, not several"),
        (["--scale", "8", *GIVEN, "16"], "--scale takes one batch size, the images of one device; got 2"),
        (["--scale", "8", *GIVEN, "--step-ms", "0"], "--step-ms must be more than 0, got 0"),
        (["--scale", "8", *GIVEN, "--net-gb", "-5"], "--net-gb must be more than 0, got -5"),
        (["--scale", "8", *GIVEN, "--net-hop-us", "-1"], "--net-hop-us must be 0 or more, got -1"),
        (["--scale", "8", *GIVEN, "--overlap", "1.5"], "--overlap must be from 0 to 1, got 1.5"),
        (["--scale", "8", *GIVEN, "--models", "rednet51"], "did you mean rednet50?"),
        (["--scale", "8", "--step-from", "nothing.csv"], "can't read nothing.csv: No such file or directory"),
        (["--scale", "8", *GIVEN, "--strategy", "dpp"], "--strategy"),
    ],
)
def test_wrong_usage(tmp_path, capsys, words, message):
    assert main(["cost", "--output", str(tmp_path), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    # some of these words come twice, which is told
    assert len([line for line in error.splitlines() if "does not count" not in line]) == 1
    assert not list(tmp_path.iterdir())

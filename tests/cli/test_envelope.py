import pytest

from involution.cli import main
from involution.studies.envelope import runs
from involution.studies.origin import read_csv


@pytest.fixture
def words(tmp_path, monkeypatch):
    def times(plan, measure):
        for family in plan.families:
            for width in plan.widths:
                figures = {f"{p}_{kind}": 0.5 for p in ("p20", "p50", "p80") for kind in ("ms", "ratio")}
                yield {"family": family, "width": width, "measure": measure, **figures}

    monkeypatch.setattr(runs, "_times", times)
    return ["ablate", "--study", "envelope", "--seeds", "1", "--jobs", "1", "--output", str(tmp_path / "out")]


def test_a_study_interrupted_and_going_on(tmp_path, capsys, monkeypatch, words):
    done = []

    def fake(run):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(run)
        return {"accuracy": 50.0 + run.width, "images": 1197, "train_accuracy": 90.0, "seconds": 1.0}

    monkeypatch.setattr(runs, "record", fake)
    assert main(words) == 130
    said = capsys.readouterr()
    assert "interrupted, 3 of 60 training runs are done; repeat the command to resume" in said.err
    assert "1/60 moved-digits-convolution-3-3-width4-seed0: 54.0 %" in said.err
    done.append(None)
    assert main(words) == 0
    assert "60 training runs, 3 of them already done, 1 at once" in capsys.readouterr().out
    files = {path.name for path in (tmp_path / "out").glob("[!.]*")}
    pictures = {"envelope.png", "envelope-light.png", "envelope-dark.png"}
    assert files == {"study.json", "results", "times.json", "envelope.csv", "envelope.md", *pictures}
    rows = read_csv(tmp_path / "out" / "envelope.csv")
    assert len(rows) == 60
    assert {(row["seeds"], row["p50_inference_ms"]) for row in rows} == {(1, 0.5)}


def test_times_alone(tmp_path, capsys, monkeypatch, words):
    monkeypatch.setattr(runs, "record", lambda run: pytest.fail("nothing is to be trained"))
    assert main([*words, "--only", "times"]) == 0
    assert "times of inference" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "out").glob("[!.]*")} == {"study.json", "times.json"}


def test_costs_alone(tmp_path, capsys, words):
    assert main([*words, "--cost-only"]) == 0
    said = capsys.readouterr().out
    assert "RedNet, involution 7×7" in said
    assert "90.9" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--jobs", "0"], "--jobs must be 1 or more, got 0"),
        (["--seeds", "0"], "seeds must be from 1 to 1000, got 0"),
    ],
)
def test_wrong_usage(tmp_path, capsys, words, more, message):
    assert main([*words, *more]) == 2
    error = capsys.readouterr().err
    assert message in error
    # some of these words come twice, which is told
    assert len([line for line in error.splitlines() if "does not count" not in line]) == 1
    assert not (tmp_path / "out").exists()


def test_there_is_no_file_to_print(capsys):
    assert main(["ablate", "--study", "envelope", "--print-study"]) == 2
    wanted = "--print-study prints a study's YAML file, and envelope has none; choose another --study"
    assert wanted in capsys.readouterr().err


def test_options_of_other_studies_are_told(capsys, words):
    assert main([*words, "--only", "times", "--data", "digits"]) == 0
    assert "--data has no effect with --study envelope" in capsys.readouterr().err

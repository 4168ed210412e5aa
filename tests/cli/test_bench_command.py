import pytest

from involution.cli import main
from involution.studies import origin, suites
from involution.studies.harness import Measurement, Suite, Target, measure

FILES = ["fake.csv", "fake.md"]


def rows(layer):
    candidates = {"involution": lambda: None, "unfold": lambda: None}
    yield from measure(candidates, "involution", seconds=0, rounds=2, measure="forward", layer=layer, batch=1)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Run the command with a suite of given measurements."""

    def run(*measurements, words=()):
        plan = [Measurement("forward, tiny", lambda: rows("tiny")), *measurements]
        targets = [Target("unfold ÷ involution", "≥ 60", 61.5, True)]
        monkeypatch.setattr(
            suites, "load", lambda name: Suite(("operator",), lambda options: plan, lambda rows: targets)
        )
        monkeypatch.setattr(origin, "file_name", lambda *words: "fake")
        return main(["bench", "--output", str(tmp_path / "out"), *words])

    return run


def files(tmp_path):
    return sorted(path.name for path in (tmp_path / "out").glob("[!.]*"))


def test_it_measures_prints_and_writes(bench, tmp_path, capsys):
    def limits():
        for candidate in ("matrix product", "forward"):
            yield {"measure": "one thread", "layer": "tiny", "batch": 1, "candidate": candidate, "limit_fraction": 0.5}

    assert bench(Measurement("limits, tiny", limits)) == 0
    said = capsys.readouterr()
    assert "forward, tiny" in said.err
    assert "Share of the machine's measured limits" in said.out
    assert "61.5" in said.out
    assert "written to" in said.out
    assert files(tmp_path) == [*FILES, "fake.png"]
    assert [row["candidate"] for row in origin.read_csv(tmp_path / "out" / "fake.csv")][:2] == ["involution", "unfold"]
    assert "| forward | unfold | involution | 1 |" in (tmp_path / "out" / "fake.md").read_text(encoding="utf-8")


def raising(error):
    def measurement():
        raise error

    return Measurement("forward, large", measurement)


def test_what_was_measured_before_an_interruption_stays(bench, tmp_path, capsys):
    assert bench(raising(KeyboardInterrupt())) == 130
    assert f"interrupted; written to {tmp_path / 'out'}: fake.csv, fake.md" in capsys.readouterr().err
    assert len(origin.read_csv(tmp_path / "out" / "fake.csv")) == 2


def test_what_can_not_be_measured_is_said(bench, tmp_path, capsys):
    assert bench(raising(RuntimeError("can't allocate memory"))) == 1
    assert "forward, large: not measured, out of memory" in capsys.readouterr().err
    assert files(tmp_path) == FILES
    # time that is over is no failure
    assert bench(Measurement("forward, late", list, minutes=9), words=["--minutes", "1"]) == 0
    assert "forward, late: not measured, no time left" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    words = ["operator", "--only", "contiguous", "--dry-run", "--output", str(tmp_path / "out")]
    assert main(["bench", *words]) == 0
    said = capsys.readouterr().out
    assert "unfold" in said
    assert "nothing is written" in said
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch-size", "0"], "--batch-size must be 1 or more, got 0"),
        (["--only", "nonsense"], "--only must be some of operator, networks, got nonsense"),
        (["--quik"], "unknown option --quik; did you mean --quick?"),
        (["gpus"], "gpus"),
    ],
)
def test_wrong_usage(tmp_path, capsys, words, message):
    assert main(["bench", *words, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()

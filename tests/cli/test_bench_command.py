from functools import partial

import pytest

from involution.cli import main
from involution.ops import native
from involution.studies import bench
from involution.studies.operator_benchmark import Layer

TINY = Layer("tiny", channels=32, kernel_size=3, size=7, stride=1)


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.setattr(native, "reason", "no compiler")
    monkeypatch.setattr(bench, "run", partial(bench.run, layers=(TINY,)))


def test_it_measures_prints_and_writes(tmp_path, capsys):
    output = str(tmp_path / "out")
    assert main(["bench", "--no-networks", "--seconds", "0", "--batch", "1", "--output", output]) == 0
    said = capsys.readouterr()
    assert "unfold" in said.out
    assert "Share of the machine's measured limits" in said.out
    assert "forward+backward, tiny, batch 1" in said.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bench.csv", "bench.md", "bench.png"]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted; what was measured is in"),
        (RuntimeError("can't allocate memory"), 1, "not enough memory, try a smaller --batch; what was measured is in"),
    ],
)
def test_what_was_measured_stays(tmp_path, capsys, monkeypatch, error, code, message):
    def stopped(*args, run=bench.run, **options):
        yield next(run(*args, **options))
        raise error

    monkeypatch.setattr(bench, "run", stopped)
    assert main(["bench", "--no-networks", "--seconds", "0", "--output", str(tmp_path)]) == code
    assert message in capsys.readouterr().err
    assert len((tmp_path / "bench.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch", "0"], "--batch must be 1 or more, got 0"),
        (["--quik"], "unknown option --quik; did you mean --quick?"),
    ],
)
def test_wrong_usage(tmp_path, capsys, words, message):
    assert main(["bench", "--output", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

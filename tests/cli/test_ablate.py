import pytest
from generated import image_folder

from involution.cli import main
from involution.studies import ablation_runs

STUDY = """
title: a tiny study
recipe: digits
settings:
  model.name: rednet_nano
  model.args.layers: [1, 1]
  model.args.kernel_size: 3
  data.image_size: 8
  data.batch_size: 8
  trainer.epochs: 1
seeds: 2
axes:
  kernel: {model.args.kernel_size: [3, 5]}
"""


@pytest.fixture
def words(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    data = image_folder(tmp_path / "data")
    given = {"--study": tmp_path / "study.yaml", "--data": f"imagefolder:{data}", "--output": tmp_path / "out"}
    return ["ablate", "--jobs", "1", *(str(word) for pair in given.items() for word in pair)]


def test_a_study_interrupted_and_going_on(tmp_path, capsys, words, monkeypatch):
    real, calls = ablation_runs.do_run, []

    def third_is_interrupted(run, **rest):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(run.name)
        return real(run, **rest)

    monkeypatch.setattr(ablation_runs, "do_run", third_is_interrupted)
    assert main(words) == 130
    said = capsys.readouterr()
    assert "interrupted, 2 of 4 training runs are done; repeat the command to resume" in said.err
    assert "1/4 base, seed 0: " in said.err
    assert "nothing can be said" in said.out
    monkeypatch.setattr(ablation_runs, "do_run", lambda run, **rest: calls.append(run.name) or real(run, **rest))
    assert main(words) == 0
    said = capsys.readouterr()
    assert calls == ["base-seed0", "kernel_size=5-seed0", "base-seed1", "kernel_size=5-seed1"]
    assert "4 training runs, 2 of them already done, 1 at once" in said.out
    assert "4/4 kernel_size=5, seed 1: " in said.err
    assert "separate" in said.out
    files = {path.name for path in (tmp_path / "out").glob("[!.]*")}
    assert files == {"study.json", "results", "runs", "ablate.csv", "ablate.md", "ablate.png"}
    assert "accuracy here, %" in (tmp_path / "out" / "ablate.md").read_text(encoding="utf-8")
    # it is this study's folder
    assert main([*words, "--set", "trainer.epochs=2"]) == 2
    assert "holds another study (trainer.epochs is 1 there, 2 here)" in capsys.readouterr().err


def test_costs_alone(tmp_path, capsys, words):
    assert main([*words, "--cost-only"]) == 0
    said = capsys.readouterr().out
    assert "3 (base)" in said
    assert "accuracy" not in said.lower()
    assert not (tmp_path / "out").exists()


def test_the_packaged_study_as_a_pattern(tmp_path, capsys):
    assert main(["ablate", "--print-study"]) == 0
    text = capsys.readouterr().out
    assert "model.args.kernel_size: [3, 5, 7, 9, 11]" in text
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    assert main(["ablate", "--study", str(tmp_path / "mine.yaml"), "--print-study"]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--study", "papr"], "no study file papr (packaged studies: paper, envelope); did you mean paper?"),
        (["--jobs", "0"], "--jobs must be 1 or more, got 0"),
        (["--seeds", "0"], "seeds must be from 1 to 1000, got 0"),
        (["--set", "trainer.epoch=1"], "no setting named 'trainer.epoch'; did you mean trainer.epochs?"),
        (["--data", "digit"], "no data set named 'digit'"),
        (["--recipe", "digit"], "no recipe named 'digit'"),
        (["--seed", "1"], "unknown option --seed; did you mean --seeds?"),
    ],
)
def test_wrong_usage(capsys, words, more, message):
    assert main([*words, *more]) == 2
    error = capsys.readouterr().err
    assert message in error
    # some of these words come twice, which is told
    assert len([line for line in error.splitlines() if "does not count" not in line]) == 1

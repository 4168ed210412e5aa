import pytest
import torch

from involution.cli import main
from involution.studies.origin import read_csv
from involution.studies.photo import runs
from involution.studies.photo.networks import NETWORKS


def test_a_study_interrupted_and_going_on(tmp_path, capsys, monkeypatch):
    done = []

    def fake(run):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(run)
        torch.manual_seed(0)
        figures = {"psnr": 25.0, "ssim": 0.5, "noisy_psnr": 21.0, "noisy_ssim": 0.2}
        return NETWORKS[run.network].build(), {"steps": 3, "seconds": 0.5, **figures}

    monkeypatch.setattr(runs, "record", fake)
    words = ["photo", "--seeds", "1", "--jobs", "1", "--output", str(tmp_path / "out")]
    assert main(words) == 130
    said = capsys.readouterr()
    assert "interrupted, 3 of 54 training runs are done; repeat the command to resume" in said.err
    assert "3/54 residual-CNN-equal-parameters-china-6s-seed0: 25.00 dB" in said.err
    done.append(None)
    assert main(words) == 0
    assert "54 training runs, 3 of them already done, 1 at once" in capsys.readouterr().out
    files = {path.name for path in (tmp_path / "out").glob("[!.]*")}
    pictures = {"photo.png", "photo-light.png", "photo-dark.png"}
    assert files == {"study.json", "results", "weights", "photo.csv", "photo.md", *pictures}
    rows = read_csv(tmp_path / "out" / "photo.csv")
    assert {(row["psnr_mean"], row["psnrs"], row["threads"]) for row in rows} == {(25.0, "25.000", 1)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--jobs", "0"], "--jobs must be 1 or more, got 0"),
        (["--seconds", "0"], "seconds must be more than 0, got 0.0"),
        (["--seeds", "0"], "seeds must be more than 0, got 0"),
    ],
)
def test_wrong_usage(tmp_path, capsys, words, message):
    assert main(["photo", *words, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

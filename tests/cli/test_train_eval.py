import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from involution.cli import main

FAST = [
    *("--model.name", "test_resnet"),
    *("--data.image_size", "8"),
    *("--data.batch_size", "256"),
]


def train(tmp_path, *words):
    return main(["classify", "train", "--recipe", "digits", "--output", str(tmp_path), *FAST, *words])


def test_train_then_eval(tmp_path, capsys):
    assert train(tmp_path, "--trainer.epochs=1", "--name", "a") == 0
    best = tmp_path / "a" / "best.ckpt"
    assert f"involution classify eval {best}" in capsys.readouterr().out
    report = tmp_path / "report.json"
    assert main(["classify", "eval", str(best), "--output", str(report)]) == 0
    assert "360" in capsys.readouterr().out
    figures = json.loads(report.read_text())
    assert (figures["split"], figures["num_images"], len(figures["confusion"])) == ("test", 360, 10)
    assert main(["classify", "eval", str(best), "--split", "val", "--data", "digits", "--batch-size", "7"]) == 0

    # settings given before the recipe count as much as those after it, and a resumed run keeps its own
    words = ["classify", "train", "--trainer.epochs", "2", "--resume", str(tmp_path / "a" / "last.ckpt")]
    assert main(words) == 0
    assert torch.load(tmp_path / "a" / "last.ckpt", weights_only=True)["involution"]["position"] == [2, 0]


def test_print_config_and_config_file(tmp_path, capsys):
    words = ["--optimizer.lr", "0.5", "--recipe", "imagenet", "--compile", "--print_config"]
    assert main(["classify", "train", *words]) == 0
    text = capsys.readouterr().out
    assert "lr: 0.5" in text
    assert "epochs: 130" in text
    assert "compile: true" in text
    file = tmp_path / "mine.yaml"
    file.write_text("trainer:\n  epochs: 7\n")
    assert main(["classify", "train", "--recipe", "imagenet", "--config", str(file), "--print_config"]) == 0
    text = capsys.readouterr().out
    assert "epochs: 7" in text
    assert "lr: 0.8" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe", "digit"], "no recipe named 'digit'"),
        (["--recipe"], "--recipe"),
        (["--trainer.epoch", "3"], "unknown option --trainer.epoch; did you mean --trainer.epochs?"),
        (["--trainer.epochs", "many"], "trainer.epochs"),
        (["--config", "none.yaml"], "none.yaml"),
        (["--config", "{trainer: {epoch: 3}}"], "unknown setting trainer.epoch; did you mean trainer.epochs?"),
        (["--model.name", "rednet5O"], "no model named 'rednet5O'; did you mean rednet50?"),
        (["--data.spec", "digit"], "no data set named 'digit'"),
        (["--data.spec", "imagefolder:nowhere"], "no such folder: nowhere"),
        (["--optimizer.name", "sdg"], "no optimizer named 'sdg'; did you mean sgd?"),
        (["--resume", "none.ckpt"], "no such checkpoint: none.ckpt"),
        (["--recipe", "digits", "--resume", "x.ckpt"], "exclude each other"),
        (["--model.weights", "none.safetensors"], "no such file of weights: none.safetensors"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_get_one_line_and_code_2(tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    fast = [] if "--recipe" in words or "--resume" in words or "--model.name" in words else FAST
    grey = ["--data.channels=1", "--data.mean=[0.5]", "--data.std=[0.5]", "--trainer.epochs=1"]
    assert main(["classify", "train", *(grey if fast else []), *fast, *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_eval_mistakes(tmp_path, capsys):
    assert main(["classify", "eval", str(tmp_path / "none.ckpt")]) == 2
    assert "no such checkpoint" in capsys.readouterr().err
    assert main(["classify", "eval", "x", "--split", "tset"]) == 2
    assert "tset" in capsys.readouterr().err


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path):
    words = ["classify", "train", "--recipe", "digits", "--output", str(tmp_path), "--name", "run", *FAST]
    script = f"import torch; torch.set_num_threads(1); from involution.cli import main; raise SystemExit(main({words}))"
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [sys.executable, "-c", script], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "metrics.csv").exists() and process.poll() is None:
        assert time.monotonic() < deadline, "no epoch within two minutes"
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    last = tmp_path / "run" / "last.ckpt"
    assert f"interrupted; go on with: involution classify train --resume {last}\n" in err
    assert "Traceback" not in err
    epoch, _ = torch.load(last, weights_only=True)["involution"]["position"]
    assert 1 <= epoch < 25
    # the very command, but for fewer epochs
    assert main(["classify", "train", "--resume", str(last), f"--trainer.epochs={epoch + 1}"]) == 0
    assert torch.load(last, weights_only=True)["involution"]["position"] == [epoch + 1, 0]

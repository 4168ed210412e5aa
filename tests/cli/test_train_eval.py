import json
import os
import re
import shutil
import signal
import sys
import time
import warnings

import engine_runs
import pytest
import torch
from generated import image_folder
from pictures import picture

from involution.cli import main
from involution.engine.tasks.classify.module import ClassificationTask

FAST = [f"--{key}={value}" for key, value in engine_runs.FAST.items() if key.startswith(("model", "data", "augment"))]


def train(tmp_path, *words):
    return main(["classify", "train", "--recipe", "digits", "--output", str(tmp_path), *FAST, *words])


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """The folder of a run of one epoch."""
    folder = tmp_path_factory.mktemp("once")
    assert train(folder, "--trainer.epochs=1", "--name", "a") == 0
    return folder / "a"


def test_train_then_eval(tmp_path, capsys):
    assert train(tmp_path, "--trainer.epochs=1", "--name", "a") == 0
    best = tmp_path / "a" / "best.ckpt"
    assert f"involution classify eval --checkpoint {best}" in capsys.readouterr().out
    report = tmp_path / "report.json"
    assert main(["classify", "eval", "--checkpoint", str(best), "--output", str(report)]) == 0
    shown = capsys.readouterr().out
    assert "360" in shown
    # a row for each class below
    assert re.search(r"class +. images . precision % . recall % . F1 %", shown)
    assert len(re.findall(r"^. \d +.( +[\d.]+ .){4}$", shown, re.MULTILINE)) == 10
    figures = json.loads(report.read_text())
    assert (figures["split"], figures["num_images"], len(figures["confusion"])) == ("test", 360, 10)
    assert (
        main(["classify", "eval", "--checkpoint", str(best), "--split", "val", "--data", "digits", "--batch-size", "7"])
        == 0
    )

    # settings given before the recipe count as much as those after it, and a resumed run keeps its own
    words = ["classify", "train", "--trainer.epochs", "2", "--resume", str(tmp_path / "a" / "last.ckpt")]
    assert main(words) == 0
    assert torch.load(tmp_path / "a" / "last.ckpt", weights_only=True)["involution"]["position"] == [2, 0]


def test_the_command_that_measures_works_without_test_images(tmp_path, capsys):
    for index, split in enumerate(["train", "val"]):
        for name in ("cat", "dog"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(2):
                picture(4 * index + number).save(tmp_path / "data" / split / name / f"{number}.png")
    settings = [*FAST[:2], "--data.batch_size", "2", "--data.workers", "0", "--trainer.epochs", "1"]
    words = ["--data.spec", str(tmp_path / "data"), "--output", str(tmp_path), *settings]
    (tmp_path / "data" / "notes.md").write_text("")
    assert main(["classify", "train", *words]) == 0
    printed = capsys.readouterr()
    # not once more for the report
    assert printed.err.count("not used, other files: 1 (notes.md)") == 1
    assert "% after 1 epoch, " in printed.out
    (command,) = re.findall("measure it: involution (.*)", printed.out)
    assert main(command.split()) == 0
    assert "val" in capsys.readouterr().out
    # what was trained on, elsewhere: the figures are not kept without a word
    copies = tmp_path / "copies"
    shutil.copytree(tmp_path / "data" / "train", copies)
    kept = ["--output", str(tmp_path / "f.json"), "--report", str(tmp_path / "r.html")]
    assert main([*command.split(), "--data", str(copies), *kept]) == 0
    told = "4 of the 4 images were trained on: cat/0.png, cat/1.png, dog/0.png, …"
    assert json.loads((tmp_path / "f.json").read_text())["warnings"] == [told]
    assert told in (tmp_path / "r.html").read_text()


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
        (["some.ckpt"], "unexpected some.ckpt; a value follows the name of its option, such as --checkpoint FILE"),
        (["--trainer.activation_checkpointing", "some"], "wanted true, false, selective, got some"),
        (["--config", "none.yaml"], "none.yaml"),
        (["--config", "{trainer: {epoch: 3}}"], "unknown setting trainer.epoch; did you mean trainer.epochs?"),
        (["--model.name", "rednet5O"], "no model named 'rednet5O'; did you mean rednet50?"),
        (["--data.spec", "digit"], "no data set named 'digit'"),
        (["--data.spec", "imagefolder:nowhere"], "no such folder: nowhere"),
        (["--optimizer.name", "sdg"], "no optimizer named 'sdg'; did you mean sgd?"),
        (["--resume", "none.ckpt"], "no such checkpoint: none.ckpt"),
        (["--recipe", "digits", "--resume", "x.ckpt"], "can't be combined with --resume"),
        (["--model.weights", "none.safetensors"], "no such checkpoint: none.safetensors"),
        (["--recipe", "finetune"], "no such folder: data/images"),
        (["--resume", "."], "is a folder; wanted a checkpoint"),
        (["--trainer.epochs", "many"], 'option "--trainer.epochs": wanted int, got many'),
        (["--augment.crop_scale", "[0.5]"], "wanted tuple[float, float], null, got [0.5]"),
        (["--config", "{trainor: {epochs: 3}}"], "unknown setting trainor.epochs; did you mean trainer.epochs?"),
        (["--config", "bad.yaml"], "line 1, column 10"),
        (["--output", "bad.yaml"], "can't make the folder bad.yaml/digits (a file is where a folder is wanted)"),
        (["--data.crop_pct", "0"], "data.crop_pct must be from 0.01 to 1, got 0.0"),
        (["--data.workers", "-1"], "data.workers must be from 0 to 10000, got -1"),
        (["--data.std", "[0]"], "data.std must be greater than 0"),
        (["--data.mean", "[123.675]"], "data.mean and data.std are for values of 0 to 1, got [123.675] and [0."),
        (["--data.std", "[58.4]"], "divide those for values of 0 to 255 by 255"),
        (["--seed", "-1"], "seed must be from 0 to"),
        (["--devices", "0"], "devices must be from 1 to 1000000, got 0"),
        (["--augment.flip", "3"], "augment.flip must be from 0 to 1, got 3.0"),
        (["--augment.crop_scale", "[0.9,0.1]"], "augment.crop_scale must be two fractions, the smaller one first"),
        (["--augment.scale", "[0,1]"], "augment.scale must be greater than 0 and at most 100, got [0.0, 1.0]"),
        (["--optimizer.lr", ".nan"], "optimizer.lr must be a finite number, got nan"),
        (["--optimizer.weight_decay", "1e999"], "optimizer.weight_decay must be a finite number, got inf"),
        (["--augment.scale", "[2,1]"], "augment.scale must be two factors, the smaller one first"),
        (["--trainer.label_smoothing", "2"], "trainer.label_smoothing must be from 0 to 1, got 2.0"),
        (["--trainer.accelerator", "foo"], "can't run on devices=1, trainer.accelerator=foo"),
        (["--trainer.accelerator=cpu", "--trainer.precision=16-mixed"], "choose bf16-mixed"),
        (["--model.name", "vit_tiny_patch16_224"], "vit_tiny_patch16_224 can't take images of 16 x 16 pixels"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_get_one_line_and_code_2(tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text("trainer: [3\n")
    recipe = [] if "--recipe" in words or "--resume" in words else ["--recipe", "digits", "--trainer.epochs=1"]
    fast = [] if not recipe or "--model.name" in words else FAST[:3]
    assert main(["classify", "train", *recipe, *fast, *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_eval_mistakes(tmp_path, capsys):
    assert main(["classify", "eval", "--checkpoint", str(tmp_path / "none.ckpt")]) == 2
    assert "no such checkpoint" in capsys.readouterr().err
    assert main(["classify", "eval", "--checkpoint", "x", "--split", "tset"]) == 2
    assert "tset" in capsys.readouterr().err
    assert main(["classify", "eval"]) == 2
    assert "required: --checkpoint" in capsys.readouterr().err
    assert main(["classify", "eval", "--checkpoint", "x", "--batch-size", "x"]) == 2
    assert 'option "--batch-size": wanted int, got x' in capsys.readouterr().err
    (tmp_path / "file").touch()
    for output in ("file/x.json", "."):
        assert main(["classify", "eval", "--checkpoint", "x", "--output", str(tmp_path / output)]) == 2
        assert "wanted" in capsys.readouterr().err
    for option in ("--batch-size", "--devices"):
        assert main(["classify", "eval", "--checkpoint", "x", option, "0"]) == 2
        assert "must be 1 or more, got 0" in capsys.readouterr().err


def test_a_resumed_run_keeps_what_its_checkpoint_restores(tmp_path, capsys):
    assert train(tmp_path, "--trainer.epochs=1", "--name", "[a]") == 0
    # brackets are no markup
    assert "[a]/best.ckpt" in capsys.readouterr().out.replace("\n", "")
    last = tmp_path / "[a]" / "last.ckpt"
    for change in ("--name=b", "--optimizer.lr=1", "--model.name=resnet18", "--data.batch_size=64"):
        assert main(["classify", "train", "--resume", str(last), "--trainer.epochs=2", change]) == 2
        key = change.removeprefix("--").partition("=")[0]
        assert f"a resumed run keeps its {key}: {last} has" in capsys.readouterr().err
    folder = image_folder(tmp_path / "images", per_class=100)
    words = ["--resume", str(last), "--trainer.epochs=2", f"--data.spec=imagefolder:{folder}"]
    assert main(["classify", "train", *words]) == 2
    assert "was trained on other classes (0, 1, 2 and 7 more)" in capsys.readouterr().err
    # without a checkpoint there is nothing to go on with
    last.unlink()
    assert train(tmp_path, "--name", "[a]") == 2
    assert "--resume" not in capsys.readouterr().err


def test_a_full_disk_fails_in_one_line(tmp_path, capsys, monkeypatch):
    def full(*_):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos\nframe 0")

    monkeypatch.setattr("torch.save", full)
    assert train(tmp_path, "--trainer.epochs=1", "--name", "a") == 1
    err = capsys.readouterr().err.splitlines()[-1]
    assert err == f"involution: {tmp_path}/a/last.ckpt: Input/output error; nothing was saved before"


def test_ctrl_c_in_an_evaluation(once, capsys, monkeypatch):
    monkeypatch.setattr(ClassificationTask, "test_step", lambda *_: signal.raise_signal(signal.SIGINT))
    assert main(["classify", "eval", "--checkpoint", str(once / "best.ckpt")]) == 130
    assert "interrupted" in capsys.readouterr().err


def forked(words, file):
    """Run the command in a copy of this process, the first of its group; its errors are written to the file."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        with open(file, "w") as sys.stderr, open(os.devnull, "w") as sys.stdout:
            os.dup2(sys.stderr.fileno(), 2)
            code = main(words)
    finally:
        os._exit(code)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM to all processes"])
def test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path, number):
    words = ["classify", "train", "--recipe", "digits", "--output", str(tmp_path), "--name", "run", *FAST]
    words += ["--data.workers", "1"] if number == signal.SIGTERM else []
    child = forked(words, tmp_path / "err")
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "metrics.csv").exists():
        ended, _ = os.waitpid(child, os.WNOHANG)
        assert not ended, (tmp_path / "err").read_text()
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            pytest.fail("no epoch within two minutes")
        time.sleep(0.05)
    os.killpg(child, number)
    _, status = os.waitpid(child, 0)
    err = (tmp_path / "err").read_text()
    assert os.waitstatus_to_exitcode(status) == 130, err
    last = tmp_path / "run" / "last.ckpt"
    assert f"interrupted; resume with: involution classify train --resume {last}\n" in err
    assert "Traceback" not in err
    epoch, _ = torch.load(last, weights_only=True)["involution"]["position"]
    assert 1 <= epoch < 25
    # the very command, but for fewer epochs
    assert main(["classify", "train", "--resume", str(last), f"--trainer.epochs={epoch + 1}"]) == 0
    assert torch.load(last, weights_only=True)["involution"]["position"] == [epoch + 1, 0]

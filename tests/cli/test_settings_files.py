"""Files of settings, `--config FILE`: what is in them counts, or is refused in one line."""

import json

import pytest
import yaml

from involution.cli import main
from involution.engine.config import ConfigError
from involution.engine.settings import check_settings
from involution.engine.task import get_task
from involution.engine.tasks.classify.config import ClassifyConfig

TASKS = ["classify", "detect", "segment"]


@pytest.fixture
def settings(capsys, tmp_path):
    """The settings of a run with a file of these contents, and what was told."""

    def settings(content, *words, task="classify"):
        file = tmp_path / "mine.yaml"
        file.write_text(content)
        assert main([task, "train", "--print-config", "--config", str(file), *words]) == 0
        out, err = capsys.readouterr()
        return yaml.safe_load(out), err

    return settings


@pytest.mark.parametrize("task", TASKS)
def test_a_recipe_in_a_file(settings, task):
    wanted = get_task(task).config.load("finetune", {"trainer.epochs": 3})
    found, told = settings("trainer: {epochs: 3}\nrecipe: finetune", task=task)
    assert (found.pop("recipe"), found.pop("resume")) == ("finetune", None)
    assert get_task(task).config.load(base=found) == wanted
    # a file that --print-config wrote has every setting, and the same recipe may be named again
    again, _ = settings(json.dumps({**found, "recipe": "finetune", "seed": 7}), "--recipe", "finetune", task=task)
    assert again == {**found, "recipe": "finetune", "resume": None, "seed": 7}
    assert told == ""


def test_a_recipe_beside_a_resumed_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["classify", "train", "--config", "{recipe: digits}", "--resume", "none.ckpt"]
    assert main(words) == 2
    told = "recipe: digits has no effect: a resumed run keeps its own settings\n"
    assert capsys.readouterr().err == told + "involution: no such checkpoint: none.ckpt\n"


def test_dotted_names_and_sections(settings):
    content = "optimizer.lr: 0.02\noptimizer: {momentum: 0.5}\ntrainer.steps: 1\ntrainer: {label_smoothing: 0.2}\n"
    found, _ = settings(content + "model: {args.rate: 3}\nmodel.args: {a.b: 1}")
    assert (found["optimizer"]["lr"], found["optimizer"]["momentum"]) == (0.02, 0.5)
    assert (found["trainer"]["steps"], found["trainer"]["label_smoothing"]) == (1, 0.2)
    assert found["model"]["args"] == {"rate": 3, "a.b": 1}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--config {seed: 1, seed: 2}", "seed appears twice"),
        ("--config {recipe: nonsense}", "no recipe named 'nonsense' (there are "),
        ("--config {recipe: 3}", "--config: recipe must be a name, got 3"),
        (
            "--recipe finetune --config {recipe: other}",
            "--recipe finetune and recipe: other of --config can't be combined; give one of them",
        ),
        ("--config {resume: none.ckpt}", "no such checkpoint: none.ckpt"),
        ("--recipe finetune --config {resume: none.ckpt}", "--recipe can't be combined with --resume"),
        ("--config {config: other.yaml}", "settings can't name another file of settings; give each by --config"),
        ("--config {optimizer.lr: 0.02, optimizer: {lr: 0.5}}", "optimizer.lr appears twice"),
        ("--config {optimizer: , optimizer.lr: 0.5}", "optimizer appears twice"),
        ("--config {optimizer..lr: 0.5}", "'optimizer..lr' is no name of a setting"),
        ("--config {augment: {flip: }}", "augment.flip is left empty (null); give it a value or leave it out"),
        ("--config {optimizer.lr: }", "optimizer.lr is left empty (null)"),
        ("--config {seed: }", "seed is left empty (null)"),
        ("--config {name: , seed: 1}", "name is left empty (null)"),
        ("--config {optimizer: }", "optimizer is left empty (null)"),
        ("--config {optimizer: 3}", "optimizer wants settings, got 3"),
        ("--config {lr: 0.3}", "unknown setting lr; did you mean optimizer.lr?"),
        ("--config {epochs: 3}", "unknown setting epochs; did you mean trainer.epochs?"),
        ("--config {flip: 1}", "unknown setting flip; did you mean augment.flip?"),
    ],
)
def test_what_would_be_lost_is_refused_in_one_line(capsys, words, message):
    before, config, after = words.partition("--config ")
    assert main(["classify", "train", *before.split(), config.strip(), after]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(("name", "value"), [("augment.flip", None), ("data.image_size", None), ("optimizer", 3)])
def test_in_python(name, value):
    with pytest.raises(ConfigError, match=name):
        ClassifyConfig.load(base={name.split(".")[0]: {name.split(".")[1]: value} if "." in name else value})
    if "." in name:
        with pytest.raises(ConfigError, match=f"{name} is left empty"):
            ClassifyConfig.load("digits", {name: value})
    assert ClassifyConfig.load("digits", {"trainer.steps": None, "augment.crop_scale": None}).trainer.steps is None
    with pytest.raises(ConfigError, match="seed must have a value, got None"):
        check_settings(ClassifyConfig(seed=None))

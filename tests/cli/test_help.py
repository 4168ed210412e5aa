"""What --help and --help-all say, and the names of options."""

import os
import re
import shlex

import pytest
from command_lines import parse

from involution.cli import command_module, command_parser, commands, main
from involution.engine.settings import setting_names
from involution.engine.task import get_task

WORDS = list(commands())
TRAIN = [words for words in WORDS if words[1:] == ("train",)]


@pytest.fixture
def help_of(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    def said(*words):
        assert main(list(words)) == 0
        return capsys.readouterr().out

    return said


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_help_is_short_and_plain(help_of, words):
    text = help_of(*words, "--help")
    assert text.startswith(f"usage: involution {' '.join(words)}")
    assert text.count("\n") <= 50
    assert not re.search(r"null|type:|flags|\.\.\.\.|CONFIG_FILE|Path to", text)
    # an example is longer than a narrow terminal
    assert all(len(line) <= 80 for line in text.partition("examples:")[0].splitlines())


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_help_all_has_every_option_and_the_basic_ones_first(help_of, words):
    text, short = help_of(*words, "--help-all"), help_of(*words, "--help")
    assert not re.search(r"type:|default: null|Path to a", text)
    listed = re.findall(r"^  (?:-h, )?(--[\w.-]+)", text, re.MULTILINE)
    basic = re.findall(r"^  (?:-h, )?(--[\w.-]+)", short, re.MULTILINE)
    assert listed[: len(basic)] == basic
    for action in command_parser(words, command_module(words))._actions:
        names = [name for name in action.option_strings if name.startswith("--")]
        # files of a group of settings are not told, but --config is
        assert not names or set(names) & {*listed, "--help-all"} or type(action).__name__ == "_ActionConfigLoad", names
    if words in TRAIN:
        assert {f"--{name}" for name in setting_names(get_task(words[0]).config)} <= set(listed)


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_examples_of_the_help_are_right(words):
    for example in getattr(command_module(words), "examples", ()):
        parse(example)


def test_the_same_thing_has_the_same_name_in_every_command():
    known = {words: set(command_parser(words, command_module(words))._option_string_actions) for words in WORDS}
    for mode in ("train", "eval"):
        assert {"--data", "--batch-size", "--device", "--output"} <= known["classify", mode]
    assert {"--batch-size", "--device", "--output"} <= known["classify", "predict"]
    assert {"--data", "--output"} <= known["data", "check"] & known["ablate",]
    assert {"--batch-size", "--output"} <= known["cost",] & known["bench",]
    assert all("--output" in known[words,] for words in ("demo", "convert", "export", "explain", "weights"))
    # what is listed has dashes, but for settings
    for words in WORDS:
        for action in command_parser(words, command_module(words))._actions:
            names = {name for name in action.option_strings if "." not in name}
            assert not any("_" in name for name in names - {"--no_compile"}), names


@pytest.mark.parametrize(
    ("words", "new", "old"),
    [
        ("classify train", "--data digits", "--data.spec digits"),
        ("classify train", "--model rednet26 --weights rednet26", "--model.name rednet26 --model.weights=rednet26"),
        ("detect train", "--backbone rednet26", "--model.backbone rednet26"),
        ("segment train", "--epochs 3 --batch-size=4", "--trainer.epochs 3 --data.batch_size 4"),
        ("segment train", "--lr 0.5", "--optimizer.lr 0.5"),
        ("classify train", "--device cpu --workers 0", "--trainer.accelerator cpu --data.workers 0"),
        ("classify eval", "--checkpoint x --device cpu", "--checkpoint x --accelerator cpu"),
        ("data check", "x --split-seed 3 --allow-empty", "x --split_seed 3 --allow_empty"),
        ("demo", "--output x", "--out x"),
        ("cost", "--batch-size 1 2", "--batch 1 2"),
        ("bench", "cpu --batch-size 8", "cpu --batch 8"),
    ],
)  # fmt: skip
def test_old_names_go_on_working(words, new, old):
    words = tuple(words.split())
    module = command_module(words)
    first, second = (command_parser(words, module).parse_args(line.split()) for line in (new, old))
    assert first == second


def test_a_short_name_comes_after_a_recipe(capsys):
    words = ["classify", "train", "--epochs", "7", "--recipe", "digits", "--data", "imagefolder:x"]
    assert main([*words, "--print-config"]) == 0
    text = capsys.readouterr().out
    assert "epochs: 7" in text
    assert "spec: imagefolder:x" in text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("classify train --dat x", "unknown option --dat; did you mean --data?"),
        ("classify train --batch_siz 3", "unknown option --batch_siz; did you mean --batch-size?"),
        ("classify train --data '{spec: digits}'", "give settings as --config '{data: {spec: digits}}'"),
        ("classify train --epochs many", "wanted int, got many"),
        ("data check", "wanted one data set: involution data check --data SPEC"),
        ("data check a --data b", "wanted one data set: involution data check --data SPEC"),
        ("convert a.pth", "wanted one file to write: involution convert IN --output OUT"),
        ("convert a.pth b.ckpt --output c.ckpt", "wanted one file to write"),
    ],
)
def test_wrong_names_are_told_in_one_line(capsys, line, message):
    assert main(shlex.split(line)) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_help_of_a_group(help_of):
    text = help_of("classify", "--help")
    assert text.startswith("usage: involution classify {train,eval,predict}")
    assert "detect" not in text
    assert "classify eval     measure a trained image classifier" in text
    assert "data check" in help_of("data", "--help")


def test_help_fits_a_narrow_terminal(monkeypatch, capsys):
    monkeypatch.setitem(os.environ, "COLUMNS", "40")
    assert main(["cost", "--help"]) == 0
    assert "--models NAME" in capsys.readouterr().out

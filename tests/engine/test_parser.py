import json

import pytest
from jsonargparse import ArgumentError

from involution.engine.parser import config_action, make_parser


@pytest.fixture
def parser():
    parser = make_parser()
    parser.add_argument("--config", action=config_action())
    parser.add_argument("--optimizer.lr", type=float, default=0.1)
    parser.add_argument("--name", type=str, default="run")
    return parser


def test_a_file_or_the_settings_themselves(parser, tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("optimizer:\n  lr: 1e-3\nname: é\n")
    found = parser.parse_args(["--config", str(file)])
    assert (found.optimizer.lr, found.name) == (1e-3, "é")
    assert parser.parse_args(["--config", json.dumps({"optimizer": {"lr": 1e-05}})]).optimizer.lr == 1e-5
    # what comes later wins
    assert parser.parse_args(["--config", str(file), "--optimizer.lr", "3"]).optimizer.lr == 3


def test_a_part_of_an_option_that_has_none_is_unknown():
    parser = make_parser()
    parser.add_argument("--data")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--model.args", type=dict[str, int])
    assert parser.parse_args(["--data", "a", "--model.args.rate", "3"]).model.args == {"rate": 3}
    # not another --data
    for words in (["--data.classes", "b"], ["--data.classes=b"], ["--steps.few", "3"]):
        with pytest.raises(ArgumentError, match=f"unrecognized arguments: {words[0]}"):
            parser.parse_args(["--data", "a", *words])


@pytest.mark.parametrize("name", ["a:", "{a}", "yes", "1.0", "*x", "&x", "2020-01-01", "`", "null"])
def test_a_name_is_what_was_typed(parser, name):
    assert parser.parse_args(["--name", name]).name == name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: &a [*a]", r"c\.yaml: line 1: \*a refers to nothing defined"),
        ("optimizer: {lr: .nan}", r"c\.yaml: line 1, column 17: \.nan is not a finite number"),
        ("hello", r"c\.yaml: wanted settings such as 'trainer: \{epochs: 3\}', got 'hello'"),
        ("", r"wanted settings"),
        ("name: a\nname: b", r"name appears twice"),
        ("optimizer: {lr: [1]}", r"Expected a <class 'float'>"),
    ],
)
def test_mistakes_in_a_file(parser, tmp_path, content, message):
    file = tmp_path / "c.yaml"
    file.write_text(content)
    with pytest.raises(ArgumentError, match=message):
        parser.parse_args(["--config", str(file)])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("none.yaml", "No such file or directory"),
        ("/dev/zero", "more than 256 kB"),
        ("a\0b", "null byte"),
        ("{optimizer: {lr: .inf}}", "not a finite number"),
        ("{a: " + "[" * 10_000, "nested deeper"),
    ],
)
def test_what_is_no_file_of_settings(parser, value, message):
    with pytest.raises(ArgumentError, match=message):
        parser.parse_args(["--config", value])

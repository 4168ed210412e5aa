"""Options that are given where they have no effect are told, in every command."""

import pytest

from involution.cli import command_module, command_parser, commands
from involution.cli.conditions import Condition, given_again, given_options, without_effect

KERNELS = ["explain", "a.png", "--what", "kernels"]
CASES = [
    ([*KERNELS, "--frames", "9"], "--frames has no effect without animation in --what"),
    ([*KERNELS, "--twin", "b.ckpt", "--average", "b.png"], "--average has no effect without receptive-field in --what"),
    (["explain", "a.png", "--what", "stages", "--at", "1,2", "--layer", "stem"], "--at has no effect without kernels"),
    (["explain", "a.png", "--what", "stages", "--group=2"], "--group has no effect without kernels, heatmap or"),
    (["explain", "a.png", "--what", "animation", "--format", "svg"], "--format has no effect on the animation"),
    (
        ["explain", "--list-layers", "--style", "dark", "--output", "x"],
        "--style and --output have no effect with --list",
    ),
    (["explain", "a.png", "--untrained", "rednet26", "--device", "cpu"], "--device has no effect with --untrained"),
    (
        ["detect", "predict", "a.png", "--checkpoint", "c", "--annotations", "x"],
        "--annotations has no effect without --o",
    ),
    (
        ["classify", "predict", "a.png", "--checkpoint", "c", "--part-rows", "5"],
        "--part-rows has no effect without --pa",
    ),
    (
        ["classify", "predict", "a.tar", "--checkpoint", "c", "--parts", "p", "--column", "x"],
        "--column has no effect without Parquet tables",
    ),
    (
        ["classify", "train", "--epochs", "3", "--trainer.steps", "5"],
        "--epochs has no effect where trainer.steps is set",
    ),
    (
        ["segment", "train", "--augment.class_limit", "0.5"],
        "--augment.class_limit has no effect without --augment.crop",
    ),
    (["detect", "train", "--schedule.gamma", "0.5"], "--schedule.gamma has no effect without --schedule.decay step"),
    (["export", "a.ckpt", "--format", "onnx", "--calibration-images", "9"], "--calibration-images has no effect witho"),
    (["cost", "--no-measure", "--dtype", "bfloat16"], "--dtype has no effect with --no-measure"),
    (["bench", "operator", "--compile"], "--compile has no effect in other suites than cpu and gpu"),
    (["bench", "scale", "--seconds", "3"], "--seconds has no effect in the suites gpu and scale"),
    (["ablate", "--cost-only", "--seeds", "2"], "--seeds has no effect with --cost-only"),
]


def told(words):
    size = 2 if tuple(words[:2]) in commands() else 1
    command, argv = tuple(words[:size]), words[size:]
    module = command_module(command)
    parser = command_parser(command, module)
    args = parser.instantiate(parser.parse_args(argv))
    return without_effect(module.conditions, args, given_options(parser, argv))


@pytest.mark.parametrize(("words", "line"), CASES, ids=[" ".join(words[-4:]) for words, _ in CASES])
def test_what_has_no_effect_is_told(words, line):
    assert any(found.startswith(line) for found in told(words)), told(words)


@pytest.mark.parametrize(
    "words",
    [
        ["explain", "a.png", "--frames", "9", "--twin", "b", "--at", "1,2", "--group", "1", "--format", "svg"],
        [
            "detect",
            "predict",
            "a.png",
            "--checkpoint",
            "c",
            "--output",
            "x.json",
            "--annotations",
            "x",
            "--format",
            "dataset",
        ],
        ["classify", "predict", "a.parquet", "--checkpoint", "c", "--parts", "p", "--column", "x", "--part-rows", "5"],
        ["classify", "train", "--epochs", "3", "--schedule.decay", "poly", "--schedule.power", "2"],
        ["cost", "--no-measure", "--scale", "8", "--batch-size", "9"],
        ["bench", "cpu", "--compile", "--seconds", "3"],
    ],
)
def test_what_has_an_effect_is_not(words):
    assert told(words) == []


def test_conditions_name_options_that_there_are():
    for command in commands():
        module = command_module(command)
        known = {action.dest for action in command_parser(command, module)._actions}
        named = {name for condition in getattr(module, "conditions", ()) for name in condition.options.split()}
        assert named <= known, command


def test_several_are_told_in_one_line():
    given = {"one": "--one", "two": "--other"}
    assert without_effect([Condition("one two three", lambda args: False, "here")], None, given) == [
        "--one and --other have no effect here"
    ]


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["classify", "train", "--data", "a", "--data=b"], ["--data a does not count: --data b comes after it"]),
        (["segment", "train", "--lr", "1", "--optimizer.lr", "2"], ["--lr 1 does not count: --optimizer.lr 2 comes a"]),
        (["detect", "predict", "--checkpoint", "a", "b", "--checkpoint", "c"], ["--checkpoint a does not count: --ch"]),
        (["serve", "a", "--name", "x", "y", "--name", "z"], ["--name x y does not count: --name z comes after it"]),
        (["classify", "train", "--data", "a", "--data.spec", "a", "--config", "c", "--config", "d"], []),
        (["explain", "a", "--at", "1,2", "--at", "3,4"], []),
        (["detect", "train", "--data.min_size", "[3]", "--data.min_size+", "4"], []),
    ],
)
def test_what_is_given_again_is_told(words, lines):
    size = 2 if tuple(words[:2]) in commands() else 1
    command = tuple(words[:size])
    found = given_again(command_parser(command, command_module(command)), words[size:])
    assert len(found) == len(lines)
    assert all(one.startswith(start) for one, start in zip(found, lines, strict=True)), found

import pytest

from involution.cli import main


def test_counts_alone(tmp_path, capsys):
    assert main(["cost", "--models", "rednet26", "--no-measure", "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "rednet26" in said
    assert "1.73" in said
    assert "images/s" not in said
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["cost.csv", "cost.md", "cost.png"]


def test_measured(tmp_path, capsys):
    words = [
        "--models",
        "rednet_nano",
        "rednet_nano_conv",
        "--seconds",
        "0",
        "--batch-size",
        "2",
        "--output",
        str(tmp_path),
    ]
    assert main(["cost", *words]) == 0
    assert "images/s" in capsys.readouterr().out
    # nothing is published of these: no plot
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["cost.csv", "cost.md"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--models", "rednet51"], "did you mean rednet50?"),
        (["--size", "8"], "from 32 to 7000 pixels, got 8"),
        (["--batch-size", "0"], "--batch-size must be 1 or more, got 0"),
        (["--seconds", "-1"], "--seconds must be 0 or more, got -1.0"),
        (["--threads", "0"], "--threads must be 1 or more, got 0"),
        (["--model", "rednet50"], "unknown option --model; did you mean --models?"),
    ],
)
def test_wrong_usage(tmp_path, capsys, words, message):
    assert main(["cost", "--output", str(tmp_path), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_file_where_the_folder_should_be(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["cost", "--output", str(tmp_path / "file"), "--no-measure"]) == 2
    assert "a file is where a folder is wanted" in capsys.readouterr().err

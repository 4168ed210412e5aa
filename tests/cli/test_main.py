import subprocess
import sys

import pytest

from involution import __version__
from involution.cli import commands, main


def complaint(capsys):
    err = capsys.readouterr().err
    assert err.startswith("involution: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"involution {__version__}\n"
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(" ".join(command) in text for command in commands())
    assert main([]) == 2
    assert main(["classify", "--help"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["clasify", "train"], "no command 'clasify'; did you mean classify"),
        (["classify", "trian"], "no command 'classify trian'; did you mean classify train?"),
        (["clasify"], "no command 'clasify'; did you mean classify?"),
        (["classify"], "classify what? train, eval, predict"),
        (["--nonsense"], "no command '--nonsense'"),
    ],
)
def test_unknown_commands(capsys, words, message):
    assert main(words) == 2
    assert message in complaint(capsys)


@pytest.mark.parametrize("words", [["classify", "train"], ["classify", "eval"]])
def test_help_of_a_command(capsys, words):
    assert main([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"usage: involution {' '.join(words)}" in text
    if "train" in words:
        # every setting says what it is
        assert "images per optimiser step" in " ".join(text.split())


def test_it_is_a_module_too():
    done = subprocess.run([sys.executable, "-m", "involution", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"involution {__version__}"


def test_faults_of_the_program_are_not_hidden(monkeypatch):
    from involution.cli.eval import EvalCommand

    def broken(self, args):
        raise ValueError("a bug")

    monkeypatch.setattr(EvalCommand, "run", broken)
    with pytest.raises(ValueError, match="a bug"):
        main(["classify", "eval", "--checkpoint", "x.ckpt"])


def test_a_pipe_that_nobody_reads():
    code = "import sys; sys.stdin.read(); from involution.cli import main; sys.exit(main(['--help']))"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as process:
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1

import signal
import sys

import pytest
from explain_checkpoint import save_checkpoint

from involution.cli import main


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no best.ckpt in runs/: train first, `involution demo`"),
        (["--checkpoint", "none.ckpt"], "no such checkpoint: none.ckpt"),
        (["--port", "0"], "wanted a --port from 1 to 65535, got 0"),
        (["--share"], "unknown option --share"),
    ],
)
def test_mistakes_are_told_in_one_line(capsys, words, message):
    assert main(["app", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_without_gradio_it_names_the_extra(here, capsys, monkeypatch):
    save_checkpoint(here / "a.ckpt")
    monkeypatch.setitem(sys.modules, "gradio", None)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert main(["app", "--checkpoint", "a.ckpt"]) == 2
    # Ctrl-C means afterwards what it meant before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert 'gradio is not installed; pip install "involution[demo]"' in capsys.readouterr().err

import re

from involution.engine.classify import train


def test_one_line_an_epoch_where_the_output_is_no_terminal(make_config, capsys):
    train(make_config())
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    pattern = r"run epoch 2/2: val accuracy [\d.]+%, val loss [\d.]+, [\d,]+ images/s"
    assert re.fullmatch(pattern, lines[1])


def test_a_bar_on_a_terminal_of_80_columns(make_config, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    train(make_config("digits"))
    last = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", capsys.readouterr().err).strip().splitlines()[-1]
    assert re.search(r"digits epoch 2/2 .*100 % loss [\d.]+ val [\d.]+% [\d,]+ images/s [\d:]+ left", last), last


def test_silence(make_config, capsys):
    train(make_config(), progress=False)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "")

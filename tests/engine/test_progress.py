import re

import pytest

from involution.engine import progress, train
from involution.engine.callbacks import TrainingInterrupted


def test_one_line_an_epoch_where_the_output_is_no_terminal(make_config, capsys):
    # a long path would be broken at 80 columns, and brackets be taken for markup
    name = f"[run]{'-' * 40}"
    train(make_config(name))
    data, classes, network, steps, *lines = capsys.readouterr().err.splitlines()
    assert data == "data: train 1,077, val 360, test 360 images of digits"
    assert re.fullmatch(r"classes: 10: 0 \d+, 1 \d+, .*, 9 \d+", classes)
    assert sum(map(int, re.findall(r" (\d+)(?:,|$)", classes))) == 1077
    assert re.fullmatch(r"network: test_resnet, 0\.\d+ million parameters; on cpu", network)
    assert steps == "steps: 4 an epoch, of 256 images; 8 in 2 epochs"
    assert len(lines) == 2
    pattern = rf"{re.escape(name)} epoch 2/2: val accuracy [\d.]+%, val loss [\d.]+, [\d,]+ images/s"
    assert re.fullmatch(pattern, lines[1])


def columns(monkeypatch, count):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(count))


def test_a_bar_on_a_terminal_of_80_columns(make_config, capsys, monkeypatch):
    columns(monkeypatch, 80)
    train(make_config("a-name-longer-than-there-is-room-for"))
    last = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", capsys.readouterr().err).strip().splitlines()[-1]
    assert re.search(r"^a-name\S*… .* epoch 2/2 loss [\d.]+ val [\d.]+% [\d,]+ images/s [\d:]+ left$", last), last


def test_silence(make_config, capsys):
    train(make_config(), progress=False)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "")


def test_lines_on_a_terminal_that_can_not_move_its_cursor(make_config, capsys, monkeypatch):
    columns(monkeypatch, 80)
    monkeypatch.setenv("TERM", "dumb")
    train(make_config())
    # what the run is, and a line an epoch
    assert len(capsys.readouterr().err.splitlines()) == 6


def test_speed_after_a_resumption_within_an_epoch(make_config, press_ctrl_c, capsys):
    config = make_config()
    press_ctrl_c("training_step", 2)
    with pytest.raises(TrainingInterrupted, match="interrupted") as stop:
        train(config)
    capsys.readouterr()
    train(config, resume=stop.value.checkpoint)
    first = next(line for line in capsys.readouterr().err.splitlines() if "epoch 1/2" in line)
    assert float(re.search(r"([\d,]+) images/s", first)[1].replace(",", "")) > 1


def test_a_long_epoch_is_told_now_and_then(make_config, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_FIRST", 0)
    monkeypatch.setattr(progress, "_AGAIN", 0)
    train(make_config())
    lines = [line for line in capsys.readouterr().err.splitlines() if " batches, " in line]
    assert re.fullmatch(r"run epoch 1/2: 2 of 4 batches, loss [\d.]+, [\d,.]+ images/s, about \d+ s left", lines[0])
    # the last batch of an epoch is told by the epoch's line
    assert [line.split()[3] for line in lines] == ["2", "3", "1", "2", "3"]


@pytest.mark.parametrize(("seconds", "words"), [(3.4, "3 s"), (600, "10 min"), (9000, "2.5 h")])
def test_a_duration_in_words(seconds, words):
    assert progress._duration(seconds) == words

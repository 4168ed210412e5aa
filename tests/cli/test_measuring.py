"""What is shown while something is measured or trained: words as they are, whatever brackets they have."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from involution.cli import measuring
from involution.engine import progress

NASTY = ["[/red]", "[bold]x", "a[link=b]", "\\[/]"]


@pytest.fixture
def screen(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(
        measuring, "Console", lambda **options: Console(file=file, force_terminal=True, width=120, color_system=None)
    )
    return file


@pytest.mark.parametrize("name", NASTY)
def test_steps_of_any_name(name, screen):
    with measuring.Steps(3, name) as steps:
        steps.say(f"{name} again")
    assert name in screen.getvalue()
    assert f"{name} again" in screen.getvalue()


@pytest.mark.parametrize("name", NASTY)
def test_runs_of_any_name(name):
    file = io.StringIO()
    bar = progress.ProgressBar(name, Console(file=file, force_terminal=True, width=120, color_system=None))
    trainer = SimpleNamespace(is_global_zero=True, num_training_batches=5, max_epochs=1, current_epoch=0)
    bar.on_train_start(trainer, None)
    bar._progress.update(bar._task, figures=name)
    bar._progress.refresh()
    bar._stop()
    assert file.getvalue().count(name) >= 2

import importlib.util
from pathlib import Path

import pytest

from involution import cli

PATH = Path(__file__).parents[2] / "docs" / "commands.py"


@pytest.fixture
def commands():
    spec = importlib.util.spec_from_file_location("commands", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_command_has_its_section(commands, monkeypatch):
    info = {("info",): cli.commands()[("info",)]}
    monkeypatch.setattr(cli, "commands", lambda: info)
    section = commands.commands()
    assert section.startswith("\n## info\n\n```text\nusage: involution info\n")
    monkeypatch.setattr(cli, "commands", lambda: {("nonsense",): ("involution.cli.nonsense", "")})
    with pytest.raises(ModuleNotFoundError, match=r"involution\.cli\.nonsense"):
        commands.commands()

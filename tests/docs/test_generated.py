import importlib.util
from pathlib import Path

import pytest

from involution import cli

PATH = Path(__file__).parents[2] / "docs" / "generated.py"


@pytest.fixture(scope="module")
def generated():
    spec = importlib.util.spec_from_file_location("generated", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_show_what_was_measured(generated):
    row = next(
        row
        for row in generated.rows("cpu_avx512_torch2.14.1.csv")
        if (row["measure"], row["batch"], row["candidate"]) == ("inference", 8, "RedNet-50, folded")
    )
    figure = f"{row['p50_ratio']:.2f} ({row['p20_ratio']:.2f}–{row['p80_ratio']:.2f})"
    tables = generated.tables()
    assert f"| inference | RedNet-50, folded | ResNet-50, folded | 8 | {figure} |" in tables["measured_ratios"]
    cost = {row["model"]: row for row in generated.rows("cost_cpu-avx512_torch2.14.1.csv")}
    assert f"| {cost['rednet152']['p50_ms']:.1f} (" in tables["measured_time"]
    page = (PATH.parent / "measured.md").read_text(encoding="utf-8")
    assert [name for name in tables if f"{{{{ {name} }}}}" not in page] == []


def test_every_command_has_its_section(generated, monkeypatch):
    monkeypatch.setattr(cli, "COMMANDS", {("info",): cli.COMMANDS[("info",)]})
    section = generated.commands()
    assert section.startswith("\n## info\n\n```text\nusage: involution info\n")
    monkeypatch.setattr(cli, "COMMANDS", {("nonsense",): ("involution.cli.nonsense", "")})
    with pytest.raises(ModuleNotFoundError, match=r"involution\.cli\.nonsense"):
        generated.commands()

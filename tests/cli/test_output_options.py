"""Every option that names an output, found in the parsers: what is there already is refused before any work."""

import os
import re

import pytest
import torch
from explain_checkpoint import save_checkpoint
from pictures import picture

from involution.cli import commands, main
from involution.data import registry
from involution.engine.parser import make_parser
from involution.engine.tasks.detect import spec as detect_spec  # noqa: F401  (the tasks are registered)
from involution.studies import ablation_runs, cost_table, harness, origin, records

# an image, and a checkpoint that isn't there: whoever reads it first says so instead
PREDICT = "{task} predict {tmp}/x.png --checkpoint none.ckpt"
EVAL = "{task} eval --checkpoint none.ckpt"
TRAIN = "{task} train --name run --data nowhere"
# command, option -> the other words, and the files that would be written below what the option names
OUTPUTS = {
    ("classify predict", "--output"): (PREDICT, ["found.json", "found.csv"]),
    ("detect predict", "--output"): (PREDICT, ["found.json"]),
    ("detect predict", "--pictures"): (PREDICT, ["out/x.png", "out/index.jsonl"]),
    ("segment predict", "--output"): (PREDICT, ["out/x.png", "out/index.jsonl"]),
    ("segment predict", "--pictures"): (PREDICT, ["out/x.png", "out/index.jsonl"]),
    ("classify predict", "--parts"): (PREDICT, ["out/notes.txt", "out/part-00000.parquet"]),
    ("detect predict", "--parts"): (PREDICT, ["out/notes.txt", "out/part-00000.parquet"]),
    ("segment predict", "--parts"): (PREDICT, ["out/notes.txt", "out/part-00000.parquet"]),
    ("classify eval", "--output"): (EVAL, ["found.json"]),
    ("detect eval", "--output"): (EVAL, ["found.json"]),
    ("detect eval", "--results"): (EVAL, ["found.json"]),
    ("segment eval", "--output"): (EVAL, ["found.json"]),
    ("classify eval", "--report"): (EVAL, ["found.html"]),
    ("detect eval", "--report"): (EVAL, ["found.html"]),
    ("segment eval", "--report"): (EVAL, ["found.html"]),
    ("classify train", "--output"): (TRAIN, ["out/run/notes.txt", "out/run/data.json"]),
    ("detect train", "--output"): (TRAIN, ["out/run/notes.txt", "out/run/data.json"]),
    ("segment train", "--output"): (TRAIN, ["out/run/notes.txt", "out/run/data.json"]),
    ("data check", "--output"): ("data check nowhere --task classify", ["out/data.json", "out/sheet.png"]),
    ("cost", "--output"): ("cost --models rednet_nano", ["out/cost.csv", "out/cost.md", "out/cost.png"]),
    ("bench", "--output"): ("bench cpu", ["out/fake.csv", "out/fake.md", "out/fake.png"]),
    ("ablate", "--output"): ("ablate", ["out/other"]),
    ("photo", "--output"): ("photo", ["out/other"]),
    ("explain", "--output"): (
        "explain {tmp}/x.png --checkpoint {tmp}/a.ckpt --layer stem --what kernels animation",
        ["out/x-conv1.3-kernels.png", "out/x-conv1.3-window.gif", "out/index.jsonl"],
    ),
    ("demo", "--output"): ("demo", ["out/notes.txt"]),
    ("weights", "--output"): ("weights save rednet50", ["out/notes.txt"]),
    ("export", "--output"): ("export none.ckpt --format pt2", ["found.pt2"]),
    ("convert", "OUT"): ("convert none.pth", ["out.ckpt", "out.safetensors"]),
    ("convert", "--output"): ("convert none.pth", ["out.ckpt", "out.safetensors"]),
}
# options that name files to read
INPUTS = {"--checkpoint", "--twin", "--classes", "--annotations", "--resume", "--study", "--config", "--token-file"}
INPUTS |= {"IN", "CHECKPOINT"}
# and those that say what an output is like
WORDS = {"--format", "--force", "--name", "--print-config"}
CASES = [(*key, file) for key, (_, files) in OUTPUTS.items() for file in files]
REFUSED = (
    "not overwritten|already has files|holds files that are not a|wanted a new or empty folder|"
    "exists: choose another name"
)


def options(parser):
    """Options by which a file or folder is named, as far as their help or placeholder tells."""
    for action in parser._actions:
        name = action.option_strings[-1] if action.option_strings else str(action.metavar or action.dest)
        kind = str(action.metavar)
        told = re.search(r"\b(write|save|output)\b", f"{action.help} {name.strip('-')}", re.IGNORECASE)
        if kind in ("FILE", "DIR", "FOLDER", "OUT", "IN", "PATH", "CHECKPOINT") or told:
            yield name


def test_this_file_knows_every_option_that_names_an_output():
    import importlib

    found = set()
    for words, (name, _) in commands().items():
        module = importlib.import_module(name)
        module = module.for_task(words[0]) if hasattr(module, "for_task") else module
        parser = make_parser(prog="x")
        module.add_arguments(parser)
        found |= {(" ".join(words), option) for option in options(parser) if option not in INPUTS | WORDS}
    # the settings of a training, with a point, are no files to write
    assert {key for key in found if "." not in key[1]} == set(OUTPUTS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "a.ckpt")


@pytest.fixture
def idle(tmp_path, monkeypatch, checkpoint):
    """A folder with an image and a checkpoint, and nothing that may be computed."""

    def work(*args, **options):
        raise AssertionError("work before the check")

    monkeypatch.chdir(tmp_path)
    picture().save("x.png")
    os.link(checkpoint, "a.ckpt")
    monkeypatch.setattr(torch.nn.Module, "__call__", work)
    monkeypatch.setattr(registry, "open_data", work)
    monkeypatch.setattr(cost_table, "all_rows", work)
    monkeypatch.setattr(harness, "run", work)
    monkeypatch.setattr(ablation_runs, "open_data", work)
    monkeypatch.setattr(origin, "file_name", lambda *words: "fake")
    return tmp_path


def call(tmp_path, command, option, file):
    words = OUTPUTS[command, option][0].format(task=command.split()[0], tmp=tmp_path).split()
    named = str(file.parent) if file.parent.name in ("out", "run") else str(file)
    named = str(file.parent.parent) if file.parent.name == "run" else named
    return main([*words, *([option] if option.startswith("--") else []), named])


def everything(folder):
    return {
        str(path): path.read_bytes() if path.is_file() else os.readlink(path) if path.is_symlink() else None
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("kind", ["file", "link", "hard link", "empty"])
@pytest.mark.parametrize(("command", "option", "name"), CASES)
def test_a_file_of_somebody_else_is_refused_and_untouched(idle, capsys, command, option, name, kind):
    file = idle / name
    file.parent.mkdir(parents=True, exist_ok=True)
    (idle / "precious").write_text("precious")
    if kind == "link":
        file.symlink_to(idle / "precious")
    elif kind == "hard link":
        os.link(idle / "precious", file)
    else:
        file.write_text("precious" if kind == "file" else "")
    before = everything(idle)
    assert call(idle, command, option, file) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(REFUSED, line)
    assert everything(idle) == before


@pytest.mark.parametrize(("command", "option", "name"), CASES)
def test_a_folder_in_its_place_is_refused(idle, capsys, command, option, name):
    file = idle / name
    (file / "inside").mkdir(parents=True)
    before = everything(idle)
    assert call(idle, command, option, file) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(f"{REFUSED}|a folder is where a file is wanted|is a folder; wanted the name of a file", line)
    assert everything(idle) == before


@pytest.mark.parametrize(("command", "option", "name"), [case for case in CASES if "csv" not in case[2]])
def test_a_file_where_a_folder_is_wanted_is_refused(idle, capsys, command, option, name):
    (idle / "precious").write_text("precious")
    before = everything(idle)
    assert call(idle, command, option, idle / "precious" / name) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"a file is where a folder is wanted|no folder .*precious to write", line)
    assert everything(idle) == before


def test_a_table_in_a_study_that_was_changed_by_hand_is_refused(idle, capsys):
    (idle / "out").mkdir()
    (idle / "out" / records.MARKER).write_text("{}")
    (idle / "out" / "ablate.md").write_text("mine")
    assert main(["ablate", "--output", "out"]) == 2
    assert "ablate.md: not overwritten: involution did not make this file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.ckpt", "link.ckpt", "./out/../a.ckpt"])
def test_a_file_is_never_converted_onto_itself(idle, capsys, name):
    (idle / "out").mkdir()
    (idle / "link.ckpt").symlink_to("a.ckpt")
    before = everything(idle)
    assert main(["convert", "a.ckpt", name, "--force"]) == 2
    assert "is the file to convert: choose another name for the output" in capsys.readouterr().err
    assert everything(idle) == before

"""One file, one registration: what a format needs, and how specs are read."""

import ast
import dataclasses
import subprocess
import sys
from types import SimpleNamespace

import pytest
from generated import image_folder

from involution.data import registry
from involution.data.errors import DataError
from involution.data.findings import Findings
from involution.data.records import DataSet
from involution.data.registry import Format, Options, format_help, formats, open_data, register

TOY = """
from pathlib import Path

from involution.data.findings import Findings
from involution.data.records import DataSet
from involution.data.registry import Format, register


def open_toy(spec, path, options):
    pairs = [(name, options.split_seed) for name in Path(path, "toy.txt").read_text().split()]
    return DataSet(spec, ["a", "b"], {"train": pairs, "val": pairs}, Findings(used={"train": 2, "val": 2}))


register(Format("toy", "classify", "toy:PATH", "pairs in toy.txt", open_toy, lambda f: (f / "toy.txt").is_file()))
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A format in a file of its own, as a user or a later change would add it."""
    monkeypatch.setattr(registry, "_FORMATS", dict(registry._FORMATS) if formats() else {})
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "toy_format.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.delitem(sys.modules, "toy_format", raising=False)
    __import__("toy_format")
    (tmp_path / "toy.txt").write_text("x y")
    return tmp_path


def test_a_toy_format_is_opened_recognised_and_listed(toy):
    data = open_data("classify", f"toy:{toy}", Options(split_seed=3))
    assert data.train == [("x", 3), ("y", 3)]
    assert open_data("classify", str(toy)).spec == str(toy)
    assert "toy:PATH (pairs in toy.txt)" in format_help("classify")
    assert "toy" in [found.name for found in formats("classify")]
    assert "toy" not in [found.name for found in formats("detect")]
    with pytest.raises(DataError, match="did you mean toy"):
        open_data("classify", f"toi:{toy}")
    with pytest.raises(ValueError, match="classify already has a format named toy"):
        register(formats("classify")[-2])


def test_every_format_states_its_syntax_and_what_it_is():
    assert {found.task for found in formats()} == {"classify", "detect", "segment"}
    for found in formats():
        assert found.syntax.replace("[", "").startswith(found.name)
        assert found.description
        assert "\n" not in found.description
    assert formats("classify")[0].syntax == "digits"


def test_listing_needs_no_torch():
    code = "import sys, involution; before = set(sys.modules); from involution.data.registry import format_help"
    code += "; format_help('detect'); print({name.partition('.')[0] for name in set(sys.modules) - before})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert ast.literal_eval(found) <= {"involution", *sys.stdlib_module_names}


@pytest.mark.parametrize(
    ("task", "spec", "message"),
    [
        ("classify", "digit", "no data set named 'digit' for classify.*there are digits, .*did you mean digits"),
        ("classify", "imagefolder", "imagefolder needs a path: imagefolder:PATH"),
        ("classify", "imagefolder:", "imagefolder needs a path: imagefolder:PATH"),
        ("classify", "digits:here", "digits takes no path"),
        ("classify", "", "no data set named ''"),
        ("detect", "coco", "coco needs a path"),
        ("detect", "coco:/no/such", "no such folder"),
        ("detect", "cocoo:x", "did you mean coco"),
        ("detect", "digit-scenes:", r"digit-scenes needs a path: digit-scenes\[:PATH\]"),
        ("detect", "masks:x", "masks is for segment"),
        ("segment", "mask:x", "did you mean masks"),
        ("segment", "masks", "needs a path"),
        ("segment", "masks:/no/such", "no such folder"),
    ],
)
def test_wrong_specs(task, spec, message):
    with pytest.raises(DataError, match=message):
        open_data(task, spec)


@pytest.mark.parametrize(("task", "name"), [("classify", "digits"), ("detect", "digit-scenes")])
def test_a_folder_named_as_a_built_in_data_set_is_told(task, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = f"{name} is the built-in data set; for the folder of that name: ./{name}"
    assert told not in open_data(task, name).findings.notes
    (tmp_path / name).mkdir()
    assert told in open_data(task, name).findings.notes


def test_a_folder_in_no_known_format(tmp_path):
    with pytest.raises(DataError, match="is not in a recognised format; say which: digits, cifar10:PATH, "):
        open_data("classify", str(tmp_path))


@pytest.mark.parametrize(
    "found", [item for item in formats() if item.syntax.endswith(":PATH")], ids=lambda item: item.name
)
def test_an_archive_in_place_of_a_folder(tmp_path, found):
    (tmp_path / "set.zip").write_bytes(b"PK\3\4")
    for spec in (f"{found.name}:{tmp_path / 'set.zip'}", str(tmp_path / "set.zip")):
        with pytest.raises(DataError, match=r"set\.zip: wanted a folder, got a file; unpack it and name the folder"):
            open_data(found.task, spec)
    with pytest.raises(DataError, match=r"no such folder: .*none"):
        open_data(found.task, f"{found.name}:{tmp_path / 'none'}")


def test_a_folder_in_the_home_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    image_folder(tmp_path / "pets")
    assert open_data("classify", "imagefolder:~/pets").classes == ["ant", "bee", "cat"]


def test_options_are_taken_from_settings_of_the_same_names():
    settings = SimpleNamespace(spec="x", on_problem="skip", split_seed=7)
    assert Options.of(settings, masks=True) == Options(on_problem="skip", split_seed=7, masks=True)
    with pytest.raises(DataError, match="on_problem must be refuse or skip, got 'ignore'"):
        Options(on_problem="ignore")


def test_options_of_splits_that_are_not_drawn_are_told(tmp_path):
    image_folder(tmp_path)
    for spec, only, told in (
        ("digits", None, ["data.split_by"]),
        (f"imagefolder:{tmp_path / 'train'}", None, []),
        (f"imagefolder:{tmp_path}", None, ["data.split_seed", "data.split_by"]),
        (f"imagefolder:{tmp_path}", "val", []),
    ):
        notes = open_data("classify", spec, Options(split_seed=3, split_by="draw", only=only)).findings.notes
        found = [note for note in notes if note.endswith(f" has no effect: no splits of {spec} are drawn by it")]
        assert [note.split()[0] for note in found] == told


def test_splits_by_name():
    data = DataSet("here", ["a"], {"train": [1], "val": [2]}, Findings())
    assert (data.train, data.val, data.test, data.split("val")) == ([1], [2], None, [2])
    with pytest.raises(DataError, match="no split named 'dev'"):
        data.split("dev")
    with pytest.raises(DataError, match="here has no test split; use train or val by --split"):
        data.split("test")
    with pytest.raises(dataclasses.FrozenInstanceError, match="spec"):
        data.spec = "there"


def test_format_is_a_record():
    assert Format("a", "classify", "a", "letters", lambda *_: None).recognises is not None

"""Exporting: what is written is run and compared first, appears whole or not at all, and replaces nobody's file."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from involution.cli import main
from involution.engine.loading import load_predictor
from involution.export import ExportError, export_checkpoint, load_exported, registry
from involution.export.formats import pt2
from involution.export.registry import get_format
from involution.extras import MissingExtra


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def files():
    return sorted(path.name for path in Path().iterdir() if not path.name.startswith("."))


def test_the_command_says_in_one_line_what_it_found(checkpoints, capsys):
    assert main(["export", str(checkpoints["grey"]), "--format", "pt2", "--license", "mit"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("written   grey.pt2: 0.")
    assert " MB, same class for 8 of 8 images as in PyTorch (largest difference " in line
    assert " ms an image, in PyTorch " in line
    assert files() == ["grey.pt2"]
    # its own file is replaced
    assert main(["export", str(checkpoints["grey"]), "--format", "pt2", "--output", "grey.pt2"]) == 0


def test_the_users_files_are_left_alone(checkpoints, capsys):
    Path("mine.pt2").write_text("mine")
    assert main(["export", str(checkpoints["grey"]), "--format", "pt2", "--output", "mine.pt2"]) == 2
    assert "not overwritten: involution did not make this file" in capsys.readouterr().err
    assert Path("mine.pt2").read_text() == "mine"


def test_the_metadata_is_that_of_the_checkpoint(checkpoints, photos):
    written = export_checkpoint(checkpoints["classify"], "pt2", "a.pt2", images=[str(photos)], license="mit")
    found = json.loads(get_format("pt2").metadata(Path("a.pt2")))
    assert found == json.loads(written.metadata.to_json())
    assert (found["task"], found["model"], found["license"]) == ("classify", "rednet_nano", "mit")
    assert found["classes"] == ["ant", "bee", "cat", "dog"]
    assert found["inputs"] == [{"name": "images", "dtype": "float32", "shape": ["batch", 3, 24, 24]}]
    assert (found["preprocessing"]["resize"], found["preprocessing"]["crop"]) == (30, 24)
    assert found["source"] == "colour.ckpt"
    assert set(found["versions"]) == {"involution", "torch"}
    assert written.found == "same class for 2 of 2 images"


def test_published_weights_have_their_licence_and_name(published26):
    written = export_checkpoint("rednet26", "pt2", "r.pt2")
    assert (written.metadata.license, written.metadata.source) == ("apache-2.0", "rednet26.paddle_in1k")
    assert written.metadata.classes[0] == "tench"
    assert written.difference < 1e-5


def test_a_file_that_computes_something_else_never_appears(checkpoints, monkeypatch):
    right = pt2._load

    def wrong(path):
        run = right(path)
        return lambda inputs: tuple(out.roll(1, 1) for out in run(inputs))

    monkeypatch.setitem(registry._FORMATS, "pt2", replace(get_format("pt2"), load=wrong))
    with pytest.raises(ExportError, match=r"pt2 does not compute what PyTorch does: differences up to 0\.\d+, same"):
        export_checkpoint(checkpoints["grey"], "pt2")
    assert files() == []


def test_nothing_is_left_of_a_format_that_fails(checkpoints, monkeypatch):
    def write(graph, metadata, path, settings):
        path.write_bytes(b"half")
        raise ExportError("no more")

    monkeypatch.setitem(registry._FORMATS, "pt2", replace(get_format("pt2"), write=write))
    with pytest.raises(ExportError, match="no more"):
        export_checkpoint(checkpoints["grey"], "pt2")
    assert files() == []


PICTURE = str(Path(__file__).parents[2] / "docs/images/segments.png")
WRONG = {
    ("grey", "--format", "pt2", "--output", "a.onnx"): "wanted an output file that ends in .pt2, got 'a.onnx'",
    ("grey", "--format", "pt2", "--size", "24x24"): "this classifier sees images of 16 x 16 pixels; leave out --size",
    ("grey", "--format", "pt2", "--size", "large"): "wanted a --size as height and width, such as 512x1024, got",
    ("segment", "--format", "pt2", "--size", "0x64"): "wanted a size of 1 pixel or more, got 0x64",
    ("grey", "--format", "pt2", "--images", "nowhere"): "nowhere: no such file or folder",
    ("grey", "--format", "pt2", "--images", PICTURE, "nowhere"): "nowhere: no such file or folder",
    ("missing", "--format", "pt2"): "no such checkpoint: missing.ckpt",
}


@pytest.mark.parametrize("case", WRONG, ids=" ".join)
def test_what_is_wrong_is_told_in_one_line(case, checkpoints, capsys):
    checkpoint, *options = case
    assert main(["export", str(checkpoints.get(checkpoint, "missing.ckpt")), *options]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert WRONG[case] in line
    assert files() == []


def test_a_toy_format_is_written_compared_and_used(checkpoints, photos, monkeypatch):
    kept = {}

    def write(graph, metadata, path, settings):
        path.write_text(metadata)
        kept["module"] = graph.module

    def load(path):
        return lambda inputs: kept["module"](*inputs)

    toy = registry.Format(
        "toy",
        ".toy",
        "toys",
        "toys",
        (),
        write,
        lambda path: path.read_text(),
        load,
        lambda path: path.suffix == ".toy",
    )
    monkeypatch.setattr(registry, "_FORMATS", dict(registry.formats()))
    registry.register(toy)
    with pytest.raises(ValueError, match="already a format named toy"):
        registry.register(toy)
    export_checkpoint(checkpoints["grey"], "toy")
    with torch.no_grad():
        found = load_exported("grey.toy", "toys").predict([photos / "0.png"])
    assert found[0].labels == load_predictor(checkpoints["grey"], "cpu").predict(photos / "0.png").labels


def test_a_missing_package_is_told_before_the_work(checkpoints, monkeypatch):
    monkeypatch.setitem(registry._FORMATS, "pt2", replace(get_format("pt2"), packages=("nowhere",)))
    with pytest.raises(MissingExtra, match="nowhere is not installed"):
        export_checkpoint("missing.ckpt", "pt2")

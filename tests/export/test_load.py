"""Predictions with exported files: the results of the checkpoint."""

import json
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from involution.cli import main
from involution.engine.loading import load_predictor
from involution.export import ExportError, export_checkpoint, load_exported


@pytest.fixture(scope="module")
def programs(checkpoints, tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    found = {}
    for name, inside in (("classify", True), ("grey", False), ("segment", True)):
        file = folder / f"{name}.pt2"
        found[name] = export_checkpoint(checkpoints[name], "pt2", file, with_preprocessing=inside).file
    return found


@pytest.mark.parametrize("name", ["classify", "grey", "segment"])
def test_the_same_results_as_the_checkpoint(name, checkpoints, programs, photos):
    ours = load_predictor(checkpoints[name], "cpu").predict(sorted(photos.iterdir()))
    theirs = load_exported(programs[name], "torch").predict(sorted(photos.iterdir()))
    for one, other in zip(ours, theirs, strict=True):
        assert type(one) is type(other)
        if name == "segment":
            assert (one.labels == other.labels).all()
            assert one.shares == other.shares
        else:
            assert one.labels == other.labels
            assert one.scores == pytest.approx(other.scores, abs=1e-5)


def test_predict_takes_a_program(programs, photos, capsys):
    assert main(["classify", "predict", str(photos), "--checkpoint", str(programs["grey"])]) == 0
    assert "2 classified, 0 skipped" in capsys.readouterr().out


def test_an_image_of_another_size_than_a_fixed_one_is_skipped(checkpoints, photos, tmp_path, capsys):
    file = tmp_path / "s.pt2"
    export_checkpoint(checkpoints["segment"], "pt2", file, size=(128, 128))
    assert main(["segment", "predict", str(photos), "--checkpoint", str(file)]) == 1
    told = capsys.readouterr().err
    assert "the file was exported for batch x 3 x 128 x 128, got 1 x 3 x " in told
    assert told.count("skipped") == 2


def refused(words, capsys):
    assert main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_what_is_wrong_is_told_in_one_line(checkpoints, programs, photos, tmp_path, capsys):
    words = ["classify", "predict", str(photos), "--checkpoint"]
    assert "made for the task 'segment', wanted classify" in refused([*words, str(programs["segment"])], capsys)
    assert "add --runtime torch" in refused([*words, str(programs["grey"]), "--runtime", "aoti"], capsys)
    assert "not a file of `involution export --format aoti`" in refused(
        [*words, str(checkpoints["grey"]), "--runtime", "aoti"], capsys
    )
    assert "no such file: none.pt2" in refused([*words, "none.pt2", "--runtime", "aoti"], capsys)
    assert "an exported file runs on the CPU, got --device meta" in refused(
        [*words, str(programs["grey"]), "--device", "meta"], capsys
    )


def test_a_program_of_somebody_else_is_told(programs, photos, tmp_path, capsys):
    other = tmp_path / "other.pt2"
    with zipfile.ZipFile(programs["grey"]) as source, zipfile.ZipFile(other, "w") as target:
        for name in source.namelist():
            if not name.endswith("involution.json"):
                target.writestr(name, source.read(name))
    words = ["classify", "predict", str(photos), "--checkpoint", str(other)]
    assert "says nothing about its classes and images; wanted a file of `involution export`" in refused(words, capsys)


def test_metadata_is_read_without_running_anything(programs, tmp_path):
    # nothing but the entry itself is there
    text = json.dumps({"schema": 1})
    file = tmp_path / "a.pt2"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/archive_format", "pt2")
        archive.writestr("a/extra/involution.json", text)
    with pytest.raises(ExportError, match="has no task"):
        load_exported(file, "torch")


def test_no_runtime_of_that_name(programs):
    with pytest.raises(ExportError, match="no runtime named 'tvm'"):
        load_exported(Path("a.pt2"), "tvm")


def test_a_file_for_pictures_of_8_bits_says_what_becomes_of_deeper_ones(checkpoints, tmp_path):
    content = torch.load(checkpoints["grey"], weights_only=True)
    content["involution"]["recipe"]["data"]["value_range"] = [0, 4095]
    checkpoint, deep = tmp_path / "deep.ckpt", tmp_path / "deep.png"
    torch.save(content, checkpoint)
    PIL.Image.fromarray(np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)).save(deep)
    said = (
        "it takes pictures of 8 bits: other programs must first make the values 0 to 4095 of deeper ones black to white"
    )
    plain = export_checkpoint(checkpoint, "pt2", tmp_path / "plain.pt2")
    inside = export_checkpoint(checkpoint, "pt2", tmp_path / "inside.pt2", with_preprocessing=True)
    assert said not in str(plain)
    assert said in str(inside)
    wanted = load_predictor(checkpoint, "cpu").predict(deep)
    for written in (plain, inside):
        assert load_exported(written.file, "torch").predict(deep).scores == pytest.approx(wanted.scores, abs=1e-3)

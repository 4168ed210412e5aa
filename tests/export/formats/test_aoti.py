"""AOTInductor's packages. Compiling takes half a minute, so one package has to show everything."""

import json
import zipfile
from pathlib import Path

import pytest
import torch

from involution.cli import main
from involution.engine.loading import load_predictor
from involution.export import export_checkpoint, load_exported
from involution.export.registry import get_format


@pytest.mark.slow
def test_a_package_is_compiled_compared_and_used(checkpoints, photos, tmp_path, capsys):
    file = tmp_path / "a.pt2"
    written = export_checkpoint(checkpoints["grey"], "aoti", file)
    assert written.difference < 1e-5
    assert json.loads(get_format("aoti").metadata(file))["classes"] == ["ant", "bee", "cat", "dog"]
    # C++ programs find it by AOTInductor's own function
    metadata = torch._inductor.aoti_load_package(str(file)).get_metadata()
    assert json.loads(metadata["involution"]) == json.loads(written.metadata.to_json())
    ours = load_predictor(checkpoints["grey"], "cpu").predict(photos / "1.png")
    theirs = load_exported(file, "aoti").predict(photos / "1.png")
    assert ours.labels == theirs.labels
    assert ours.scores == pytest.approx(theirs.scores, abs=1e-5)
    assert main(["classify", "predict", str(photos), "--checkpoint", str(file), "--runtime", "aoti"]) == 0
    assert main(["classify", "predict", str(photos), "--checkpoint", str(file), "--runtime", "torch"]) == 2
    assert "add --runtime aoti" in capsys.readouterr().err


def test_what_is_no_package_is_told_apart(tmp_path):
    recognises = get_format("aoti").recognises
    (tmp_path / "text.pt2").write_text("text")
    with zipfile.ZipFile(tmp_path / "zip.pt2", "w") as archive:
        archive.writestr("a.txt", "a")
    assert not any(recognises(path) for path in (tmp_path / "text.pt2", tmp_path / "zip.pt2", Path("nowhere")))

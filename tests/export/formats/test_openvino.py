"""OpenVINO's files: two that belong together, with the extension's operators and the metadata of the other formats."""

import json
import shutil

import pytest
import torch
from explain_checkpoint import save_checkpoint

from involution.cli import main
from involution.engine.loading import load, load_predictor
from involution.export import LibraryError, export_checkpoint, load_exported, openvino_library
from involution.export.graph import Graph, Input
from involution.export.pixels import Normalise
from involution.export.registry import Settings, get_format
from involution.export.resample import FitInside

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def written(checkpoints, tmp_path_factory):
    try:
        openvino_library()
    except LibraryError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("openvino")
    return export_checkpoint(checkpoints["grey"], "openvino", folder / "a.xml", with_preprocessing=True)


def test_the_results_are_those_of_the_checkpoint(written, checkpoints, photos):
    assert written.difference < 1e-5
    assert written.file.with_suffix(".bin").is_file()
    assert 'type="DynamicInvolution2d"' in written.file.read_text()
    assert json.loads(get_format("openvino").metadata(written.file)) == json.loads(written.metadata.to_json())
    ours = load_predictor(checkpoints["grey"], "cpu").predict(photos / "1.png")
    theirs = load_exported(written.file, "openvino").predict(photos / "1.png")
    assert ours.labels == theirs.labels
    assert ours.scores == pytest.approx(theirs.scores, abs=1e-5)


class Pyramid(torch.nn.Module):
    """Two levels of an image that the graph resizes, the coarser one added to the finer one."""

    def __init__(self):
        super().__init__()
        self.fit, self.normalise = FitInside(64, 64, 32, None), Normalise([0.5] * 3, [0.25] * 3)
        self.fine, self.coarse = torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.Conv2d(4, 4, 3, 2, 1)

    def forward(self, pictures):
        images, _ = self.fit(self.normalise(pictures))
        fine = self.fine(images)
        grown = torch.nn.functional.interpolate(self.coarse(fine), size=fine.shape[-2:], mode="nearest")
        return (grown + fine,)


def test_sizes_that_the_graph_computes_are_there_when_they_are_read(tmp_path):
    module = Pyramid().eval()
    pictures = Input("images", torch.randint(0, 256, (1, 3, 90, 120), dtype=torch.uint8), {2: "height", 3: "width"})
    chosen = get_format("openvino")
    chosen.write(Graph(module, (pictures,), ("levels",)), "{}", tmp_path / "a.xml", Settings())
    run = chosen.load(tmp_path / "a.xml")
    for size in ((90, 120), (200, 75)):
        picture = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
        with torch.no_grad():
            torch.testing.assert_close(run([picture]), module(picture), rtol=1e-3, atol=1e-3)


def test_each_batch_size_is_compiled_by_itself(written, checkpoints, tmp_path, monkeypatch):
    import openvino

    compiled = []
    whole = openvino.Core.compile_model
    monkeypatch.setattr(
        openvino.Core, "compile_model", lambda *words: compiled.append(words[1].input(0).partial_shape) or whole(*words)
    )
    file = export_checkpoint(checkpoints["grey"], "openvino", tmp_path / "a.xml").file
    compiled.clear()
    run, (network, _) = get_format("openvino").load(file), load(checkpoints["grey"])
    for batch in (3, 1, 3, 0):
        x = torch.rand(batch, 1, 16, 16)
        with torch.no_grad():
            torch.testing.assert_close(run([x])[0], network(x), rtol=1e-4, atol=1e-5)
    # open where there is nothing in the batch
    assert [str(shape) for shape in compiled] == ["[1,1,16,16]", "[3,1,16,16]", "[?,1,16,16]"]


def test_what_is_wrong_is_told_in_one_line(written, photos, tmp_path, capsys):
    words = ["classify", "predict", str(photos), "--runtime", "openvino", "--checkpoint"]
    shutil.copy(written.file, tmp_path / "alone.xml")
    (tmp_path / "cut.xml").write_text(written.file.read_text()[:1000])
    for name, said in {
        "alone.xml": "its weights are missing, alone.bin in the same folder",
        "cut.xml": "not an IR of OpenVINO, or a damaged one",
    }.items():
        assert main([*words, str(tmp_path / name)]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert said in line


def test_weights_of_another_network_are_refused(written, photos, tmp_path, capsys):
    import openvino

    words = ["classify", "predict", str(photos), "--runtime", "openvino", "--checkpoint"]
    weights = bytearray(written.file.with_suffix(".bin").read_bytes())
    # as of another training: as many numbers, which differ
    weights[-4:] = b"\0\0\x80\x3f"
    shutil.copy(written.file, tmp_path / "a.xml")
    (tmp_path / "a.bin").write_bytes(weights)
    assert main([*words, str(tmp_path / "a.xml")]) == 2
    assert "a.bin is not what was written with it, but of another network, or damaged" in capsys.readouterr().err
    # what OpenVINO saves anew says what was true of the file before
    core = openvino.Core()
    core.add_extension(openvino_library())
    openvino.save_model(core.read_model(written.file), tmp_path / "half.xml", compress_to_fp16=True)
    assert main([*words, str(tmp_path / "half.xml")]) == 0


def test_a_network_of_convolutions_needs_no_extension(tmp_path, monkeypatch):
    def absent():
        raise LibraryError("none")

    monkeypatch.setattr("involution.export.formats.openvino.openvino_library", absent)
    checkpoint = save_checkpoint(tmp_path / "twin.ckpt", "rednet_nano_conv")
    assert export_checkpoint(checkpoint, "openvino", tmp_path / "t.xml").difference < 1e-5

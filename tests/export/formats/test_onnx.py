"""ONNX files: of standard operators, checked, and with the metadata of the other formats."""

import json
import re

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from involution.cli import main
from involution.engine.loading import load, load_predictor
from involution.export import LibraryError, contract, export_checkpoint, load_exported, onnx_library
from involution.export.formats import onnx as formats_onnx
from involution.export.graph import Graph, Input, trace
from involution.export.onnx_program import to_onnx
from involution.export.pixels import Dense
from involution.models import fuse
from involution.nn import Involution2d


@pytest.fixture(scope="module")
def standard(checkpoints, tmp_path_factory):
    return export_checkpoint(checkpoints["classify"], "onnx", tmp_path_factory.mktemp("onnx") / "a.onnx", opset=18)


def test_a_file_of_standard_operators_runs_anywhere(standard, checkpoints, photos):
    model = onnx.load(standard.file)
    onnx.checker.check_model(model, full_check=True)
    assert {(one.domain, one.version) for one in model.opset_import} == {("", 18)}
    (images,) = model.graph.input
    assert [dim.dim_param or dim.dim_value for dim in images.type.tensor_type.shape.dim] == ["batch", 3, 24, 24]
    entries = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(entries["involution"]) == json.loads(standard.metadata.to_json())
    assert {"onnx", "onnxscript", "onnxruntime"} < set(standard.metadata.versions)
    network, _ = load(checkpoints["classify"])
    session = onnxruntime.InferenceSession(standard.file, providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 24, 24), dtype=np.float32)
        with torch.no_grad():
            wanted = network(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(session.run(["logits"], {"images": x})[0], wanted, rtol=1e-4, atol=1e-4)
    ours = load_predictor(checkpoints["classify"], "cpu").predict(photos / "0.png")
    theirs = load_exported(standard.file, "onnx").predict(photos / "0.png")
    assert ours.labels == theirs.labels
    assert ours.scores == pytest.approx(theirs.scores, abs=1e-5)


def test_it_is_said_that_the_library_is_faster(standard):
    said = re.search(
        r"; (slower than with --operators library|[\d.]+ times the time of --operators library)", str(standard)
    )
    assert said, str(standard)


def test_it_is_said_how_much_faster(standard, tmp_path, monkeypatch):
    try:
        onnx_library()
    except LibraryError as error:
        pytest.skip(str(error))
    # what was measured in the export, of a network of a millisecond, is of this order whatever else the machine does
    said = re.search(r"; ([\d.]+) times the time of --operators library", str(standard))
    assert 0.2 < float(said[1]) < 50
    # the first is the file with standard operators, the second that of the library, for one image each
    file, other = tmp_path / "a.onnx", tmp_path / "a.library"
    file.write_bytes(standard.file.read_bytes())
    other.write_bytes(standard.file.read_bytes())
    seen, real = [], formats_onnx._load
    monkeypatch.setattr(formats_onnx, "_load", lambda path: seen.append(path) or real(path))
    monkeypatch.setattr(
        formats_onnx, "milliseconds", lambda *calls: [len(call()) * 30.0 for call in calls[:1]] + [12.0]
    )
    images = Input("images", torch.rand(2, 3, 24, 24), {0: "batch"})
    graph = Graph(torch.nn.Identity(), (images,), ("logits",))
    assert formats_onnx._remark(file, graph) == "2.5 times the time of --operators library"
    assert seen == [file, other]
    other.unlink()
    assert formats_onnx._remark(file, graph) == ""


class Layers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.plain, self.normed = Involution2d(16, 3, stride=2, dilation=2), Involution2d(16, 5)

    def forward(self, x):
        return self.normed(self.plain(x))


def test_each_involution_is_a_node_of_the_contract():
    network = Layers().eval()
    norm = torch.nn.BatchNorm2d(16).eval()
    network.normed.fuse_norm(norm, relu=True)
    graph = Graph(Dense(network, None), (Input("images", torch.rand(2, 16, 9, 9), {0: "batch"}),), ("logits",))
    model = to_onnx(trace(graph), graph, 20)
    assert {one.domain: one.version for one in model.opset_import}["involution"] == contract.VERSION
    nodes = [node for node in model.graph.node if node.domain == contract.DOMAIN]
    assert [node.op_type for node in nodes] == [contract.DYNAMIC_INVOLUTION] * 2
    found = [{one.name: onnx.helper.get_attribute_value(one) for one in node.attribute} for node in nodes]
    wanted = {"stride": [2, 2], "padding": [2, 2], "dilation": [2, 2], "relu": 0}
    assert {name: found[0][name] for name in wanted} == wanted
    assert found[1]["relu"] == 1
    assert [bool(name) for name in nodes[0].input] in ([True] * 4, [True] * 4 + [False] * 2)
    assert [bool(name) for name in nodes[1].input] == [True] * 6


def refused(words, capsys):
    assert main(list(map(str, words))) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_what_is_wrong_is_told_in_one_line(checkpoints, standard, photos, tmp_path, capsys):
    words = ["export", checkpoints["grey"], "--output", tmp_path / "a.onnx", "--format"]
    assert "wanted an opset from 18 to 23, got 99" in refused([*words, "onnx", "--opset", "99"], capsys)
    words[3] = tmp_path / "a.pt2"
    assert "--opset is not for --format pt2" in refused([*words, "pt2", "--opset", "18"], capsys)
    assert "--operators is not for --format pt2" in refused([*words, "pt2", "--operators", "library"], capsys)
    predict = ["classify", "predict", photos, "--runtime", "onnx", "--checkpoint"]
    (tmp_path / "damaged.onnx").write_bytes(standard.file.read_bytes()[:1000])
    assert "damaged.onnx: not an ONNX file, or a damaged one" in refused([*predict, tmp_path / "damaged.onnx"], capsys)
    model = onnx.load(standard.file)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    assert "says nothing about its classes and images" in refused([*predict, tmp_path / "other.onnx"], capsys)
    assert "add --runtime onnx" in refused(["classify", "predict", photos, "--checkpoint", standard.file], capsys)


def test_a_network_with_what_onnx_cannot_take_is_told():
    class Odd(torch.nn.Module):
        def forward(self, x):
            return torch.special.i1e(x)

    from involution.export import ExportError

    graph = Graph(Dense(Odd(), None), (Input("images", torch.rand(1, 3, 8, 8)),), ("logits",))
    with pytest.raises(ExportError, match="ONNX can't take this network: ") as told:
        to_onnx(trace(graph), graph, 20)
    assert "i1e" in str(told.value)
    assert "\n" not in str(told.value)


def test_folding_is_undone_by_nothing(checkpoints):
    network, _ = load(checkpoints["grey"])
    fuse(network)
    graph = Graph(Dense(network, None), (Input("images", torch.rand(2, 1, 16, 16), {0: "batch"}),), ("logits",))
    kinds = {node.op_type for node in to_onnx(trace(graph), graph, 20).graph.node}
    assert contract.DYNAMIC_INVOLUTION in kinds
    assert "BatchNormalization" not in kinds


def test_with_the_library_each_involution_stays_one_operator(checkpoints, photos, tmp_path):
    try:
        onnx_library()
    except LibraryError as error:
        pytest.skip(str(error))
    file = tmp_path / "l.onnx"
    written = export_checkpoint(checkpoints["segment"], "onnx", file, operators="library")
    assert (written.difference < 1e-4, written.remark) == (True, "")
    kinds = [node.op_type for node in onnx.load(file).graph.node if node.domain == contract.DOMAIN]
    assert set(kinds) == {contract.DYNAMIC_INVOLUTION}
    ours = load_predictor(checkpoints["segment"], "cpu").predict(photos / "0.png")
    assert (load_exported(file, "onnx").predict(photos / "0.png").labels == ours.labels).all()

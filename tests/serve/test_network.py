"""Networks as they are loaded to be served: from checkpoints and from exported files, in batches of their own sizes."""

import json

import pytest
from serve_networks import png

from involution.export import ExportError, LibraryError, export_checkpoint, load_exported
from involution.predict import load_predictor
from involution.serve.errors import ServeError
from involution.serve.network import Network, load_networks
from involution.serve.settings import Settings


@pytest.mark.parametrize(
    ("task", "runtime", "batch", "sizes"),
    [
        ("classify", "torch", 16, tuple(range(1, 17))),
        ("classify", "onnx", 3, (1, 2, 3)),
        ("classify", "openvino", 16, (1, 4, 16)),
        ("classify", "openvino", 8, (1, 4, 8)),
        ("classify", "openvino", 64, (1, 4, 16, 64)),
        ("classify", "openvino", 1, (1,)),
        ("classify", "torch", 1000, tuple(range(1, 65))),
        ("detect", "torch", 16, (1,)),
        ("segment", "openvino", 16, (1,)),
    ],
)
def test_batches_are_of_the_sizes_that_a_network_is_good_at(predictors, task, runtime, batch, sizes):
    settings = Settings((("a", "a"),), batch_size=batch)
    assert Network("a", predictors[task], runtime, settings).sizes == sizes


def test_one_image_after_the_other_where_the_file_prepares_them(predictors, monkeypatch):
    monkeypatch.setattr(predictors["classify"], "takes_pixels", True)
    assert Network("a", predictors["classify"], "torch", Settings((("a", "a"),))).sizes == (1,)


def test_a_batch_that_fails_is_done_one_by_one(predictors, monkeypatch):
    predictor, sizes = predictors["classify"], []
    whole = predictor.stream

    def stream(images, **options):
        sizes.append(len(images))
        if len(images) > 1:
            raise OSError("/a/library: no more handles")
        return whole(images, **options)

    monkeypatch.setattr(predictor, "stream", stream)
    found = Network("a", predictor, "torch", Settings((("a", "a"),))).run([png(0), png(1)], {"topk": 1})
    assert [json.loads(one)["task"] for one in found] == ["classify"] * 2
    assert sizes == [2, 1, 1]


def test_what_a_checkpoint_and_an_exported_program_say_is_what_predict_says(checkpoints, tmp_path):
    # the fastest to write of all formats
    file = export_checkpoint(checkpoints["classify"], "pt2", tmp_path / "a.pt2").file
    settings = Settings((("plain", str(checkpoints["classify"])), ("program", str(file))), batch_size=4, threads=1)
    plain, program = load_networks(settings)
    assert (plain.runtime, program.runtime) == ("torch", "torch")
    for network, predictor in (
        (plain, load_predictor(checkpoints["classify"], "cpu").optimize()),
        (program, load_exported(file, "torch")),
    ):
        (found,) = network.run([png()], {"topk": 4})
        (tmp_path / "a.png").write_bytes(png())
        result = predictor.predict(tmp_path / "a.png", topk=4)
        assert [one["score"] for one in json.loads(found)["classes"]] == list(result.scores)


@pytest.mark.slow
@pytest.mark.parametrize(("format", "name"), [("onnx", "a.onnx"), ("openvino", "a.xml")])
def test_exported_files_run_in_their_runtime(checkpoints, tmp_path, format, name):
    pytest.importorskip({"onnx": "onnxruntime", "openvino": "openvino"}[format])
    try:
        file = export_checkpoint(checkpoints["classify"], format, tmp_path / name).file
    # compiled by an installation alone
    except LibraryError as error:
        pytest.skip(str(error))
    (network,) = load_networks(Settings((("a", str(file)),), batch_size=4, threads=1))
    assert network.runtime == format
    (found,) = network.run([png()], {"topk": 4})
    (tmp_path / "a.png").write_bytes(png())
    result = load_exported(file, format).predict(tmp_path / "a.png", topk=4)
    assert [one["score"] for one in json.loads(found)["classes"]] == list(result.scores)
    # several at once
    assert len(network.run([png(seed) for seed in range(4)], {"topk": 1})) == 4


def test_a_runtime_that_is_not_the_files_is_refused(checkpoints):
    with pytest.raises(ExportError, match="not a file of `involution export --format onnx`"):
        load_networks(Settings((("a", str(checkpoints["classify"])),), threads=1, runtime="onnx"))
    with pytest.raises(ServeError, match="an exported file runs on the CPU, got --device cuda"):
        load_networks(Settings((("a", str(checkpoints["classify"])),), threads=1, runtime="onnx", device="cuda"))

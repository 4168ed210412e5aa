"""8-bit files: the guide's commands, what they lose in accuracy, what they are calibrated on, what is refused."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from export_networks import save_network
from PIL import Image

from involution.cli import main
from involution.data.images import Reading
from involution.engine.run import train
from involution.engine.tasks.classify.config import ClassifyConfig
from involution.export import LibraryError, export_checkpoint, onnx_library, openvino_library
from involution.export.calibration import find_pictures
from involution.export.metadata import IMAGES
from involution.export.onnx_int8 import quantise
from involution.export.registry import get_format

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

GUIDE = Path(__file__).parents[2] / "docs/guides/deployment.md"


def need(format, operators=None):
    if format == "openvino":
        pytest.importorskip("nncf")
    try:
        if format == "openvino":
            openvino_library()
        elif operators == "library":
            onnx_library()
    except LibraryError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    changes = {"output": str(folder), "name": "digits", "trainer.epochs": 15, "trainer.accelerator": "cpu"}
    return train(ClassifyConfig.load("digits", changes), progress=False).best


def commands():
    text = GUIDE.read_text(encoding="utf-8").partition("## 8 bits")[2].partition("\n## ")[0]
    (block,) = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line.split()[1:] for line in block.splitlines()]


def run_in(folder, checkpoint, words, capsys):
    place = folder / "runs/digits/best.ckpt"
    place.parent.mkdir(parents=True)
    shutil.copy(checkpoint, place)
    assert main(words) == 0
    (line,) = capsys.readouterr().out.splitlines()
    return line


@pytest.mark.slow
@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_the_guides_commands_lose_no_half_point(words, digits, tmp_path, monkeypatch, capsys):
    format = words[words.index("--format") + 1]
    need(format, "library" if "library" in words else None)
    monkeypatch.chdir(tmp_path)
    line = run_in(tmp_path, digits, words, capsys)
    said = re.search(r"accuracy ([\d.]+) %, in PyTorch ([\d.]+) % \(digits, val\)", line)
    assert float(said[2]) - float(said[1]) <= 0.5
    assert float(said[2]) > 80
    assert f"calibrated on {IMAGES} images of digits, train" in line
    (written,) = Path().glob("best.xml" if format == "openvino" else "best.onnx")
    found = json.loads(get_format(format).metadata(written))
    assert found["precision"]["type"] == "int8"
    assert found["precision"]["calibration"].endswith("images of digits, train")
    assert ("7 of 7 involutions in 8 bits" in line) == (format == "openvino" or "library" in words)
    kinds = written.read_text() if format == "openvino" else {node.op_type for node in onnx.load(written).graph.node}
    assert ("FakeQuantize" if format == "openvino" else "QuantizeLinear") in kinds


@pytest.mark.parametrize(
    ("format", "name", "operators"),
    [("onnx", "a.onnx", None), ("onnx", "a.onnx", "library"), ("openvino", "a.xml", None)],
)
def test_a_folder_of_images_calibrates(format, name, operators, checkpoints, photos, tmp_path):
    need(format, operators)
    options = {"operators": operators, "int8": True, "calibration": str(photos), "images": [str(photos)]}
    written = export_checkpoint(checkpoints["classify"], format, tmp_path / name, **options)
    assert written.metadata.precision == {"type": "int8", "calibration": f"2 images of {photos}"}
    assert "; accuracy not measured: this checkpoint names no data" in str(written)
    assert ("7 of 7 involutions in 8 bits" in str(written)) == (format == "openvino" or operators == "library")


def behind_the_layers(model):
    """Operators between the last layers and the results, and those that say from which level a box's features come."""
    makers = {name: node for node in model.graph.node for name in node.output}
    rest = [one.name for one in model.graph.output]
    rest += [node.input[0] for node in model.graph.node if node.op_type == "Floor"]
    found = {}
    while rest:
        node = makers.get(rest.pop())
        if node is None or node.output[0] in found or node.op_type in ("Shape", "Conv", "Gemm", "QuantisedInvolution"):
            continue
        found[node.output[0]] = node.op_type
        rest += node.input
    return set(found.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet", "faster_rcnn", "mask_rcnn", "semantic_fpn"])
def test_scores_and_boxes_are_computed_in_float32(name, photos, tmp_path, monkeypatch):
    # where the built-in scenes are written
    monkeypatch.chdir(tmp_path)
    checkpoint = save_network(tmp_path / "a.ckpt", name)
    options = {"int8": True, "calibration": str(photos), "images": [str(photos)]}
    model = onnx.load(export_checkpoint(checkpoint, "onnx", tmp_path / "a.onnx", **options).file)
    assert "QuantizeLinear" in {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} & behind_the_layers(model) == set()


GRAPH = """<ir_version: 10, opset_import: ["" : 20]>
detector (float[1, 3, 8, 8] images) => (float[1, 4, 8, 8] boxes)
<float[4, 3, 1, 1] a, float[4, 4, 1, 1] b, float[4, 4, 1, 1] c, float[8] places, float[1, 4, 8, 8] first,
 float[1, 4, 8, 8] second, float[1, 4, 8, 8] both, float[1, 4, 8, 8] last, float[8] moved>
{
  [one] first = Conv (images, a)
  [two] second = Conv (first, b)
  [sum] both = Add (first, second)
  [three] last = Conv (both, c)
  [four] moved = Add (places, places)
  [five] boxes = Add (last, moved)
}"""


def test_layers_and_feature_maps_alone_have_8_bits():
    model, random = onnx.parser.parse_model(GRAPH), np.random.default_rng(0)
    for name, shape in {"a": (4, 3, 1, 1), "b": (4, 4, 1, 1), "c": (4, 4, 1, 1), "places": (8,)}.items():
        values = onnx.numpy_helper.from_array(random.random(shape, np.float32), name)
        model.graph.initializer.append(values)
    for known in [*model.graph.value_info]:
        if known.name in ("a", "b", "c", "places"):
            model.graph.value_info.remove(known)
    found = quantise(model, [(torch.rand(1, 3, 8, 8),)])
    makers = {name: node.op_type for node in found.graph.node for name in node.output}
    read = {node.name: {makers.get(name) for name in node.input} for node in found.graph.node}
    # the picture and what is computed of the last layer are read as they are, the feature maps between in 8 bits
    assert [read[name] for name in ("two", "sum", "three")] == [{"DequantizeLinear"}] * 3
    assert [read[name] for name in ("one", "four", "five")] == [{None}, {None}, {"Conv", "Add"}]


def test_a_file_in_8_bits_runs_with_its_batch_open(checkpoints, photos, tmp_path):
    need("openvino")
    import openvino

    options = {"int8": True, "calibration": str(photos), "images": [str(photos)]}
    file = export_checkpoint(checkpoints["classify"], "openvino", tmp_path / "a.xml", **options).file
    core = openvino.Core()
    core.add_extension(openvino_library())
    open_one = core.compile_model(core.read_model(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    fixed = get_format("openvino").load(file)
    for batch in (1, 3):
        images = torch.rand(batch, 3, 24, 24)
        found = torch.from_numpy(open_one([images.numpy()])[0])
        # levels that lie between two are rounded in another order
        torch.testing.assert_close(found, fixed([images])[0], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_types_halve_the_weights(kind, checkpoints, tmp_path):
    whole = export_checkpoint(checkpoints["grey"], "onnx", tmp_path / "a.onnx", opset=20)
    half = export_checkpoint(checkpoints["grey"], "onnx", tmp_path / "b.onnx", weights=kind)
    assert half.metadata.precision == {"type": kind, "calibration": None}
    assert half.file.stat().st_size < 0.75 * whole.file.stat().st_size
    assert half.difference < 0.05


WRONG = {
    ("grey", "--format", "pt2", "--int8"): "--int8 is not for --format pt2; wanted onnx or openvino",
    ("grey", "--format", "aoti", "--int8"): "--int8 is not for --format aoti; wanted onnx or openvino",
    ("grey", "--format", "pt2", "--weights", "float16"): "--weights is not for --format pt2; wanted onnx or openvino",
    ("grey", "--format", "onnx", "--int8"): "this checkpoint names no data; give a folder of images or a data set by",
    ("grey", "--format", "onnx", "--int8", "--calibration", ""): "wanted a folder of images or a data set, got ''",
    ("grey", "--format", "onnx", "--calibration", "digits"): "--calibration is for --int8",
    (
        "grey",
        "--format",
        "onnx",
        "--int8",
        "--calibration",
        "nowhere",
    ): "nowhere: no such file or folder",
    (
        "grey",
        "--format",
        "onnx",
        "--int8",
        "--calibration-images",
        "0",
    ): "wanted 1 image or more to calibrate on, got 0",
    ("grey", "--format", "onnx", "--int8", "--weights", "float16"): "--int8 and --weights exclude each other",
}


@pytest.mark.parametrize("case", WRONG, ids=" ".join)
def test_what_is_wrong_is_told_in_one_line(case, checkpoints, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    checkpoint, *options = case
    assert main(["export", str(checkpoints[checkpoint]), *options]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert WRONG[case] in line
    assert list(tmp_path.iterdir()) == []


def test_openvino_refuses_bfloat16_weights(checkpoints, tmp_path, capsys):
    words = ["export", str(checkpoints["grey"]), "--format", "openvino", "--weights", "bfloat16"]
    assert main(words) == 2
    assert "OpenVINO's files can't store weights as bfloat16; wanted float16 or float32" in capsys.readouterr().err


def test_label_maps_of_a_folder_calibrate_nothing(tmp_path):
    for split in ("train", "val"):
        for kind, values in (("images", 99), ("masks", 1)):
            folder = tmp_path / "fields" / kind / split
            folder.mkdir(parents=True)
            for number in range(4):
                pixels = np.full((8, 8, 3) if kind == "images" else (8, 8), values, np.uint8)
                pixels[:4] = 0
                Image.fromarray(pixels).save(folder / f"{number}.png")
    (tmp_path / "fields" / "classes.txt").write_text("sky\nroad\n")
    predictor = SimpleNamespace(task="segment", reading=Reading())
    found = find_pictures(predictor, "unread", str(tmp_path / "fields"), 300)
    assert found.source == f"4 images of {tmp_path / 'fields'}, train"
    assert [read().getpixel((0, 7)) for read in found.of] == [(99, 99, 99)] * 4
    (tmp_path / "fields" / "classes.txt").unlink()
    plain = find_pictures(predictor, "unread", str(tmp_path / "fields" / "images"), 300)
    assert plain.source == f"8 images of {tmp_path / 'fields' / 'images'}"

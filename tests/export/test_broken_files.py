"""Files that `predict --runtime` is given by mistake: cut off, somebody else's, or saying what is not so."""

import json
import shutil
import zipfile
from xml.etree import ElementTree

import pytest
import torch

from involution.cli import main
from involution.export import LibraryError, export_checkpoint, openvino_library
from involution.export.metadata import MOST_BYTES
from involution.export.registry import get_format

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
RUNTIMES = {"pt2": "torch", "onnx": "onnx", "openvino": "openvino"}


@pytest.fixture(scope="module")
def exported(checkpoints, tmp_path_factory):
    made = {}

    def get(format):
        if format == "openvino":
            pytest.importorskip("openvino")
            try:
                openvino_library()
            except LibraryError as error:
                pytest.skip(str(error))
        if format not in made:
            file = tmp_path_factory.mktemp(format) / f"a{get_format(format).suffix}"
            made[format] = export_checkpoint(checkpoints["grey"], format, file).file
        return made[format]

    return get


@pytest.fixture
def copied(exported, tmp_path):
    def copy(format):
        folder = tmp_path / format
        shutil.copytree(exported(format).parent, folder, dirs_exist_ok=True)
        return folder / exported(format).name

    return copy


@pytest.fixture
def told(photos, capsys):
    """What predicting with a file says, in one line."""

    def say(file, runtime, task="classify", code=2):
        capsys.readouterr()
        assert main([task, "predict", str(photos / "0.png"), "--checkpoint", str(file), "--runtime", runtime]) == code
        # that the photograph has colours, which the network does not see, is another
        lines = [
            line for line in capsys.readouterr().err.strip().splitlines() if not line.startswith("images in colours")
        ]
        (line,) = lines
        return line.replace(str(file), file.name).removeprefix("involution: ")

    return say


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("format", RUNTIMES)
def test_files_that_are_cut_off(format, share, copied, told):
    file = copied(format)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    words = {
        "pt2": ("a.pt2 is not a checkpoint: ", "a.pt2 is damaged: "),
        "onnx": ("a.onnx: says nothing about its classes", "a.onnx: not an ONNX file, or a damaged one"),
        "openvino": ("a.xml: not an IR of OpenVINO, or a damaged one",),
    }
    assert told(file, RUNTIMES[format]).startswith(words[format])


def test_weights_that_are_missing_or_cut_off(copied, told):
    file = copied("openvino")
    weights = file.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:1000])
    assert told(file, "openvino").startswith("a.xml: a.bin is not what was written with it, but of ")
    weights.unlink()
    assert told(file, "openvino") == "a.xml: its weights are missing, a.bin in the same folder"


def test_bits_that_changed_in_an_archive(copied, told):
    file = copied("pt2")
    with zipfile.ZipFile(file) as archive:
        largest = max(archive.infolist(), key=lambda part: part.file_size)
    content = bytearray(file.read_bytes())
    # behind the part's own header, which is shorter than this
    content[largest.header_offset + 300] ^= 1
    file.write_bytes(content)
    assert "a.pt2 is damaged: the checksum of its part " in told(file, "torch")


def archive_of(file, **parts):
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name.replace("__", "/"), text)


def test_archives_of_something_else(exported, tmp_path, told):
    file = tmp_path / "a.pt2"
    archive_of(file, a__readme="hello")
    assert told(file, "torch").startswith("a.pt2 is damaged: ")
    assert told(file, "aoti") == "a.pt2: not a file of `involution export --format aoti`"
    # they say what a file of ours says, and there is nothing behind it
    says = get_format("pt2").metadata(exported("pt2"))
    archive_of(file, a__archive_format="pt2", **{"a__extra__involution.json": says})
    assert told(file, "torch").startswith("a.pt2: damaged, or not for the installed torch: ")
    place = "a__data__aotinductor__model__x_metadata.json"
    archive_of(file, a__archive_format="pt2", **{place: json.dumps({"involution": says})})
    assert told(file, "aoti").startswith("a.pt2: damaged, or not for the installed aoti: ")
    torch.save({"a": 1}, file)
    assert "not a checkpoint of a training by `involution`" in told(file, "torch")


def test_graphs_of_something_else(copied, checkpoints, told):
    file = copied("openvino")
    file.write_text("<html><body/></html>")
    assert told(file, "openvino").startswith("a.xml: says nothing about its classes and images; wanted a file of ")
    laughs = "".join(
        f'<!ENTITY {after} "{f"&{name};" * 20}">' for name, after in zip("abcdefgh", "bcdefghi", strict=True)
    )
    file.write_text(f'<!DOCTYPE net [<!ENTITY a "{"a" * 40}">{laughs}]><net>&i;</net>')
    assert told(file, "openvino") == "a.xml: not an IR of OpenVINO, or a damaged one"
    told_of = told(checkpoints["grey"], "onnx")
    assert told_of == f"{checkpoints['grey'].name}: not a file of `involution export --format onnx`"


def test_an_onnx_file_with_what_the_runtime_does_not_have(copied, told):
    file = copied("onnx")
    model = onnx.load(file)
    onnx.save(model, file, save_as_external_data=True, location="weights.bin", size_threshold=0)
    file.with_name("weights.bin").unlink()
    assert told(file, "onnx").startswith("a.onnx: damaged, or not for the installed onnx: ")
    file = copied("onnx")
    model = onnx.load(file)
    model.graph.node[0].op_type = "Unheard"
    onnx.save(model, file)
    assert "Unheard" in told(file, "onnx")


def saying(file, format, text):
    """Let a file say something else of itself."""
    if format == "onnx":
        model = onnx.load(file)
        (entry,) = model.metadata_props
        entry.value = text
        onnx.save(model, file)
    elif format == "openvino":
        tree = ElementTree.parse(file)
        tree.find("rt_info/involution").set("value", text)
        tree.write(file)
    else:
        with zipfile.ZipFile(file) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in parts.items():
                archive.writestr(name, text if name.endswith("/extra/involution.json") else content)
    return file


@pytest.mark.parametrize("format", RUNTIMES)
def test_a_file_that_says_too_much(format, copied, told):
    file = saying(copied(format), format, "x" * (MOST_BYTES + 1))
    said = told(file, RUNTIMES[format])
    assert said.startswith(f"{file.name}: what it says of itself has 16,777,217 ")
    assert said.endswith("; at most 16,777,216 are read")


CLASSES = ["ant", "bee", "cat", "dog"]
NOT_SO = {
    "fewer classes": ({"classes": CLASSES[:2]}, "the file names 2 classes and computes 1 x "),
    "more classes": ({"classes": [*CLASSES, "eel", "fly"]}, "the file names 6 classes and computes 1 x "),
}


@pytest.mark.parametrize("case", NOT_SO)
def test_a_file_that_says_what_is_not_so(case, copied, told):
    changes, message = NOT_SO[case]
    file = copied("onnx")
    says = json.loads(get_format("onnx").metadata(file))
    assert told(saying(file, "onnx", json.dumps({**says, **changes})), "onnx").startswith(message)

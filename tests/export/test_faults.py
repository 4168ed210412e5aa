"""Exports that can't be done: told in one line, and nothing is left, of the file or of what it was made from."""

import errno
import os
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch

from involution.cli import main
from involution.engine import files
from involution.export import ExportError, LibraryError, openvino_library
from involution.export.graph import Graph, Input
from involution.export.registry import Settings, formats, get_format, get_task

resource = pytest.importorskip("resource")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    folder, temporary = tmp_path / "here", tmp_path / "temporary"
    folder.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    yield folder
    assert [path.name for path in temporary.iterdir() if path.name.startswith("involution")] == []


def need(format):
    for package in get_format(format).packages:
        pytest.importorskip(package)
    if format == "openvino":
        try:
            openvino_library()
        except LibraryError as error:
            pytest.skip(str(error))


def refused(capsys, *words, code=2):
    capsys.readouterr()
    assert main(["export", *map(str, words)]) == code
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line.removeprefix("involution: ")


@pytest.mark.parametrize(
    ("format", "limit"),
    [
        ("pt2", 300),
        ("pt2", 60_000),
        pytest.param("aoti", 60_000, marks=pytest.mark.slow),
        ("onnx", 60_000),
        ("openvino", 60_000),
    ],
)
def test_no_room_for_temporary_files(format, limit, checkpoints, here, monkeypatch, capsys):
    need(format)
    # a file that is compiled is no larger than this in the folder of the compiler alone
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(here.parent / "temporary/compiled"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        told = refused(capsys, checkpoints["grey"], "--format", format, code=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert told == f"{tempfile.tempdir}: File too large; TMPDIR chooses another folder for temporary files"
    assert os.listdir(here) == []


@pytest.mark.parametrize(("format", "fails"), [("pt2", 1), ("openvino", 1), ("openvino", 2)])
def test_no_room_where_the_file_belongs(format, fails, checkpoints, here, monkeypatch, capsys):
    need(format)
    copies = []

    def copyfile(source, target):
        copies.append(target)
        Path(target).write_bytes(Path(source).read_bytes()[:100])
        if len(copies) == fails:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copyfile", copyfile)
    told = refused(capsys, checkpoints["grey"], "--format", format, code=1)
    name = ("grey.bin" if fails == 2 else "grey.xml") if format == "openvino" else "grey.pt2"
    assert told == f"{name}: No space left on device"
    # neither the graph without its weights, nor these without it
    assert os.listdir(here) == []


def test_a_folder_that_is_read_only(checkpoints, here, capsys):
    folder = here.parent / "disk"
    folder.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(options, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        told = refused(capsys, checkpoints["grey"], "--format", "pt2", "--output", folder / "a.pt2")
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert told == f"{folder}: Read-only file system"


def test_a_folder_that_is_missing_is_made_and_a_file_is_none(checkpoints, here, capsys):
    assert main(["export", str(checkpoints["grey"]), "--format", "pt2", "--output", "new/deep/a.pt2"]) == 0
    assert Path("new/deep/a.pt2").is_file()
    Path("file").touch()
    Path("folder.pt2").mkdir()
    words = [checkpoints["grey"], "--format", "pt2", "--output"]
    assert refused(capsys, *words, "file/a.pt2") == "file: a file is where a folder is wanted"
    assert refused(capsys, *words, "folder.pt2") == "folder.pt2: a folder is where a file is wanted"
    assert refused(capsys, *words, "a" * 300 + ".pt2").endswith("a.pt2: File name too long")


def test_somebodys_files_stay_as_they_are(checkpoints, here, capsys):
    need("openvino")
    Path("a.bin").write_text("mine")
    told = refused(capsys, checkpoints["grey"], "--format", "openvino", "--output", "a.xml")
    assert (
        told
        == "a.bin: not overwritten: involution did not make this file, or it was changed since; choose another place"
    )
    assert sorted(os.listdir(here)) == ["a.bin"]
    # the checkpoint itself, also through a link
    shutil.copy(checkpoints["grey"], "c.pt2")
    Path("link.pt2").symlink_to("c.pt2")
    before = Path("c.pt2").read_bytes()
    for output in ([], ["--output", "c.pt2"], ["--output", "link.pt2"]):
        assert "not overwritten: involution did not make this" in refused(capsys, "c.pt2", "--format", "pt2", *output)
    assert Path("c.pt2").read_bytes() == before


def test_an_exported_file_is_no_checkpoint(checkpoints, here, capsys):
    main(["export", str(checkpoints["grey"]), "--format", "pt2"])
    told = refused(capsys, "grey.pt2", "--format", "onnx")
    assert told == "grey.pt2 is a file of the format pt2; wanted the checkpoint of it"
    # nor is it written over itself
    before = Path("grey.pt2").read_bytes()
    refused(capsys, "grey.pt2", "--format", "pt2")
    assert Path("grey.pt2").read_bytes() == before


def test_a_published_name_without_network(here, monkeypatch, capsys):
    monkeypatch.setenv("INVOLUTION_WEIGHTS", "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(here.parent / "torch"))
    told = refused(capsys, "rednet26", "--format", "pt2")
    assert told.startswith("rednet26.paddle_in1k can't be downloaded: no connection to 127.0.0.1:9 (")
    told = refused(capsys, "rednet49", "--format", "pt2")
    assert told == "no such checkpoint: rednet49; did you mean the published weights rednet50?"
    assert os.listdir(here) == []


def test_a_damaged_checkpoint(checkpoints, here, capsys):
    whole = checkpoints["grey"].read_bytes()
    broken = here.parent / "broken.ckpt"
    for content, said in (
        (whole[: len(whole) // 2], "is damaged: "),
        (whole[:-5], "is damaged: "),
        (b"hello", "is not a checkpoint: wanted a torch.save file, safetensors or PaddlePaddle's .pdparams, got"),
        (b"", "is not a checkpoint: "),
    ):
        broken.write_bytes(content)
        assert refused(capsys, broken, "--format", "pt2").startswith(f"{broken} {said}")
    with zipfile.ZipFile(broken, "w") as archive:
        archive.writestr("a/readme.txt", "hello")
    assert refused(capsys, broken, "--format", "pt2").startswith(f"{broken} is damaged: ")
    torch.save({"state_dict": {"a": torch.zeros(3)}}, broken)
    assert "not a checkpoint of a training by `involution`" in refused(capsys, broken, "--format", "pt2")
    assert os.listdir(here) == []


def test_a_checkpoint_of_a_task_that_exports_nothing():
    with pytest.raises(
        ExportError, match=r"^a network of the task 'paint' can't be exported; wanted classify, detect,"
    ):
        get_task("paint")


UNKNOWN = {
    ("onnx", "--opset", "17"): "wanted an opset from 18 to 23, got 17",
    ("onnx", "--opset", "99"): "wanted an opset from 18 to 23, got 99",
    ("onnx", "--opset", "0"): "wanted an opset from 18 to 23, got 0",
    ("onnx", "--opset", "new"): 'option "--opset": wanted int, got new',
    ("pt2", "--opset", "18"): "--opset is not for --format pt2; wanted onnx",
    ("tflite",): "argument --format: invalid choice: 'tflite' (choose from 'pt2', 'aoti', 'onnx', 'openvino')",
}


@pytest.mark.parametrize("case", UNKNOWN, ids=" ".join)
def test_what_is_unknown(case, checkpoints, here, capsys):
    assert refused(capsys, checkpoints["grey"], "--format", *case) == UNKNOWN[case]
    assert os.listdir(here) == []


class Determinant(torch.nn.Module):
    """ONNX has an operator for it, OpenVINO has none."""

    def forward(self, images):
        return (torch.linalg.det(images),)


class Fields(torch.nn.Module):
    """ONNX has no operator for it."""

    def forward(self, images):
        return (torch.special.bessel_j0(images),)


class Choice(torch.nn.Module):
    """The values decide what is computed."""

    def forward(self, images):
        return (images if images.sum() > 0 else -images,)


@pytest.mark.parametrize(
    ("format", "module", "message"),
    [
        ("onnx", Fields, r"^ONNX can't take this network: .*bessel_j0"),
        ("openvino", Fields, r"^ONNX can't take this network: .*bessel_j0"),
        ("openvino", Determinant, r"^OpenVINO can't take this network: .*Det"),
        *((name, Choice, r"^torch\.export can't trace this network: Could not guard on data") for name in formats()),
    ],
)
def test_an_operator_that_a_format_does_not_have(format, module, message, here):
    need(format)
    graph = Graph(module(), (Input("images", torch.rand(2, 3, 4, 4)),), ("found",))
    with pytest.raises(ExportError, match=message) as told:
        get_format(format).write(graph, "{}", here / "a", Settings())
    assert "\n" not in str(told.value)


def test_a_compiler_that_is_missing(checkpoints, here, monkeypatch, capsys):
    # before the work
    monkeypatch.setattr("involution.export.write.real_images", None)
    monkeypatch.setenv("CXX", "no-such-compiler")
    # not by monkeypatch: it deletes the entry at the end, for the whole process
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}):
        told = refused(capsys, checkpoints["grey"], "--format", "aoti")
    assert told == "aoti needs a C++ compiler, and none was found; install g++ or set CXX"
    assert os.listdir(here) == []


def test_a_segmenters_own_size_is_that_of_the_images_it_is_compared_on(checkpoints, here):
    assert main(["export", str(checkpoints["segment"]), "--format", "pt2", "--size", "64x96"]) == 0
    assert files.is_ours(here / "segmenter.pt2")

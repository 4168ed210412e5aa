"""What a checkpoint says of its parts is data: whatever stands there, it loads or ends in one line."""

import copy
import os
import time

import pytest
import torch
from safetensors.torch import save_file

from involution.models import CheckpointError
from involution.models.readers import read_weights
from involution.models.shards import KEY, Shards, checksum_of

FOLDER, PART = "shards-1-0-0123abcd", "shard-00001-model-00001-of-00001.safetensors"
WEIGHT = torch.arange(6.0).reshape(2, 3)
PLACE = ("state_dict", "weight")


@pytest.fixture
def content(tmp_path):
    """A checkpoint of two weights, one of them in a part beside it."""
    return with_part(tmp_path, {"state_dict/weight": WEIGHT})


def with_part(root, tensors):
    part = root / FOLDER / PART
    part.parent.mkdir(exist_ok=True)
    save_file(tensors, part)
    files = {PART: (part.stat().st_size, checksum_of(part))}
    shards = Shards(part.parent, files, {PLACE: (tuple(WEIGHT.shape), WEIGHT.dtype)})
    return {"state_dict": {"weight": None, "bias": torch.ones(2)}, KEY: shards.to_dict()}


def read(root, content):
    torch.save(content, root / "last.ckpt")
    return read_weights(root / "last.ckpt").tensors


def assert_refused(root, content, match):
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=match) as told:
        read(root, content)
    assert str(told.value).isprintable()
    assert len(str(told.value)) < 1000
    assert time.monotonic() - start < 10


def test_a_checkpoint_is_put_together(content, tmp_path):
    found = read(tmp_path, content)
    assert torch.equal(found["weight"], WEIGHT)
    assert torch.equal(found["bias"], torch.ones(2))


FOLDERS = [
    "../" + FOLDER,
    "/tmp/" + FOLDER,
    FOLDER + "/..",
    FOLDER + "\n",
    FOLDER.upper(),
    "",
    ".",
    "..",
    None,
    3,
    ["x"],
]
FILES = [
    *(
        None,
        3,
        "x",
        [],
        [PART],
        {PART: None},
        {PART: 3},
        {PART: [1]},
        {PART: ["x", "y"]},
        {PART: [1, 2, 3]},
        {3: [1, "x"]},
    ),
    *({f"{start}{PART}": [10**6, "0" * 64]} for start in ("../", "/", "/etc/", "a/", "a\\", "\0", "\x1b[31m")),
    {PART + "\n": [10**6, "0" * 64]},
    {"x" * 5000 + ".safetensors": [10**6, "0" * 64]},
    {PART: [float("inf"), "0" * 64]},
]
TENSORS = [
    *(None, 3, "x", [[]], [3], [None], {"x": 1}, [[PLACE]], [[PLACE, [2, 3]]], [[3, [2, 3], "float32"]]),
    *(
        [[PLACE, shape, "float32"]]
        for shape in (None, 3, "23", [-2, -3], [2.0, 3], [True, 6], ["2", 3], [[2], 3], [2**40])
    ),
    *(
        [[PLACE, [2**20, 2**20], "float32"]],
        [[PLACE, [2**39] * 9, "float32"]],
        [[PLACE, [2**39, 2**39, 0], "float32"]],
        [[PLACE, [10**4], "float32"]],
    ),
    *([[PLACE, [2, 3], dtype]] for dtype in (None, "", "x", "complex64", "bool", 32, ["float32"], "__class__")),
    *([[place, [2, 3], "float32"]] for place in ([["x"]], [None], [1.5, "x"], [{"x": 1}])),
]


@pytest.mark.parametrize(
    ("entry", "value"),
    [(entry, value) for entry, some in (("folder", FOLDERS), ("files", FILES), ("tensors", TENSORS)) for value in some],
)
def test_a_record_that_no_training_writes(content, tmp_path, entry, value):
    content[KEY][entry] = value
    assert_refused(tmp_path, content, r"last\.ckpt is damaged: what it says of its parts is not what a training writes")


@pytest.mark.parametrize("value", [None, 3, "x", [], {}, {"folder": FOLDER}, torch.zeros(2)])
def test_no_record(content, tmp_path, value):
    assert_refused(tmp_path, {**content, KEY: value}, "what it says of its parts is not what a training writes")


@pytest.mark.parametrize(
    "place",
    [
        [],
        ["x"],
        ["state_dict"],
        ["state_dict", "bias"],
        ["state_dict", 0],
        ["state_dict", "weight", "x"],
        [0],
        ["x\n", "y"],
    ],
)
def test_a_place_that_there_is_not(content, tmp_path, place):
    content[KEY]["tensors"][0][0] = place
    part = tmp_path / FOLDER / PART
    save_file({"/".join(map(str, place)): WEIGHT}, part)
    content[KEY]["files"] = {PART: [part.stat().st_size, checksum_of(part)]}
    assert_refused(tmp_path, content, "last.ckpt is damaged: it has no place for ")


@pytest.mark.parametrize("shape", [[3, 2], [6], [2, 2], [2, 4], [], [0], [2, 3, 1], [1] * 70])
def test_a_shape_that_its_part_does_not_have(content, tmp_path, shape):
    content[KEY]["tensors"][0][1] = shape
    assert_refused(tmp_path, content, r"last\.ckpt: its parts in .* can't be read: ")


@pytest.mark.parametrize("dtype", ["float16", "int32", "int64"])
def test_a_type_that_its_part_does_not_have(content, tmp_path, dtype):
    content[KEY]["tensors"][0][2] = dtype
    assert_refused(tmp_path, content, r"last\.ckpt: its parts in .* can't be read: ")


def test_a_tensor_that_its_parts_do_not_have(tmp_path):
    assert_refused(tmp_path, with_part(tmp_path, {"state_dict/other": WEIGHT}), "can't be read: .*weight")


def test_parts_that_are_no_safetensors(content, tmp_path):
    part = tmp_path / FOLDER / PART
    for data in (b"x" * 100, (2**62).to_bytes(8, "little") + b"{" * 92, b"\xff" * 100):
        part.write_bytes(data)
        content[KEY]["files"] = {PART: [100, checksum_of(part)]}
        assert_refused(tmp_path, content, r"last\.ckpt: its parts in .* can't be read: ")


def test_parts_that_are_missing_more_or_of_another_size(content, tmp_path):
    other = "shard-00002-model-00001-of-00001.safetensors"
    for change, message in (
        ({PART: [2**69, "0" * 64]}, f"damaged: it has [0-9]+ bytes instead of {2**69:,}"),
        ({PART: [content[KEY]["files"][PART][0], "0" * 64]}, "damaged: its checksum is wrong"),
        ({**content[KEY]["files"], other: [3, "0" * 64]}, f"beside it, and {other} is missing from it"),
        ({other: [1000, "0" * 64]}, f"beside it, and {other} is missing from it"),
    ):
        changed = copy.deepcopy(content)
        changed[KEY]["files"] = change
        assert_refused(tmp_path, changed, message)
    content[KEY]["tensors"] = []
    content[KEY]["files"] = {}
    assert_refused(tmp_path, content, "beside it, and it holds more")


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_parts_that_are_no_files(content, tmp_path, kind):
    """A name that promises no bytes may give any number of them, or none for ever."""
    part = tmp_path / FOLDER / PART
    part.unlink()
    make = {"fifo": os.mkfifo, "folder": os.mkdir, "device": lambda path: os.symlink("/dev/zero", path)}[kind]
    make(part)
    content[KEY]["tensors"] = []
    content[KEY]["files"] = {PART: [part.stat().st_size, "0" * 64]}
    assert_refused(tmp_path, content, f"{PART} is damaged")

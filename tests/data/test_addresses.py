"""Addresses: who may name them, what is said of them, and that what is put there is whole."""

import json
import sys

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from involution.data import addresses
from involution.data.addresses import AddressError, StorageError, allow, allow_arguments, path_of
from involution.extras import MissingExtra
from involution.models.errors import CheckpointError


def test_only_what_the_user_named_becomes_a_path(memory):
    with pytest.raises(AddressError, match=r"memory://runs/x: an address is only taken from the command line"):
        path_of("memory://runs/x")
    allow("--output=memory://runs")
    assert str(path_of("memory://runs/x") / "last.ckpt") == "memory://runs/x/last.ckpt"
    for other in ("memory://run", "memory://runs2", "memory://", "memory://runs/../secret"):
        with pytest.raises(AddressError, match="only taken from the command line"):
            path_of(other)


@pytest.mark.parametrize(
    "address",
    ["s3://name:hunter2@bucket/x", "https://host/x.tar?token=hunter2", "webdataset:s3://a:hunter2@b/{0..3}.tar"],
)
def test_an_address_with_a_password_or_key_is_refused_and_not_repeated(memory, address):
    with pytest.raises(AddressError, match="must not hold a password or a key") as told:
        allow(address)
    assert "hunter2" not in str(told.value)
    # nor where a file names it
    with pytest.raises(AddressError, match="only taken from the command line") as told:
        path_of(address.removeprefix("webdataset:"))
    assert "hunter2" not in str(told.value)


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("az", "adlfs")])
def test_a_missing_plug_in_is_named(memory, monkeypatch, scheme, package):
    monkeypatch.setitem(sys.modules, package, None)
    allow(f"{scheme}://bucket/x")
    with pytest.raises(MissingExtra, match=rf"^{package} is not installed; pip install {package}$"):
        path_of(f"{scheme}://bucket/x")


def test_an_unknown_kind_of_address(memory):
    allow("nowhere://bucket")
    with pytest.raises(AddressError, match=r"^nowhere:// is no kind of address that fsspec knows$"):
        path_of("nowhere://bucket")


def test_file_addresses_are_paths(tmp_path):
    assert path_of(f"file://{tmp_path}/a") == path_of(f"local://{tmp_path}/a") == tmp_path / "a"
    assert path_of("a/b") == path_of(path_of("a/b"))


def test_a_command_that_takes_no_addresses_says_so(memory):
    with pytest.raises(AddressError, match=r"^involution cost takes no addresses, got memory://x; name a file"):
        allow_arguments(["--output", "memory://x"], "involution cost", takes=False)
    allow_arguments(["http://localhost:80"], "involution cost", takes=False)


def test_a_file_arrives_whole_or_not_at_all(memory, monkeypatch, tmp_path, capsys):
    allow("memory://bucket")
    target = path_of("memory://bucket/folder/file")
    (tmp_path / "one").write_text("one")
    (tmp_path / "two").write_text("two, and more")
    addresses.put(tmp_path / "one", target)
    original, calls = MemoryFileSystem.put_file, []

    def failing(fs, source, path, **options):
        calls.append(path)
        if len(calls) in fails:
            raise TimeoutError("the storage does not answer")
        original(fs, source, path, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", failing)
    fails = range(100)
    with pytest.raises(StorageError, match=r"failed 4 times \(the storage does not answer\)") as told:
        addresses.put(tmp_path / "two", target)
    assert (told.value.filename, target.read_text()) == (str(target), "one")
    fails, calls[:] = {1, 2, 3}, []
    addresses.put(tmp_path / "two", target)
    assert target.read_text() == "two, and more"
    assert len(capsys.readouterr().err.splitlines()) == 1
    # a storage that takes a part for the whole
    monkeypatch.setattr(MemoryFileSystem, "put_file", lambda fs, source, path: fs.pipe_file(path, b"tw"))
    with pytest.raises(StorageError, match="only 2 of 13 bytes arrived"):
        addresses.put(tmp_path / "two", target)


def test_no_room_to_write_is_found_before_the_work(memory, monkeypatch):
    allow("memory://bucket")

    def refused(fs, path, value, **options):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refused)
    with pytest.raises(PermissionError, match="Access Denied") as told:
        addresses.check_writable(path_of("memory://bucket/runs"))
    assert told.value.filename == "memory://bucket/runs"
    monkeypatch.undo()
    assert memory.find("/") == []


def test_errors_of_a_copy_name_the_address(memory):
    allow("memory://bucket")
    memory.pipe_file("/bucket/best.ckpt", json.dumps({}).encode())
    seen = []

    def read():
        with addresses.on_this_machine("memory://bucket/best.ckpt") as file:
            seen.append((file, file.read_text()))
            raise CheckpointError(f"{file} is strange")

    with pytest.raises(CheckpointError, match=r"^memory://bucket/best\.ckpt is strange$"):
        read()
    ((file, text),) = seen
    assert (text, file.exists()) == ("{}", False)


def test_what_a_plug_in_raises_is_told_from_our_own_faults(memory):
    allow("memory://bucket")
    with pytest.raises(FileNotFoundError, match="nothing") as told:
        path_of("memory://bucket/nothing").read_text()
    assert addresses.failure(told.value).startswith("FileNotFoundError: ")
    assert addresses.failure(ValueError("ours")) == ""

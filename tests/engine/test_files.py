import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from involution.engine.files import atomic_path, make_folder

resource = pytest.importorskip("resource")


@pytest.fixture
def small_files():
    """Let no file grow beyond 100 kB, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


WRITERS = {
    "torch": lambda file: torch.save(torch.zeros(10**5), file),
    "safetensors": lambda file: save_file({"a": torch.zeros(10**5)}, file),
    "text": lambda file: file.write_text("x" * 10**6),
    "copy": lambda file: shutil.copyfile(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so", file),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_has_no_room_is_named_and_leaves_nothing(tmp_path, small_files, writer):
    target = tmp_path / "best.ckpt"
    target.write_text("before")
    with pytest.raises(OSError, match="File too large") as told, atomic_path(target) as temporary:
        WRITERS[writer](temporary)
    assert (told.value.errno, told.value.filename) == (errno.EFBIG, str(target))
    assert os.listdir(tmp_path) == ["best.ckpt"]
    assert target.read_text() == "before"


def test_other_errors_are_left_as_they_are(tmp_path):
    target = tmp_path / "a"
    with pytest.raises(FileNotFoundError, match="elsewhere"), atomic_path(target):
        (tmp_path / "elsewhere").read_text()
    with pytest.raises(RuntimeError, match="a bug"), atomic_path(target):
        raise RuntimeError("a bug")
    with pytest.raises(IsADirectoryError, match=f"'{tmp_path}'"), atomic_path(tmp_path) as temporary:
        temporary.write_text("x")
    assert not os.listdir(tmp_path)


def test_a_long_name_a_link_and_a_device(tmp_path):
    name = "n" * 250
    with atomic_path(tmp_path / name) as temporary:
        temporary.write_text("long")
    (tmp_path / "link").symlink_to(name)
    with atomic_path(tmp_path / "link") as temporary:
        temporary.write_text("linked")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / name).read_text() == "linked"
    with atomic_path(os.devnull) as temporary:
        temporary.write_text("gone")
    assert not os.path.isfile(os.devnull)
    assert sorted(os.listdir(tmp_path)) == ["link", name]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device")
def test_a_device_that_refuses_is_named():
    with pytest.raises(OSError, match="/dev/full"), atomic_path("/dev/full") as temporary:
        temporary.write_text("x")


def test_a_read_only_file_system_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="Permission denied"):
        make_folder(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda path: type("", (), {"f_flag": os.ST_RDONLY}))
    with pytest.raises(OSError, match="Read-only file system"):
        make_folder(tmp_path)

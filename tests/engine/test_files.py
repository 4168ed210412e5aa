import errno
import json
import os
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from involution.engine.files import (
    RECORD,
    atomic_path,
    check_folder,
    check_free,
    check_output,
    make_folder,
    write_all,
    write_text,
)

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
    with pytest.raises(OSError, match="File too large") as told, atomic_path(target, replace=True) as temporary:
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
    assert sorted(os.listdir(tmp_path)) == [RECORD, "link", name]


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


def write(path, text, **options):
    with atomic_path(path, **options) as temporary:
        temporary.write_text(text)


def test_a_file_of_ones_own_is_replaced_and_anybody_elses_is_not(tmp_path):
    ours, theirs = tmp_path / "ours.txt", tmp_path / "theirs.txt"
    theirs.write_text("precious")
    for text in ("a", "bb", "c"):
        write(ours, text)
        assert ours.read_text() == text
    for call in (check_free, check_output, lambda path: write(path, "new")):
        with pytest.raises(FileExistsError, match="involution did not make this file"):
            call(theirs)
    assert theirs.read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == [RECORD, "ours.txt", "theirs.txt"]


def test_a_file_that_was_changed_since_is_its_owners(tmp_path):
    file = tmp_path / "table.csv"
    write(file, "made")
    file.write_text("mended by hand")
    with pytest.raises(FileExistsError, match="did not make"):
        write(file, "made again")
    assert file.read_text() == "mended by hand"


def test_what_a_link_leads_to_is_guarded(tmp_path):
    photo = tmp_path / "photo.png"
    photo.write_text("photo")
    (tmp_path / "link.png").symlink_to(photo)
    with pytest.raises(FileExistsError, match="did not make"):
        write(tmp_path / "link.png", "new")
    with pytest.raises(IsADirectoryError, match="a folder is where a file is wanted"):
        check_output(tmp_path)
    assert photo.read_text() == "photo"


def test_a_folder_of_ones_own_takes_everything(tmp_path):
    (tmp_path / "last.ckpt").write_text("old")
    write(tmp_path / "last.ckpt", "new", replace=True)
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_the_record_survives_other_processes_and_broken_lines(tmp_path):
    file = tmp_path / "a.txt"
    write(file, "one")
    with (tmp_path / RECORD).open("a") as record:
        record.write("[1, 2\n")
        found = file.stat()
        record.write(json.dumps(["b.txt", found.st_size, found.st_mtime_ns]) + "\n")
    check_free(file)
    (tmp_path / "b.txt").write_text("another")
    with pytest.raises(FileExistsError, match="did not make"):
        check_free(tmp_path / "b.txt")


def test_a_failing_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "file.txt"
    file.write_text("old")

    def fail():
        with atomic_path(file, replace=True) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_files_are_written_each_whatever_becomes_of_the_others(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "c").mkdir()
    a, b, c = (partial(write_text, tmp_path / name, "text") for name in "abc")
    with pytest.raises(IsADirectoryError, match=re.escape(f"a folder is where a file is wanted: '{tmp_path / 'a'}'")):
        write_all(a, b)
    assert (tmp_path / "b").read_text() == "text"
    with pytest.raises(IsADirectoryError, match=re.escape(f"'{tmp_path / 'a'}, {tmp_path / 'c'}'")):
        write_all(a, b, c)
    write_all(b)


def test_what_came_meanwhile_is_kept_and_so_is_the_new(tmp_path):
    file = tmp_path / "found.json"

    def slowly():
        with atomic_path(file) as temporary:
            temporary.write_text("hours of work")
            file.write_text("mine")

    with pytest.raises(FileExistsError, match=r"did not make this file, .*; the new one is .*found-2\.json"):
        slowly()
    assert (file.read_text(), (tmp_path / "found-2.json").read_text()) == ("mine", "hours of work")
    check_free(tmp_path / "found-2.json")


def test_the_record_is_not_written_through_a_link(tmp_path):
    diary = tmp_path / "diary.txt"
    diary.write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / RECORD).symlink_to(diary)
    write(tmp_path / "out" / "a.txt", "a")
    assert diary.read_text() == "mine"
    with pytest.raises(FileExistsError, match="did not make"):
        check_free(tmp_path / "out" / "a.txt")


def test_a_pipe_for_a_record_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / RECORD)
    write(tmp_path / "a.txt", "a")
    with pytest.raises(FileExistsError, match="did not make"):
        check_free(tmp_path / "a.txt")


def test_a_place_is_checked_without_making_anything(tmp_path):
    check_output(tmp_path / "new" / "folder" / "a.txt")
    check_folder(tmp_path / "new")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("x")
    for call in (lambda: check_output(tmp_path / "file" / "a"), lambda: check_folder(tmp_path / "file")):
        with pytest.raises(NotADirectoryError, match="a file is where a folder is wanted"):
            call()

import os

import pytest
from PIL import Image

from involution.data.errors import DataError
from involution.data.findings import Findings
from involution.data.walk import images_below, subfolders

KINDS = {"a.jpg": "JPEG", "b.JPG": "JPEG", "c.jfif": "JPEG", "d.avif": "AVIF", "e": "PNG", "f.dat": "WEBP"}
KINDS |= {"g.JPG~": "JPEG", "deep/er/h.png": "PNG"}


def fill(folder):
    for name, kind in KINDS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name, kind)


def test_by_content_and_what_is_not_taken_is_named(tmp_path):
    fill(tmp_path)
    for name in ("a.jpg~", "a.jpg_original", "a.jpg.bak"):
        (tmp_path / name).write_bytes((tmp_path / "a.jpg").read_bytes())
    (tmp_path / "notes.txt").write_text("words")
    (tmp_path / "Thumbs.db").write_bytes(b"\xd0\xcf")
    (tmp_path / "strange").write_text("words")
    (tmp_path / ".DS_Store").write_text("words")
    (tmp_path / ".cache").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / ".cache" / "x.png")
    os.mkfifo(tmp_path / "pipe")
    findings = Findings()
    found = images_below(tmp_path, findings)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == sorted(KINDS)
    assert findings.ignored == {
        "hidden": [".cache"],
        "left by an operating system": [".DS_Store", "Thumbs.db"],
        "no images": ["notes.txt", "strange"],
        "is a named pipe, not a file": ["pipe"],
        "backup copies": ["a.jpg.bak", "a.jpg_original", "a.jpg~"],
    }
    assert {path.name for path in images_below(tmp_path, deep=False)} == {name for name in KINDS if "/" not in name}


def test_links_to_folders_are_followed_once(tmp_path):
    fill(tmp_path / "real")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "circle").symlink_to(tmp_path / "real")
    findings = Findings()
    assert len(images_below(tmp_path / "set", findings)) == len(KINDS)
    assert findings.ignored == {"links to folders that are read already": ["link/circle"]}
    with pytest.raises(DataError, match="none: can't be opened"):
        images_below(tmp_path / "none")


def test_a_link_to_a_folder_above_is_not_followed(tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "a.png")
    (tmp_path / "cats" / "all").symlink_to(tmp_path)
    (tmp_path / "cats" / "again").symlink_to("..")
    findings = Findings()
    assert images_below(tmp_path / "cats", findings) == [tmp_path / "cats" / "a.png"]
    assert findings.ignored == {"links to folders that are read already": ["again", "all"]}
    assert subfolders(tmp_path / "cats") == []
    (tmp_path / "self").symlink_to(".")
    assert subfolders(tmp_path) == ["cats", "dogs"]


def test_a_folder_that_may_not_be_entered_is_named_itself(tmp_path, monkeypatch):
    (tmp_path / "cats").mkdir()
    look = os.stat

    def refused(path, *args, **options):
        if os.path.dirname(path) == str(tmp_path / "cats"):
            raise PermissionError(13, "Permission denied", path)
        return look(path, *args, **options)

    monkeypatch.setattr(os, "stat", refused)
    assert subfolders(tmp_path) == ["cats"]

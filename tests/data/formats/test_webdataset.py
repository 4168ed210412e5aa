import io
import re
import tarfile

import numpy as np
import PIL.Image
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from generated import add, picture, shards
from torch.utils.data import DataLoader

from involution.data import addresses
from involution.data.errors import DataError
from involution.data.images import ImageError
from involution.data.registry import Options, open_data


def test_webdataset_by_brace_pattern_and_folder(tmp_path):
    shards(tmp_path)
    data = open_data("classify", f"webdataset:{tmp_path}/{{train-{{000..001}},val-000}}.tar")
    assert data.classes == ["ant", "bee", "cat"]
    assert [len(data.train), len(data.val), data.test] == [24, 12, None]
    image, label = data.train[13]
    assert label == 1
    # JPEG loses a little
    wanted = np.asarray(picture(1, 101)).astype(int)
    assert abs(np.asarray(image).astype(int) - wanted).mean() < 20
    assert len(open_data("classify", f"webdataset:{tmp_path}").train) == 24


def test_webdataset_without_val_sets_some_aside(tmp_path):
    shards(tmp_path, names=("train-0",), per_shard=30)
    data = open_data("classify", f"webdataset:{tmp_path}/train-0.tar")
    assert [len(data.train), len(data.val)] == [27, 3]


def test_samples_that_lack_something_are_refused_or_left_out_by_name(tmp_path):
    shards(tmp_path, names=("train-0", "val-0"))
    jpeg = io.BytesIO()
    picture(1, 5).save(jpeg, "jpeg")
    members = {"a.cls": b"3", "a.jpg": jpeg.getvalue(), "b.cls": b"1", "c.jpg": jpeg.getvalue(), "d.cls": b"1"}
    with tarfile.open(tmp_path / "train-1.tar", "w") as archive:
        for name, content in {**members, "d.jpg": b"", "e.cls": b"1", "e.jpg": jpeg.getvalue()}.items():
            add(archive, name, content)
    said = (
        r"4 problems: .*train-1\.tar:a: its \.cls holds '3'; wanted a class number from 0 to 2; "
        r".*:c: has no \.cls member; .*:d: the image is empty \(0 bytes\); .*:b: has a \.cls member, but no image"
    )
    with pytest.raises(DataError, match=rf"{said}\. Fix them, or skip them: --data\.on_problem skip"):
        open_data("classify", f"webdataset:{tmp_path}")
    data = open_data("classify", f"webdataset:{tmp_path}", Options(on_problem="skip"))
    assert len(data.train) == 13
    assert data.train[12][1] == 1
    assert any(re.search(f"left out, {said}", line) for line in data.findings.lines())


def test_samples_with_several_images_or_labels_can_be_skipped(tmp_path):
    shards(tmp_path, names=("train-0", "val-0"))
    members = {"b.jpg": JPEG, "b.png": JPEG, "b.cls": b"0", "c.jpg": JPEG, "c.cls": b"0", "c.CLS": b"1"}
    with tarfile.open(tmp_path / "train-1.tar", "w") as archive:
        for name, content in members.items():
            add(archive, name, content)
    with pytest.raises(DataError, match=r"train-1\.tar:b: has several images; .*:c: has several \.cls members"):
        open_data("classify", f"webdataset:{tmp_path}")
    data = open_data("classify", f"webdataset:{tmp_path}", Options(on_problem="skip"))
    assert data.findings.used == {"train": 12, "val": 12}
    assert any("left out, 2 problems" in line for line in data.findings.lines())
    (tmp_path / "train-0.tar").unlink()
    with pytest.raises(DataError, match=r"no samples; wanted .*: .*train-1\.tar:b: has several images"):
        open_data("classify", f"webdataset:{tmp_path}", Options(on_problem="skip"))


def test_names_with_several_dots_are_told(tmp_path):
    shards(tmp_path, names=("val-0",))
    with tarfile.open(tmp_path / "train-1.tar", "w") as archive:
        for name, content in {"a.v1.jpg": JPEG, "a.v1.cls": b"0"}.items():
            add(archive, name, content)
    with pytest.raises(
        DataError, match=r"no samples; wanted .*; found \.v1\.jpg, \.v1\.cls, for a suffix begins at the"
    ):
        open_data("classify", f"webdataset:{tmp_path}")


def test_webdataset_faults(tmp_path):
    with pytest.raises(DataError, match="commands are not run"):
        open_data("classify", "webdataset:pipe:touch /tmp/x")
    with pytest.raises(DataError, match="an address is only taken from the command line"):
        open_data("classify", "webdataset:https://example.com/train-0.tar")
    with pytest.raises(DataError, match="no such shards"):
        open_data("classify", f"webdataset:{tmp_path}/train-{{0..3}}.tar")
    shards(tmp_path, names=("train-0",))
    (tmp_path / "train-1.tar").write_bytes(b"no tar file" * 100)
    with pytest.raises(DataError, match="not a readable, uncompressed tar"):
        open_data("classify", f"webdataset:{tmp_path}")
    (tmp_path / "train-1.tar").rename(tmp_path / "other.tar")
    with pytest.raises(DataError, match=r"shard names must have train, val or test in them, .*found other\.tar"):
        open_data("classify", f"webdataset:{tmp_path}")
    (tmp_path / "other.tar").unlink()
    (tmp_path / "classes.json").unlink()
    with pytest.raises(DataError, match="no class names"):
        open_data("classify", f"webdataset:{tmp_path}")


def header(name, size, kind=b"0", magic=b"ustar\x0000"):
    """A tar header of 512 bytes; size is what its field holds, eleven octal digits or base-256."""
    field = size if isinstance(size, bytes) else b"%011o\0" % size
    head = name.encode().ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + field + b"00000000000\0"
    rest = kind + bytes(100) + magic + bytes(32 + 32 + 16 + 155 + 12)
    check = sum(head) + sum(rest) + 8 * 32
    return (head + b"%06o\0 " % check + rest)[:512]


def base_256(value):
    return b"\x80" + value.to_bytes(11, "big") if value >= 0 else b"\xff" + (256**11 + value).to_bytes(11, "big")


def picture_bytes():
    file = io.BytesIO()
    picture(0, 0).save(file, "JPEG")
    return file.getvalue()


def padded(content):
    return content + bytes(-len(content) % 512)


def pax(**fields):
    text = b""
    for key, value in fields.items():
        line = f" {key}={value}\n"
        text += f"{len(line) + len(str(len(line) + 2))}{line}".encode()
    return header("./PaxHeaders/x", len(text), b"x") + padded(text)


JPEG = picture_bytes()
SAMPLE = header("a.jpg", len(JPEG)) + padded(JPEG) + header("a.cls", 1) + padded(b"0")
END = bytes(1024)
SPARSE = pax(**{"GNU.sparse.major": 1, "GNU.sparse.minor": 0})
HOSTILE = {
    "negative size": (header("b.jpg", base_256(-512)) + END, "a size of -512 bytes"),
    "negative by pax": (pax(size=-512) + header("b.jpg", 0) + END, "claims -512 bytes|a size of -512|tar file"),
    "too large": (header("b.jpg", base_256(2**60)) + END, "claims 1,152,921,504,606,846,976 bytes"),
    "too large by pax": (pax(size=10**15) + header("b.jpg", 0) + END, "claims 1,000,000,000,000,000 bytes"),
    "size in words": (pax(size="many") + header("b.jpg", 0) + END, "tar file|claims|broken header|0 bytes"),
    "long name of any length": (header("x", 2**33 - 1, b"L") + END, "a size of 8,589,934,591 bytes"),
    "sparse": (header("b.jpg", 0, b"S") + END, "b: its .jpg is stored sparse, which can.t be read|tar file"),
    "sparse by pax": (
        pax(**{"GNU.sparse.major": 1, "GNU.sparse.minor": 0}) + header("b.jpg", 512) + bytes(512) + END,
        "sparse|tar",
    ),
    "broken header": (b"x" * 512 + END, "a broken header at byte"),
    "cut": (header("b.jpg", 4000) + bytes(100), "claims 4,000 bytes, more than the file has left"),
    "empty": (header("b.jpg", 0) + END, "b: the image is empty"),
    "joined": (
        END + SAMPLE + END,
        "more follows at byte .*, behind the end of the archive: tar files that were joined",
    ),
    "unfinished": (bytes(2**18 + 512), "ends with .* empty bytes, as a file whose download was broken off"),
    "cut between members": (b"", "lacks the empty blocks that a tar file ends with"),
    "twice": (header("a.png", len(JPEG)) + padded(JPEG) + END, "a: has several images"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_end_in_one_line(tmp_path, name):
    shards(tmp_path, names=("train-0", "val-0"))
    more, message = HOSTILE[name]
    (tmp_path / "train-1.tar").write_bytes(SAMPLE + more)
    with pytest.raises(DataError, match=rf"train-1\.tar:.*({message})") as caught:
        open_data("classify", f"webdataset:{tmp_path}")
    assert str(caught.value).isprintable()


def test_long_names_and_sizes_in_base_256_are_read(tmp_path):
    shards(tmp_path, names=("train-0", "val-0"))
    name = "n" * 180
    long = header("././@LongLink", len(name) + 5, b"L", b"ustar  \0") + padded(f"{name}.jpg\0".encode())
    long += header("n.jpg", base_256(len(JPEG)), magic=b"ustar  \0") + padded(JPEG)
    other = pax(path=f"{name}.cls") + header("n.cls", 1) + padded(b"2")
    (tmp_path / "train-1.tar").write_bytes(SAMPLE + long + other + END)
    data = open_data("classify", f"webdataset:{tmp_path}")
    assert len(data.train) == 14
    assert data.train[13][1] == 2
    assert data.train[13][0].size == (24, 20)


def test_members_that_are_not_read_are_told(tmp_path):
    shards(tmp_path, names=("train-0", "val-0"))
    with tarfile.open(tmp_path / "train-0.tar", "a") as archive:
        add(archive, "00000.json", b"{}")
        add(archive, "readme", b"words")
        add(archive, "__MACOSX/._00000.jpg", b"x")
        add(archive, "._00001.jpg", b"x")
    notes = open_data("classify", f"webdataset:{tmp_path}").findings.notes
    assert notes == [
        "train-0.tar and similar: members that are not read: left by an operating system (2), .json (1), no suffix (1)"
    ]
    with tarfile.open(tmp_path / "train-0.tar", "a") as archive:
        for kind in "abcde":
            add(archive, f"00000.{kind}", b"")
    (note,) = open_data("classify", f"webdataset:{tmp_path}").findings.notes
    assert note.endswith(".json (1), no suffix (1), .a (1), .b (1), 3 further kinds")


def test_a_class_without_images_is_refused_or_allowed(tmp_path):
    shards(tmp_path, names=("train-0", "val-0"))
    (tmp_path / "classes.json").write_text('["ant", "bee", "cat", "unicorn"]')
    with pytest.raises(DataError, match="no training images of unicorn"):
        open_data("classify", f"webdataset:{tmp_path}")
    data = open_data("classify", f"webdataset:{tmp_path}", Options(allow_empty=True, only="val"))
    assert data.findings.used == {"val": 12}


def test_shards_in_folders_and_under_further_names(tmp_path):
    shards(tmp_path / "train", names=("000", "pets-001"))
    shards(tmp_path, names=("pets-validation-0", "Holdout"))
    (tmp_path / "Holdout.tar").rename(tmp_path / "Holdout.TAR")
    data = open_data("classify", f"webdataset:{tmp_path}")
    assert data.findings.used == {"train": 24, "val": 12, "test": 12}
    assert open_data("classify", str(tmp_path)).classes == ["ant", "bee", "cat"]
    (tmp_path / "Holdout.TAR").unlink()
    with pytest.raises(DataError, match="has no test split; it has train, val: choose with --split train or val"):
        open_data("classify", f"webdataset:{tmp_path}", Options(only="test"))


def test_compressed_shards_by_a_pattern_are_refused(tmp_path):
    (tmp_path / "train-0.tar.gz").write_bytes(b"x")
    with pytest.raises(
        DataError, match=r"train-0\.tar\.gz is compressed; wanted a folder of \.tar files, or a pattern"
    ):
        open_data("classify", f"webdataset:{tmp_path}/train-{{0..0}}.tar.gz")


def test_compressed_shards_are_told(tmp_path):
    shards(tmp_path, names=("train-0", "val-0"))
    for name in ("train-1.tar.gz", "train-2.tgz", "other.zip"):
        (tmp_path / name).write_bytes(b"x")
    assert open_data("classify", f"webdataset:{tmp_path}").findings.ignored == {
        "compressed shards, which must be unpacked to .tar": ["train-1.tar.gz", "train-2.tgz"],
        "archives, which are not unpacked": ["other.zip"],
    }


def test_a_file_of_names_renames_by_name_and_never_by_place(tmp_path):
    shards(tmp_path)
    names = tmp_path / "names.txt"
    names.write_text("cat\nant\nbee\n")

    def named(**options):
        return open_data("classify", f"webdataset:{tmp_path}", Options(classes=str(names), **options))

    # labels are those of the shards' own list
    assert named().classes == ["ant", "bee", "cat"]
    names.write_text("tiger\nfly\nwasp\n")
    with pytest.raises(DataError, match=r"names\.txt does not name the classes of .*: ant, bee, cat is not in it"):
        named()
    names = tmp_path / "names.json"
    names.write_text('{"cat": "tiger", "ant": "fly", "bee": "wasp"}')
    assert named().classes == ["fly", "wasp", "tiger"]
    # without a list of their own the numbers are all that there is
    (tmp_path / "classes.json").unlink()
    names = tmp_path / "others.txt"
    names.write_text("tiger\nfly\nwasp\n")
    assert named().classes == ["tiger", "fly", "wasp"]


def test_two_lists_beside_the_shards_must_be_equal(tmp_path):
    shards(tmp_path)
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\n")
    assert open_data("classify", f"webdataset:{tmp_path}").classes == ["ant", "bee", "cat"]
    (tmp_path / "classes.txt").write_text("bee\nant\ncat\n")
    with pytest.raises(DataError, match=r"classes\.txt and classes\.json name the classes differently"):
        open_data("classify", f"webdataset:{tmp_path}")


def test_shards_without_splits_are_one_set(tmp_path):
    shards(tmp_path, names=("pets-0", "pets-1"), per_shard=30)
    data = open_data("classify", f"webdataset:{tmp_path}", Options(split_by="draw"))
    assert data.findings.used == {"train": 54, "val": 6}
    assert f"webdataset:{tmp_path}: shards without splits, split 90% / 10% into train and val" in data.findings.notes[0]
    assert open_data("classify", f"webdataset:{tmp_path}", Options(only="test")).findings.used == {"test": 60}


def test_headers_are_checked_and_told_as_of_folders(tmp_path):
    shards(tmp_path, names=("train-0", "val-0"))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    contents = {"turned.jpg": io.BytesIO(), "alpha.png": io.BytesIO()}
    PIL.Image.new("RGB", (6, 4)).save(contents["turned.jpg"], "JPEG", exif=exif)
    PIL.Image.new("RGBA", (6, 4)).save(contents["alpha.png"], "PNG")
    with tarfile.open(tmp_path / "train-1.tar", "w") as archive:
        for name, content in contents.items():
            add(archive, name, content.getvalue())
            add(archive, f"{name.split('.')[0]}.cls", b"0")
    notes = open_data("classify", f"webdataset:{tmp_path}").findings.notes
    assert any("turned upright by their EXIF orientation: 1 (train-1.tar:turned)" in note for note in notes)
    assert any("images with an alpha channel" in note and "train-1.tar:alpha" in note for note in notes)
    with tarfile.open(tmp_path / "train-2.tar", "w") as archive:
        add(archive, "broken.jpg", b"words")
        add(archive, "broken.cls", b"0")
    with pytest.raises(DataError, match=r"train-2\.tar:broken: not an image in a known format"):
        open_data("classify", f"webdataset:{tmp_path}")
    data = open_data("classify", f"webdataset:{tmp_path}", Options(on_problem="skip"))
    assert data.findings.used == {"train": 14, "val": 12}


original = MemoryFileSystem.cat_file


def at_address(memory, folder):
    """The shards of a folder in memory, too."""
    for file in folder.iterdir():
        memory.put_file(str(file), f"/bucket/set/{file.name}")
    addresses.allow("webdataset:memory://bucket/set/{train-{000..001},val-000}.tar", "webdataset:memory://bucket/set")


@pytest.mark.parametrize("where", ["", "/{train-{000..001},val-000}.tar"], ids=["folder", "pattern"])
def test_shards_at_an_address_are_the_same_as_here(tmp_path, memory, where):
    at_address(memory, shards(tmp_path))
    here = open_data("classify", f"webdataset:{tmp_path}{where}")
    there = open_data("classify", f"webdataset:memory://bucket/set{where}")
    assert there.classes == here.classes
    for split in ("train", "val"):
        one, other = here.split(split), there.split(split)
        assert one.labels == other.labels
        assert [entry[1:] for entry in one.entries] == [entry[1:] for entry in other.entries]
        assert np.array_equal(np.asarray(one[5][0]), np.asarray(other[5][0]))
    assert there.train.name_of(0) == "memory://bucket/set/train-000.tar:00000"
    # in loader processes, too
    assert len(list(DataLoader(there.val, batch_size=None, num_workers=2))) == 12


def test_the_index_of_a_shard_reads_its_headers_alone(tmp_path, memory, monkeypatch):
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        for number in range(8):
            add(archive, f"{number}.jpg", JPEG + bytes(100_000))
            add(archive, f"{number}.cls", str(number % 2).encode())
    memory.put_file(str(tmp_path / "train-0.tar"), "/bucket/train-0.tar")
    memory.pipe_file("/bucket/classes.txt", b"a\nb\n")
    addresses.allow("memory://bucket/train-0.tar")
    asked = []

    def counted(fs, path, start, end):
        asked.append(end - start)
        return original(fs, path, start, end)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    data = open_data("classify", "webdataset:memory://bucket/train-0.tar")
    assert len(data.train) + len(data.val) == 8
    assert sum(asked) < 0.06 * memory.size("/bucket/train-0.tar")
    # about one request a sample
    assert len(asked) < 13
    asked.clear()
    assert data.train[0][1] in (0, 1)
    assert asked == [len(JPEG) + 100_000]


def test_a_read_that_is_interrupted_is_tried_again_and_told(tmp_path, memory, monkeypatch, capsys):
    at_address(memory, shards(tmp_path))
    calls = []

    def failing(fs, path, start=None, end=None):
        calls.append(path)
        if len(calls) in fails:
            # a signed address in a storage's own words
            raise ConnectionResetError(104, "reset: https://host/train-000.tar?X-Signature=abcdef")
        return original(fs, path, start, end)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", failing)
    fails = {1}
    data = open_data("classify", "webdataset:memory://bucket/set")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("interrupted (reset: https://host/train-000.tar?...), trying again")
    fails, calls[:] = {1, 2, 3}, []
    assert data.train[0][1] == 0
    fails, calls[:] = range(100), []
    with pytest.raises(ImageError, match=r"^memory://bucket/set/train-000\.tar:00000: can.t be read \(failed 4 times"):
        data.train[0]
    with pytest.raises(DataError, match=r"^memory://bucket/set/train-000\.tar: failed 4 times \(reset: [^\n]*\?\.\.\."):
        open_data("classify", "webdataset:memory://bucket/set")
    assert "abcdef" not in capsys.readouterr().err


def test_a_shard_that_is_not_at_its_address(tmp_path, memory):
    at_address(memory, shards(tmp_path))
    memory.rm_file("/bucket/set/train-001.tar")
    with pytest.raises(DataError, match=r"^memory://bucket/set/train-001\.tar: no such file$"):
        open_data("classify", "webdataset:memory://bucket/set/{train-{000..001},val-000}.tar")
    memory.pipe_file("/bucket/set/train-001.tar", b"no tar" * 1000)
    with pytest.raises(DataError, match=r"^memory://bucket/set/train-001\.tar: not a readable, uncompressed tar"):
        open_data("classify", "webdataset:memory://bucket/set")


def test_unfinished_shards_are_told(tmp_path):
    shards(tmp_path, names=("train-0", "val-0"))
    shards(tmp_path / "_temporary" / "0", names=("train-1",))
    data = open_data("classify", f"webdataset:{tmp_path}")
    assert data.findings.used == {"train": 12, "val": 12}
    assert data.findings.ignored == {"folders": ["_temporary/ (2 files)"]}

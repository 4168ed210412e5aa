"""Which images a large prediction is of: listed files, columns of Parquet tables, members of tar files."""

import re

import pyarrow
import pytest
from many_images import png, shard, table
from pictures import picture

from involution.data.errors import DataError
from involution.data.findings import Findings
from involution.engine.predictor import Encoded, PredictError, SkippedImage
from involution.predict import inputs as module
from involution.predict.inputs import Part, find_inputs, holds_tables
from involution.predict.tables import Table, find_column


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(3):
        picture(seed).save(folder / f"{seed}.png")
    return folder


def test_files_folders_and_patterns_are_listed_once(photos):
    (photos / "notes.txt").write_text("no image")
    findings = Findings()
    found = find_inputs([photos, photos / "1.png", f"{photos}/*.png"], findings=findings)
    (part,) = found.parts(10)
    assert part.pieces[0].files == tuple(str(photos / f"{seed}.png") for seed in range(3))
    assert (found.count, part.count, part.start) == (3, 3, 0)
    assert findings.lines() == ["not used, no images: 1 (notes.txt)"]


def test_parts_are_cut_across_places(photos, tmp_path):
    table(tmp_path / "a.parquet", {"bytes": [png(0)] * 5})
    shard(tmp_path / "b.tar", {f"{number}.png": png(number) for number in range(3)})
    found = find_inputs([tmp_path / "b.tar", photos, tmp_path / "a.parquet"])
    parts = found.parts(4)
    assert [part.start for part in parts] == [0, 4, 8]
    # files first, then the others as they were named
    cut = [[(piece.source[-9:], piece.start, piece.count) for piece in part.pieces] for part in parts]
    assert cut[0] == [("", 0, 3), (str(tmp_path / "b.tar")[-9:], 0, 1)]
    assert cut[1] == [(str(tmp_path / "b.tar")[-9:], 1, 2), ("a.parquet", 0, 2)]
    assert cut[2] == [("a.parquet", 2, 3)]
    assert sum(part.count for part in parts) == found.count == 11
    assert Part.from_dict(parts[1].to_dict()).to_dict() == parts[1].to_dict()


def test_members_of_shards_that_are_no_images_are_told(tmp_path):
    members = {"0.png": png(0), "0.cls": b"1", "0.seg.png": png(1), "1.v2.png": png(2), "._1.png": b"x"}
    for name in ("a.tar", "b.tar"):
        shard(tmp_path / name, members)
    findings = Findings()
    assert find_inputs([f"{tmp_path}/*.tar"], findings=findings).count == 2
    kinds = ".cls (2), .seg.png (2), .v2.png (2), left by an operating system (2)"
    assert findings.notes == [f"tar files: members that are not read: {kinds}"]


def test_parts_of_earlier_predictions_are_no_tables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, record in (("out", '{"parts": 1}\n'), ("mine", "no record"), ("data", None)):
        (tmp_path / folder).mkdir()
        table(tmp_path / folder / "part-000000.parquet", {"bytes": [png(0)] * 2})
        if record:
            (tmp_path / folder / "_manifest.jsonl").write_text(record)
    table(tmp_path / "out" / "own.parquet", {"bytes": [png(0)]})
    for spec in ("parquet:.", "*/*.parquet", f"parquet:{tmp_path}"):
        findings = Findings()
        assert find_inputs([spec], findings=findings).count == 5
        *others, line = findings.lines()
        records = ["not used, names that begin with _: 2 (mine/_manifest.jsonl, out/_manifest.jsonl)"]
        assert others == (records if spec.startswith("parquet:") else [])
        assert line.startswith("not used, parts of an earlier prediction: 1 (")
        assert line.endswith("out/part-000000.parquet)")
    # asked for by name
    assert find_inputs(["out/part-000000.parquet"]).count == 2
    with pytest.raises(PredictError, match=r"no images found in out/part-\*"):
        find_inputs(["out/part-*.parquet"])


def test_what_changes_the_images_changes_their_mark(photos, tmp_path):
    table(tmp_path / "a.parquet", {"bytes": [png(0)] * 5, "other": [png(1)] * 5})
    marks = [
        find_inputs([photos]).sha256,
        find_inputs([photos / "1.png"]).sha256,
        find_inputs([tmp_path / "a.parquet"]).sha256,
        find_inputs([tmp_path / "a.parquet"], "other").sha256,
    ]
    table(tmp_path / "a.parquet", {"bytes": [png(0)] * 6})
    marks.append(find_inputs([tmp_path / "a.parquet"]).sha256)
    assert len(set(marks)) == 5
    assert find_inputs([f"{photos}/*"]).sha256 == marks[0]


def test_tables_and_shards_by_ending_by_word_and_below_folders(tmp_path):
    (tmp_path / "deep" / ".hidden").mkdir(parents=True)
    for name in ("x.tar", "deep/y.tar", "deep/.hidden/z.tar"):
        shard(tmp_path / name, {"0.png": png(0)})
    table(tmp_path / "deep" / "t.parquet", {"path": ["a.png"]})

    def sources(*specs):
        return [piece.source.removeprefix(f"{tmp_path}/") for piece in find_inputs(specs).parts(100)[0].pieces]

    assert sources(f"webdataset:{tmp_path}") == ["deep/y.tar", "x.tar"]
    (tmp_path / "_temporary").mkdir()
    for name in ("_temporary/1.tar", "_z.tar", ".w.tar", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"")
    findings = Findings()
    assert find_inputs([f"webdataset:{tmp_path}"], findings=findings).count == 2
    assert findings.lines() == [
        "not used, hidden: 2 (.w.tar, deep/.hidden)",
        "not used, left by an operating system: 1 (Thumbs.db)",
        "not used, names that begin with _: 2 (_temporary/1.tar, _z.tar)",
        "not used, no .tar files: 1 (deep/t.parquet)",
    ]
    (tmp_path / "_temporary" / "1.tar").unlink()
    (tmp_path / "_z.tar").unlink()
    outside = tmp_path.with_name(f"{tmp_path.name}-outside")
    outside.mkdir()
    shard(outside / "v.tar", {"0.png": png(0)})
    for link in (tmp_path / "link", tmp_path / "second", outside / "back"):
        link.symlink_to(outside if link.parent == tmp_path else tmp_path)
    assert sources(f"webdataset:{tmp_path}") == ["deep/y.tar", "link/v.tar", "x.tar"]
    for link in (tmp_path / "link", tmp_path / "second"):
        link.unlink()
    assert sources(f"{tmp_path}/**/*.tar") == ["deep/y.tar", "x.tar"]
    assert sources(f"{tmp_path}/{{x,deep/y}}.tar") == ["x.tar", "deep/y.tar"]
    assert sources(f"parquet:{tmp_path}", f"{tmp_path}/x.tar") == ["deep/t.parquet", "x.tar"]
    assert holds_tables([tmp_path, "a.png"]) is None
    assert holds_tables(["a.png", "x.TAR"]) == "x.TAR"


def test_numbers_without_a_file_and_long_tails_are_told(tmp_path):
    for number in (0, 1, 4):
        shard(tmp_path / f"s-{number:03}.tar", {f"{number}.png": png(0)})
    with (tmp_path / "s-004.tar").open("ab") as file:
        file.write(bytes(20_480))
    for number in (0, 3):
        table(tmp_path / f"train-{number:05}-of-00004.parquet", {"bytes": [png(0)]})
    for specs in ([f"{tmp_path}/s-{{000..001}}.tar", tmp_path / "s-004.tar"], [f"webdataset:{tmp_path}"]):
        findings = Findings()
        assert find_inputs(specs, findings=findings).count == 3
        assert findings.notes == [
            f"{tmp_path}: numbered files that are missing: 2 (s-002.tar, s-003.tar)",
            "tar files that end with more empty bytes than is usual: 1 (s-004.tar); they are read, but may lack "
            "images, as where a download was broken off",
        ]
    findings = Findings()
    find_inputs([f"{tmp_path}/*.parquet"], findings=findings)
    missing = "train-00001-of-00004.parquet, train-00002-of-00004.parquet"
    assert findings.notes == [f"{tmp_path}: numbered files that are missing: 2 ({missing})"]


def test_a_list_of_paths_is_refused_and_costs_images_nothing(photos):
    (photos / "list.csv").write_text("path\n0.png\n")
    with pytest.raises(PredictError, match=r"list\.csv: lists of paths are read as Parquet alone: save it as such, or"):
        find_inputs([photos / "list.csv"])
    assert find_inputs([photos / "list.csv", photos / "0.png"]).count == 2


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("none.parquet", "none.parquet: no such file or folder"),
        ("parquet:none", "none: no such file or folder"),
        ("{x,y}*.png", "no images found in {x,y}*.png"),
    ],
)
def test_what_matches_nothing_is_refused(spec, said, photos, monkeypatch):
    monkeypatch.chdir(photos)
    with pytest.raises(PredictError, match=re.escape(said)):
        find_inputs([photos, spec])


def test_an_empty_table_is_no_input(tmp_path):
    table(tmp_path / "a.parquet", {"path": pyarrow.array([], "string")})
    with pytest.raises(PredictError, match=r"no images found in .*a\.parquet"):
        find_inputs([tmp_path / "a.parquet"])


def test_columns_are_found_by_name_and_type(tmp_path):
    both = [{"bytes": png(0), "path": "a.png"}]
    columns = {"number": [1], "name": pyarrow.array(["x"]).dictionary_encode(), "raw": [png(0)], "hf": both}
    file = str(table(tmp_path / "a.parquet", columns))
    for name in ("name", "raw", "hf"):
        assert find_column(file, name) == (name, 1, [other for other in columns if other != name])
    with pytest.raises(DataError, match=r"no column 'nam'; did you mean name\? \(it has number, name, raw, hf\)"):
        find_column(file, "nam")
    with pytest.raises(DataError, match=r"no column named image, bytes, .* --column \(it has number, name, raw, hf\)"):
        find_column(file)
    with pytest.raises(DataError, match="the column 'number' holds int64; wanted paths"):
        find_column(file, "number")
    other = table(tmp_path / "b.parquet", {"number": [1], "path": ["a"], "bytes": [b"a"]})
    assert find_column(str(other)) == ("bytes", 1, ["number", "path"])
    findings = Findings()
    find_inputs([other, table(tmp_path / "c.parquet", {"number": [2], "path": ["a"]})], findings=findings)
    assert findings.notes == ["tables: columns that are not read: number (2), path (1)"]


@pytest.mark.parametrize(("content", "said"), [(b"", "empty"), (b"PAR1 nonsense PAR1", "not a readable Parquet file")])
def test_what_is_no_table_is_told(content, said, tmp_path):
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(DataError, match=said):
        find_inputs([tmp_path / "a.parquet"])


def test_a_broken_shard_is_told(tmp_path):
    file = shard(tmp_path / "a.tar", {"0.png": png(0), "1.png": png(1)})
    file.write_bytes(file.read_bytes()[:1400])
    with pytest.raises(DataError, match=r"a\.tar: not a readable, uncompressed tar file \(unexpected end of data\)"):
        find_inputs([file])


def test_rows_are_paths_contents_or_say_why_not(tmp_path):
    absolute = str(tmp_path / "b.png")
    values = ["a.png", absolute, None, "https://host/c.png", "d\0.png"]
    column = Table(str(table(tmp_path / "a.parquet", {"path": values})), "path")
    found = list(column.images(0, 5))
    assert found[:2] == [str(tmp_path / "a.png"), absolute]
    assert [item.kind for item in found[2:4]] == ["missing", "address"]
    assert found[2].file.endswith("a.parquet:2")
    both = [{"bytes": b"x", "path": "a.png"}, {"bytes": None, "path": "b.png"}, None]
    column = Table(str(table(tmp_path / "b.parquet", {"image": both})), "image")
    first, second, third = column.images(0, 3)
    assert first == Encoded(f"{tmp_path}/b.parquet:0", b"x")
    assert second == absolute
    assert isinstance(third, SkippedImage)


@pytest.mark.parametrize("group", [1, 7, 1000])
def test_any_rows_in_any_order(group, tmp_path):
    values = [str(number).encode() for number in range(300)]
    file = str(table(tmp_path / "a.parquet", {"bytes": values}, row_group_size=group))
    column = Table(file, "bytes")
    for start, count in ((0, 10), (10, 5), (200, 100), (3, 4), (7, 100), (250, 1), (110, 0), (299, 1)):
        assert [item.content for item in column.images(start, count)] == values[start : start + count]


def test_rows_that_are_gone_or_damaged_are_told_one_by_one(tmp_path):
    file = table(tmp_path / "a.parquet", {"bytes": [b"%d" % number * 100 for number in range(200)]}, compression="none")
    column = Table(str(file), "bytes")
    *_, last = column.images(198, 4)
    assert (last.file, last.kind) == (f"{file}:201", "unreadable")
    content = bytearray(file.read_bytes())
    content[4:2000] = bytes(1996)
    file.write_bytes(content)
    found = list(Table(str(file), "bytes").images(0, 3))
    assert [item.kind for item in found] == ["unreadable"] * 3
    assert "its row can't be read (" in found[0].reason


def test_a_million_listed_files_take_no_object_each(tmp_path, monkeypatch):
    files = [f"/far/{number:07}.png" for number in range(100_000)]
    monkeypatch.setattr(module, "find_images", lambda *args, **options: (files, []))
    parts = find_inputs(["far"]).parts(1000)
    assert len(parts) == 100
    assert parts[99].pieces[0].files[-1] == files[-1]


def test_unfinished_tables_are_left_out_by_patterns_too(tmp_path):
    (tmp_path / "_temporary" / "0").mkdir(parents=True)
    for name in ("a.tar", "_temporary/0/b.tar"):
        shard(tmp_path / name, {"0.png": png(0)})
    findings = Findings()
    assert find_inputs([f"{tmp_path}/**/*.tar"], findings=findings).count == 1
    assert findings.lines() == [f"not used, names that begin with _: 1 ({tmp_path}/_temporary/0/b.tar)"]
    assert find_inputs([f"{tmp_path}/_temp*/**/*.tar"]).count == 1

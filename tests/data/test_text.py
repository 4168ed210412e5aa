"""One reader for every text file, whoever wrote it."""

import json
import os

import pytest

from involution.data.errors import DataError
from involution.data.text import read_json, read_lines, read_names, read_text

WORDS = "Häuser\r\nsky – blue\nŒuf\r\n"
LATER = ["Häuser", "sky – blue", "Œuf"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_encodings_marks_and_ends_of_lines(tmp_path, encoding):
    file = tmp_path / "classes.txt"
    file.write_bytes(WORDS.encode(encoding))
    assert read_lines(file) == LATER
    assert read_names(file) == LATER
    file = tmp_path / "classes.json"
    file.write_bytes(json.dumps(LATER, ensure_ascii=False).encode(encoding))
    assert read_names(file) == LATER


def test_old_macs_and_separators_within_a_line(tmp_path):
    (tmp_path / "a").write_bytes("one\rtwo\u2028three\x1cfour\r".encode())
    assert read_lines(tmp_path / "a") == ["one", "two\u2028three\x1cfour"]


def test_what_is_no_text(tmp_path):
    (tmp_path / "a").write_bytes(bytes(range(256)))
    with pytest.raises(DataError, match="not text in UTF-8, UTF-16 or Windows-1252"):
        read_text(tmp_path / "a")
    (tmp_path / "a").write_text("[1,")
    with pytest.raises(DataError, match="broken JSON"):
        read_json(tmp_path / "a")
    (tmp_path / "a").write_text("[" * 100_000)
    with pytest.raises(DataError, match="broken JSON"):
        read_json(tmp_path / "a")


def test_what_is_no_file(tmp_path):
    with pytest.raises(DataError, match="none: no such file"):
        read_names(tmp_path / "none")
    with pytest.raises(DataError, match="is a folder, not a file"):
        read_names(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is a named pipe, not a file"):
        read_names(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "sky\n\nroad\n", "line 2 is empty, but positions are labels"),
        ("a.txt", "\nsky\nroad\n", "line 1 is empty"),
        ("a.txt", "sky\nroad\nsky", "line 3 repeats 'sky'; wanted different class names"),
        ("a.txt", "sky\n", "wanted at least 2 different class names, .*, got 1"),
        ("a.txt", "", "got 0"),
        ("a.json", "null", "wanted a JSON list of class names, got null"),
        ("a.json", '{"0": "sky"}', "wanted a JSON list"),
        ("a.json", '["sky", null, "road"]', "entry 2 is null; wanted a class name as text"),
        ("a.json", '["sky", 7]', "entry 2 is 7"),
        ("a.json", '["sky", ["road"]]', r'entry 2 is \["road"\]'),
        ("a.json", '["sky", " "]', "entry 2 is empty"),
    ],
)
def test_class_names_are_never_shifted(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_names(tmp_path / name)


def test_names_that_a_json_object_has_twice_are_refused(tmp_path):
    (tmp_path / "a.json").write_text('[{"a": 1, "b": 2}, {"a": 1, "a": 2}]')
    with pytest.raises(DataError, match=r"a\.json: broken JSON \('a' appears twice in one object\)"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    "line",
    [
        *("class", "Classes", "name,colour", "id;name", "label", "# class", "class_name", "name r g b", "Category"),
        "class id",
    ],
)
def test_a_heading_is_refused(tmp_path, line):
    file = tmp_path / "classes.txt"
    file.write_text(f"{line}\ncat\ndog\n")
    with pytest.raises(DataError, match=f"line 1, '{line}', is surely a heading, .*; remove it, or, if it is a class"):
        read_names(file)
    (tmp_path / "classes.json").write_text(json.dumps([line, "cat"]))
    assert read_names(tmp_path / "classes.json")[0] == line


@pytest.mark.parametrize("line", ["# my classes", "## animals", "// animals"])
def test_a_comment_is_refused(tmp_path, line):
    file = tmp_path / "classes.txt"
    file.write_text(f"cat\n{line}\ndog\n")
    with pytest.raises(DataError, match=f"line 2, '{line}', is surely a comment, but positions are labels; remove it"):
        read_names(file)
    (tmp_path / "classes.json").write_text(json.dumps([line, "cat"]))
    assert read_names(tmp_path / "classes.json")[0] == line


@pytest.mark.parametrize("line", ["red", "class 1", "classic", "id", "label a", "number plate", "1", "#1", "c#", "//"])
def test_a_name_is_no_heading(tmp_path, line):
    (tmp_path / "classes.txt").write_text(f"{line}\ncat\n")
    assert read_names(tmp_path / "classes.txt") == [line, "cat"]


@pytest.mark.parametrize(
    "lines",
    ["index,class_name,images\n0,cat,12\n1,dog,7\n", "name;count\ncat;12\ndog;7\n"],
)
def test_a_table_is_no_list(tmp_path, lines):
    file = tmp_path / "classes.txt"
    file.write_text(lines)
    heading = lines.split("\n")[0]
    with pytest.raises(DataError, match=f"line 1, '{heading}', surely heads the columns of a table; wanted the class"):
        read_names(file)
    # commas in names are no columns
    file.write_text("tench, Tinca tinca\nname tag, badge\ncar, auto, machine\n")
    assert len(read_names(file)) == 3

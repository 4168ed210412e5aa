import itertools
import time

import pytest

from involution.data.yaml import MAX_BYTES, YamlError, parse_yaml, read_yaml

PAIRS = list(itertools.pairwise("abcdefghijkl"))
BOMB = "a: &a [x, x]\n" + "".join(f"{now}: &{now} [{', '.join([f'*{before}'] * 9)}]\n" for before, now in PAIRS)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{now}: &{now} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n" for before, now in PAIRS
)


def test_plain_values():
    text = "a: {b: [1, 2e-3, .5, -1.5e+3, true, null, x]}\nc: 'str'\nd: 2020-01-01"
    assert parse_yaml(text) == {
        "a": {"b": [1, 0.002, 0.5, -1500.0, True, None, "x"]},
        "c": "str",
        "d": "2020-01-01",
    }
    assert parse_yaml(b"\xef\xbb\xbfa: \xc3\xa9") == {"a": "é"}
    assert parse_yaml("a: é".encode("utf-16")) == {"a": "é"}
    assert parse_yaml("[0, -0, 10, 0x10, '010']") == [0, 0, 10, 16, "010"]
    assert parse_yaml("[010, 10:00]", as_written=True) == ["010", "10:00"]
    assert parse_yaml("") is None


def test_repetition_by_name_works():
    assert parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 1, "y": 2},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, r"line 5: more than 20,000 values"),
        (MERGES, r"line 5: more than 20,000 values"),
        ("[" + "1," * 30_000 + "]", r"line 1: more than 20,000 values"),
        ("a: &a [*a]", r"\*a refers to nothing defined before it"),
        ("a: *b", r"\*b refers to nothing defined"),
        ("[" * 100_000, r"line 1: nested deeper than 32 levels"),
        ("? " * 100_000, r"nested deeper than 32 levels"),
        ("a" * (MAX_BYTES + 1), r"more than 256 kB"),
        ("a: \0b", r"control characters are not allowed"),
        (b"\xff", r"'utf-8' codec can't decode byte 0xff"),
        (
            "a:\n  epochs: 010",
            r"line 2, column 11: 010 would be 8 to YAML, which counts it in eights or sixties",
        ),
        ("every: 10:00", r"10:00 would be 600 to YAML"),
        ("{01: cat}", r"01 would be 1 to YAML"),
        ("a:\n  lr: .nan", r"line 2, column 7: \.nan is not a finite number"),
        ("lr: -.inf", r"-\.inf is not a finite number"),
        ("lr: 1e999", r"1e999 is not a finite number"),
        ("epochs: " + "9" * 5000, r"9{40} is not a whole number"),
        ("a: !!int x", r"x is not a whole number"),
        ("a: !!bool 7", r"7 is neither true nor false"),
        ("a: 1\nb: 2\na: 3", r"line 3, column 1: a appears twice"),
        ("? [a]\n: 1", r"a name was wanted before the colon"),
        ("a: !!python/object/apply:os.system [x]", r"settings have no values of the kind os.system"),
        ("a: !!binary aGk=", r"settings have no values of the kind binary"),
        ("a: !!timestamp 2020-01-01", r"settings have no values of the kind timestamp"),
        ("a: 1\n---\nb: 2", r"found another document"),
        ("a: [1", r"did not find expected ',' or '\]' \(while parsing a flow sequence from line 1, column 4\)"),
    ],
)
def test_anything_else_is_one_line_and_takes_no_time(text, message):
    start = time.process_time()
    with pytest.raises(YamlError, match=message) as told:
        parse_yaml(text)
    assert "\n" not in str(told.value)
    assert time.process_time() - start < 2


def test_without_libyaml_it_is_the_same(monkeypatch):
    import yaml

    from involution.data import yaml as ours

    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    ours._loader.cache_clear()
    try:
        test_plain_values()
        for text in (BOMB, MERGES, "[" * 100_000, "a: 1\na: 2", "a: .nan"):
            with pytest.raises(YamlError, match="line"):
                parse_yaml(text)
    finally:
        ours._loader.cache_clear()


def test_files(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("a: 1")
    assert read_yaml(file) == {"a": 1}
    file.write_text("a: [1\n")
    with pytest.raises(YamlError, match=r"a\.yaml: line 2, column 1: did not find"):
        read_yaml(file)
    with file.open("wb") as stream:
        stream.truncate(10**12)
    with pytest.raises(YamlError, match=r"a\.yaml: more than 256 kB"):
        read_yaml(file)
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        read_yaml(tmp_path / "none.yaml")

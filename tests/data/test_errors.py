import os

from involution.data.errors import DataError, in_words, nearest, printable


def test_names_are_shown_as_one_harmless_line():
    assert printable("Häuser 家.jpg") == "Häuser 家.jpg"
    assert printable("a\x1b[31mred\n\t") == r"a\x1b[31mred\n\t"
    assert printable(os.fsdecode(b"caf\xe9.jpg")) == r"caf\xe9.jpg"
    assert printable("txt.\u202egpj") == r"txt.\u202egpj"
    # twice is once, as an error that went through a loader process is made anew
    assert printable(printable("a\x1b")) == r"a\x1b"


def test_errors_are_printable():
    assert str(DataError(f"{os.fsdecode(bytes([0xE9]))}\x1b[2J: no such file")) == r"\xe9\x1b[2J: no such file"


def test_hints():
    assert nearest("digit", ["digits", "coco"]) == "; did you mean digits?"
    assert nearest("xyz", ["digits", "coco"]) == ""
    assert in_words([str(i) for i in range(12)], "numbers").endswith("8; 9; and 2 more")

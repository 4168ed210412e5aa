import hashlib
import os

import pytest

from involution.cli import main
from involution.serve.errors import ServeError
from involution.serve.settings import Settings, name_models, read_tokens


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a b=x.ckpt"], r"wanted NAME=PATH with a name of up to 64 letters.*'a b=x\.ckpt'"),
        (["=x.ckpt"], "wanted NAME=PATH"),
        (["a="], "wanted NAME=PATH"),
        (["runs/a/best.ckpt", "a.onnx"], "two networks would be named a; name them as NAME=PATH"),
        (["a=none.ckpt"], r"no such file: none\.ckpt"),
    ],
)
def test_names_that_can_not_be_are_refused(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/a").mkdir(parents=True)
    for name in ("runs/a/best.ckpt", "a.onnx"):
        (tmp_path / name).touch()
    with pytest.raises(ServeError, match=message):
        name_models(words)


def test_the_run_of_the_current_folder_has_its_name(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path / "photos")
    (tmp_path / "photos/last.ckpt").touch()
    assert name_models(["last.ckpt"]) == (("photos", "last.ckpt"),)


def test_a_file_with_an_equals_sign_in_its_name_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1.ckpt").touch()
    with pytest.raises(ServeError, match="wanted NAME=PATH"):
        name_models(["lr=0.1.ckpt"])
    assert name_models(["a=lr=0.1.ckpt"]) == (("a", "lr=0.1.ckpt"),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"port": 65536}, "wanted a port from 0 to 65535, got 65536"),
        ({"workers": 0}, "wanted --workers from 1 to 256, got 0"),
        ({"max_bytes": 0}, "wanted --max-bytes of 1 or more, got 0"),
        ({"batch_size": -1}, "wanted --batch-size of 1 or more, got -1"),
        ({"timeout": 0.0}, "wanted --timeout above 0, in seconds, got 0.0"),
        ({"timeout": float("nan")}, "wanted --timeout above 0"),
        ({"drain": -1.0}, "wanted --drain of 0 or more, got -1.0"),
        ({"runtime": "tvm"}, "wanted a runtime of auto, torch, aoti, onnx, openvino, got 'tvm'"),
        ({"origins": ("*",)}, r"wanted --origin such as https://example\.org, got '\*'"),
        ({"origins": ("https://a.org/",)}, "wanted --origin such as"),
    ],
)
def test_settings_that_can_not_be_are_refused(changes, message):
    with pytest.raises(ServeError, match=message):
        Settings((("a", "a"),), **changes)


def test_tokens_are_kept_as_hashes_alone(tmp_path):
    file = tmp_path / "tokens"
    file.write_text("0123456789abcdef\n\n  0123456789abcdeg \n")
    assert read_tokens(file) == tuple(
        hashlib.sha256(token).digest() for token in (b"0123456789abcdef", b"0123456789abcdeg")
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "wanted a token on each line"),
        (b"\n \n", "wanted a token on each line"),
        (b"x" * 70000, "of at most 65,536 bytes"),
        (b"0123456789abcdef\nshort\n", "token 2 has fewer than 16 characters"),
        ("0123456789abcdefé\n".encode(), "token 1 has fewer than 16 characters, or others than ASCII's"),
        (b"0123 456789 abcdef\n", "token 1 has"),
    ],
)
def test_tokens_that_protect_nothing_are_refused(tmp_path, content, message):
    file = tmp_path / "tokens"
    file.write_bytes(content)
    with pytest.raises(ServeError, match=message):
        read_tokens(file)


def test_a_token_file_that_is_missing_is_told(tmp_path):
    with pytest.raises(ServeError, match=r"none: No such file or directory"):
        read_tokens(tmp_path / "none")


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)]
)
def test_what_others_reach_is_known(host, local):
    assert Settings((("a", "a"),), host=host).is_local() == local


@pytest.mark.skipif(os.name != "posix", reason="needs rights of files")
@pytest.mark.parametrize(("mode", "said"), [(0o600, 0), (0o644, 1)])
def test_tokens_that_every_user_can_read_are_told(capsys, tmp_path, monkeypatch, mode, said):
    monkeypatch.setattr("involution.serve.supervisor.Supervisor.run", lambda self: True)
    file = tmp_path / "tokens"
    file.write_bytes(b"0123456789abcdef\n")
    file.chmod(mode)
    assert main(["serve", "rednet50", "--token-file", str(file)]) == 0
    assert capsys.readouterr().err.count("every user of this machine can read the tokens") == said

import errno
import os

import pytest

from involution.cli.failures import WrongUsage, exit_code
from involution.data.yaml import YamlError
from involution.extras import MissingExtra


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (SystemExit(), 0, ""),
        (SystemExit(3), 3, ""),
        (SystemExit("why"), 1, "involution: why\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (WrongUsage("wanted more"), 2, "involution: wanted more\n"),
        (MissingExtra("gradio"), 2, 'involution: gradio is not installed; pip install "involution[demo]"\n'),
        (ModuleNotFoundError("no", name="nowhere.x"), 2, "involution: nowhere is not installed; pip install nowhere\n"),
        (
            ImportError("libx.so: no such file", name="_C"),
            1,
            "involution: a library is installed but can't be used: li",
        ),
        (ImportError("libx.so: failed to map segment"), 1, "involution: not enough memory; try a smaller batch or im"),
        (YamlError("a\nb \x1b[31mc"), 2, "involution: a b \\x1b[31mc\n"),
        (MemoryError(), 1, "involution: not enough memory; try a smaller batch or image\n"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "involution: not enough memory"),
        (RuntimeError("can't start new thread"), 1, "involution: the system lets no more threads start (ulimit -u)\n"),
        (RuntimeError("x: Too many open files (24)"), 1, "involution: Too many open files\n"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a"), 2, "involution: a: No such file\n"),
        (FileNotFoundError("no such file: a"), 2, "involution: no such file: a\n"),
        (OSError(errno.ENOSPC, "No space left on device", "a"), 1, "involution: a: No space left on device\n"),
        (OSError(errno.EROFS, "Read-only file system", b"a\xff"), 2, "involution: a\\xff: Read-only file system\n"),
        (OSError(errno.EIO, "Input/output error"), 1, "involution: Input/output error\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_one_line_and_a_code(capsys, error, code, said):
    assert exit_code(error) == code
    told = capsys.readouterr().err
    assert told.startswith(said)
    assert said or not told
    assert told.count("\n") <= 1


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        RuntimeError("a bug"),
        KeyError("a bug"),
        ModuleNotFoundError("a bug", name="involution.nowhere"),
        ImportError("a bug", name="involution.ops"),
    ],
    ids=repr,
)
def test_faults_of_the_program_are_raised(error):
    with pytest.raises(type(error), match="a bug") as raised:
        exit_code(error)
    assert raised.value is error


def test_the_folder_that_was_deleted(capsys, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(FileNotFoundError, match="No such file") as error:
        os.getcwd()
    assert exit_code(error.value) == 2
    assert capsys.readouterr().err == "involution: the current folder was deleted; change to another one\n"

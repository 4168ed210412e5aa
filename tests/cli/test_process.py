"""The command as a process: its streams, Ctrl-C, limits of the system, and how soon it answers."""

import os
import signal
import subprocess
import sys
import time

import pytest

COMMAND = f"{sys.executable} -m involution"
FULL = "involution: can't write the output: No space left on device\n"
posix_only = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")


def shell(line, folder, **settings):
    done = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=120, **settings)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done


STREAMS = [
    ("--help", ">&-", 0, ""),
    ("--help", "<&- >&- 2>&-", 0, ""),
    ("--help", ">/dev/full", 1, FULL),
    ("--version", "2>/dev/full", 0, ""),
    ("clasify", "2>&-", 2, ""),
    ("clasify", "2>/dev/full", 2, ""),
    ("--help", "| true", 1, ""),
    # rich writes it, with torch in the process
    ("info", ">/dev/full", 1, FULL),
    ("info", ">&-", 0, ""),
    ("info", "<&- >&- 2>&-", 0, ""),
    ("info", "| true", 1, ""),
]


# seconds each; the streams are buffered alike in all commands
def also_unbuffered(case):
    return pytest.param(*case, "1", marks=[pytest.mark.slow] * (case[0] == "info" and case[3] != FULL))


@posix_only
@pytest.mark.parametrize(
    ("command", "streams", "code", "said", "unbuffered"),
    [*((*case, "") for case in STREAMS), *map(also_unbuffered, STREAMS)],
)
def test_streams_that_are_closed_or_full(tmp_path, command, streams, code, said, unbuffered):
    line = f"set -o pipefail; {COMMAND} {command} {streams}"
    done = shell(line, tmp_path, env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
    assert (done.returncode, done.stderr) == (code, said)


@posix_only
def test_a_closed_stream_is_not_taken_by_a_file(tmp_path):
    # what is printed would end in the first file that is opened
    code = "from involution.cli.process import as_process\n"
    code += "with as_process(), open('a', 'w') as f: print('x'); f.write('y')"
    done = shell(f'{sys.executable} -c "{code}" >&-', tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "a").read_text() == "y"


def test_what_the_encoding_lacks_is_shown_by_its_code(tmp_path):
    done = shell(
        f"{COMMAND} $'no\\xffne' $'\\e[31mred'",
        tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
    )
    assert done.returncode == 2
    assert "\x1b" not in done.stderr
    assert "no command 'no\\xffne'" in done.stderr.replace("\\udcff", "\\xff")


@posix_only
@pytest.mark.parametrize("command", ["info", "classify train --recipe digits", "app"])
def test_a_folder_that_was_deleted(tmp_path, command):
    (tmp_path / "gone").mkdir()
    done = shell(f"cd gone; rmdir ../gone; {COMMAND} {command}", tmp_path)
    assert done.returncode == 2
    assert done.stderr == "involution: the current folder was deleted; change to another one\n"
    assert shell(f"cd {tmp_path}; mkdir b; cd b; rmdir ../b; {COMMAND} --version", tmp_path).returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="limits differ")
@pytest.mark.parametrize("room", [600_000, 200, 1000])
def test_too_little_memory_is_one_line(tmp_path, room):
    """Too little for torch itself; or what is left beside it, in MB, is too little for the libraries that follow."""
    limit = room
    if room <= 1000:
        code = "import torch; print(next(l for l in open('/proc/self/status') if l.startswith('VmPeak')).split()[1])"
        limit = room * 1024 + int(shell(f'{sys.executable} -c "{code}"', tmp_path).stdout)
    done = shell(f"ulimit -v {limit}; {COMMAND} classify train --recipe digits", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("involution: not enough memory: the system allows")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="limits differ")
def test_too_little_processor_time_is_one_line(tmp_path):
    done = shell(f"ulimit -S -t 1; {COMMAND} classify train --recipe digits", tmp_path)
    assert done.returncode == 1
    assert done.stderr == "involution: the system allows no more processor time (ulimit -t)\n"


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["classify", "--help"], ["clasify"], ["classify"]])
def test_answers_that_need_no_network_come_at_once(words):
    code = f"""
import sys, time
from involution.__main__ import main
sys.argv = ["involution", *{words}]
try:
    main()
finally:
    print(time.process_time(), sorted({{"torch", "numpy", "jsonargparse"}} & set(sys.modules)), file=sys.stderr)
"""
    best = 1.0
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds, _, heavy = done.stderr.splitlines()[-1].partition(" ")
        assert heavy == "[]"
        best = min(best, float(seconds))
        if best < 0.3:
            return
    pytest.fail(f"took {best:.2f} s of processor time")


@posix_only
@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.1, 0.5, 1.5, 3.0])
def test_ctrl_c_at_any_moment(tmp_path, delay):
    """From the first line of the package on; what Python does before that ends in its own way."""
    words = ["involution", "classify", "train", "--recipe", "digits", "--data.workers", "1"]
    code = f"import sys; sys.argv = {words}; import involution; print('begun', flush=True)"
    code += "; from involution.__main__ import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout.readline() == "begun\n"
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    assert process.returncode == 130


RENAMED = """
def work(words):
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise RuntimeError("numpy could not be imported")
"""
IN_A_STRING = """
def work(words):
    exec("signal.raise_signal(signal.SIGINT)")
"""
SWALLOWED = """
class Callback:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def work(words):
    Callback()
    time.sleep(20)
"""


IN_AN_IMPORT = """
def work(words):
    return cli._call(("info",), [])

class Info:
    def add_arguments(parser):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("initialization failed")

sys.modules["involution.cli.info"] = Info
"""
TAKEN_FOR_A_FAILURE = """
def work(words):
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        return 1
"""


@pytest.mark.parametrize("work", [RENAMED, IN_A_STRING, SWALLOWED, IN_AN_IMPORT, TAKEN_FOR_A_FAILURE])
def test_an_interrupt_that_a_library_renames_or_swallows_counts(work):
    code = f"import signal, sys, time\nfrom involution import cli\n{work}\ncli._main = work\nsys.exit(cli.main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=15)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


ASKED = """
def work(words):
    signal.raise_signal(signal.{})
    time.sleep(20)
"""
# as a loader's process, which its parent ends
FORKED = """
import os

def work(words):
    if not (child := os.fork()):
        signal.raise_signal(signal.SIGTERM)
        os._exit(3)
    print(os.waitpid(child, 0)[1] == signal.SIGTERM)
    return 0
"""


@posix_only
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_what_asks_a_command_to_end_is_ctrl_c(name):
    code = f"import signal, sys, time\nfrom involution import cli\n{ASKED.format(name)}\ncli._main = work\n"
    code += "sys.exit(cli.main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=15)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    # nohup
    code = f"import signal\nsignal.signal(signal.{name}, signal.SIG_IGN)\n" + code.replace("time.sleep(20)", "return 0")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=15)
    assert (done.returncode, done.stderr) == (0, "")


@posix_only
def test_a_fork_of_a_command_ends_by_the_signal_itself():
    code = f"import signal, sys\nfrom involution import cli\n{FORKED}\ncli._main = work\nsys.exit(cli.main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=15)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


@pytest.mark.parametrize(
    ("argv", "words", "listens"),
    [
        (["-m"], ["python", "-m", "involution", "info"], True),
        (["-m"], ["python", "-m", "pytest", "involution"], False),
        (["/usr/bin/involution", "info"], ["python", "/usr/bin/involution", "info"], True),
        (["train.py"], ["python", "train.py"], False),
        ([""], ["python"], False),
        ([], [], False),
    ],
)
def test_only_the_command_listens_while_it_is_imported(argv, words, listens):
    code = f"import signal, sys; sys.argv = {argv}; sys.orig_argv = {words}; import involution"
    code += "; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{not listens}\n"


def test_an_import_is_not_left_by_an_exception(tmp_path):
    # in C++ that sets itself up it could abort the process
    (tmp_path / "library.py").write_text(
        "import signal\ntry:\n    signal.raise_signal(signal.SIGINT)\nexcept:\n    pass"
    )
    code = f"import sys\nfrom involution import cli\nsys.path.append({str(tmp_path)!r})\n"
    code += "def work(words):\n    import library\n    return 0\ncli._main = work\nsys.exit(cli.main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=15)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_other_lost_errors_are_still_told():
    code = f"import sys\nfrom involution import cli\n{SWALLOWED}\ncli._main = work\nsys.exit(cli.main())"
    code = code.replace("signal.raise_signal(signal.SIGINT)", "raise ValueError('a bug')").replace(
        "time.sleep(20)", "return 0"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=15)
    assert done.returncode == 0
    assert "ValueError: a bug" in done.stderr

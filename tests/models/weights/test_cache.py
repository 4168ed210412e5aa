"""Published weights on this machine: downloaded once, converted once, checked at every use."""

import errno
import json
import math
import os
import pickle
import subprocess
import sys

import pytest
import torch
from loopback import send
from published_files import entry, network, offer, paddle_state, pdparams, sha256
from safetensors import safe_open

from involution.models import load_checkpoint
from involution.models.errors import CheckpointError, WeightsError
from involution.models.weights import cache_folder, find, get, locate, named, present, published

FILE = "RedNet-nano_pretrained.pdparams"
READY = "rednet_nano.test_in1k.safetensors"


@pytest.fixture(scope="module")
def content():
    return pdparams(paddle_state(network().state_dict()))


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("INVOLUTION_WEIGHTS", raising=False)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def offered(home, server, content, monkeypatch):
    """A server that has the file, and the table that says so."""
    server.answers[f"/{FILE}"] = lambda handler, asked: send(handler, content)
    made = entry(f"{server.address}/{FILE}")
    offer(monkeypatch, made)
    return made


def left(folder):
    """What is in a folder, but for the locks."""
    return sorted(file.name for file in folder.iterdir() if file.suffix != ".lock")


def test_downloaded_once_and_converted_once(offered, server, home, content):
    file = get("rednet_nano")
    assert file == home / READY
    assert left(home) == [FILE, f"{FILE}.sha256", READY, f"{READY}.sha256"]
    assert (home / FILE).read_bytes() == content
    assert (home / f"{FILE}.sha256").read_text() == f"{sha256(content)}  {FILE}\n"
    with safe_open(file, "pt") as opened:
        told = opened.metadata()
    assert (told["weights"], told["source_sha256"]) == ("rednet_nano.test_in1k", sha256(content))
    ours, theirs = network(seed=4), network()
    load_checkpoint(ours, "rednet_nano")
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(ours(x), theirs(x))
    before = file.stat().st_mtime_ns
    assert get("rednet_nano.test_in1k") == file
    assert (len(server.asked), file.stat().st_mtime_ns) == (1, before)
    assert named(file) == named("rednet_nano") == offered
    assert present(offered) == file
    get("rednet_nano", again=True)
    assert len(server.asked) == 2


def test_the_hash_of_the_first_time_is_checked_at_every_use(offered, home):
    file = get("rednet_nano")
    changed = bytearray(file.read_bytes())
    changed[-1] ^= 1
    file.write_bytes(changed)
    for use in (lambda: get("rednet_nano"), lambda: load_checkpoint(network(), "rednet_nano")):
        with pytest.raises(WeightsError, match=rf"{READY} is not what it was when it came: its sha256 is .*, wanted "):
            use()
    assert get("rednet_nano", again=True) == file
    # the published file too, where it is converted once more
    file.unlink()
    (home / FILE).write_bytes(pdparams(paddle_state(network(seed=5).state_dict())))
    with pytest.raises(WeightsError, match=f"{FILE} is not what it was when it came"):
        get("rednet_nano")


class Command:
    def __reduce__(self):
        return os.system, ("exit 1",)


def without(name):
    state = paddle_state(network().state_dict())
    del state[name]
    return pdparams(state)


def with_nan():
    state = paddle_state(network().state_dict())
    state["fc.bias"][0] = math.nan
    return pdparams(state)


WRONG = {
    "a web page": (lambda content: b"<!DOCTYPE html><p>no file", "a web page saved in its place"),
    "truncated": (lambda content: content[: len(content) // 2], "is damaged"),
    "code": (
        lambda content: pickle.dumps({"fc.weight": Command()}),
        r"nothing of it was run: its pickle asks for posix",
    ),
    "not arrays": (lambda content: pickle.dumps({"fc.weight": "ones"}, 2), "holds more than tensors by name"),
    "an entry missing": (lambda content: without("layer1.0.bn1.weight"), "1 missing .layer1.0.bn1.weight"),
    "other classes": (
        lambda content: pdparams(paddle_state(network(num_classes=10).state_dict())),
        "wanted a rednet_nano for 1000 classes and 3 channels, got a rednet_nano for 10 and 3",
    ),
    "another network": (
        lambda content: pdparams(paddle_state(network(num_classes=7, stem_kernel=5).state_dict())),
        "no registered model has",
    ),
    "NaN": (lambda content: with_nan(), "values that are infinite or NaN"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_refused_and_nothing_stays(kind, offered, server, home, content):
    make, message = WRONG[kind]
    server.answers[f"/{FILE}"] = lambda handler, asked: send(handler, make(content))
    with pytest.raises(WeightsError, match=f"what came from http.*/{FILE} is refused and was deleted: .*{message}"):
        get("rednet_nano")
    assert left(home) == []


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_every_protocol_of_the_pickle(protocol, offered, server):
    content = pdparams(paddle_state(network().state_dict()), protocol)
    server.answers[f"/{FILE}"] = lambda handler, asked: send(handler, content)
    ours = network(seed=4)
    assert load_checkpoint(ours, get("rednet_nano")).entries == len(network().state_dict())


def test_a_hash_that_is_known(offered, home, content, monkeypatch):
    offer(monkeypatch, entry(offered.address, sha256="0" * 64))
    with pytest.raises(WeightsError, match=f"its sha256 is {sha256(content)}, wanted 0000"):
        get("rednet_nano")
    assert left(home) == []
    offer(monkeypatch, entry(offered.address, sha256=sha256(content)))
    assert get("rednet_nano").is_file()
    # a table that learns the hash later refuses what it was not
    offer(monkeypatch, entry(offered.address, sha256="0" * 64))
    with pytest.raises(WeightsError, match=r"made from another file than was published\. `involution weights get"):
        get("rednet_nano")


def test_a_folder_of_files(home, content, tmp_path, monkeypatch):
    offer(monkeypatch, entry())
    folder = tmp_path / "weights"
    monkeypatch.setenv("INVOLUTION_WEIGHTS", str(folder))
    with pytest.raises(WeightsError, match=r"INVOLUTION_WEIGHTS is .*weights, which is no folder"):
        get("rednet_nano")
    folder.mkdir()
    wanted = f"{FILE} is not in {folder}, the folder of INVOLUTION_WEIGHTS. By hand: download http.*{FILE} on a machine"
    with pytest.raises(WeightsError, match=wanted):
        get("rednet_nano")
    (folder / FILE).write_bytes(content)
    assert get("rednet_nano") == home / READY
    # another file there is another file
    first = (home / READY).read_bytes()
    (folder / FILE).write_bytes(pdparams(paddle_state(network(seed=5).state_dict())))
    assert get("rednet_nano").read_bytes() != first
    # what was made of it and broke since is made anew when asked to
    (home / READY).write_bytes(first)
    with pytest.raises(WeightsError, match="is not what it was when it came"):
        get("rednet_nano")
    assert get("rednet_nano", again=True).read_bytes() != first
    assert get("rednet_nano") == home / READY
    # nothing is written to it, and what was converted already is used as it is
    assert left(folder) == [FILE]
    os.replace(home / READY, folder / READY)
    assert get("rednet_nano") == folder / READY == present(entry())
    (folder / f"{READY}.sha256").write_text("0" * 64)
    with pytest.raises(WeightsError, match="is not what it was when it came"):
        get("rednet_nano")


def test_another_address(home, server, content, monkeypatch):
    offer(monkeypatch, entry("http://127.0.0.1:9/RedNet-nano_pretrained.pdparams"))
    server.answers[f"/mirror/{FILE}"] = lambda handler, asked: send(handler, content)
    monkeypatch.setenv("INVOLUTION_WEIGHTS", f"{server.address}/mirror/")
    assert get("rednet_nano").is_file()


def test_without_a_network_it_says_what_to_do(home, content, monkeypatch):
    offer(monkeypatch, entry())
    with pytest.raises(WeightsError) as told:
        get("rednet_nano")
    assert str(told.value) == (
        "rednet_nano.test_in1k can't be downloaded: no connection to 127.0.0.1:9 (Connection refused). By hand: "
        f"download http://127.0.0.1:9/{FILE} on a machine with internet and copy {FILE} to {home}, or to a folder that "
        f"INVOLUTION_WEIGHTS=FOLDER names; {READY}, which `involution weights get rednet_nano` makes there, does as "
        "well"
    )
    # and that works
    (home / FILE).write_bytes(content)
    assert get("rednet_nano") == home / READY


def test_names(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert published("rednet50").name == "rednet50.paddle_in1k"
    assert published("./rednet50") is None
    with pytest.raises(WeightsError, match=r"no weights are published as 'rednet5'; did you mean rednet50\?"):
        find("rednet5")
    with pytest.raises(WeightsError, match=r"no weights are published as 'x' \(there are rednet26, rednet38"):
        find("x")
    with pytest.raises(
        WeightsError, match=r"no such checkpoint: rednet5; did you mean the published weights red.*50\?"
    ):
        locate("rednet5")
    # a file goes first, a folder does not
    (tmp_path / "rednet50").write_text("mine")
    assert locate("rednet50").read_text() == "mine"
    with pytest.raises(CheckpointError, match=r"no such checkpoint: best\.ckpt"):
        load_checkpoint(network(), "best.ckpt")


def test_the_folder_of_downloads_can_not_be_made(home, monkeypatch, tmp_path):
    offer(monkeypatch, entry())
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(NotADirectoryError, match="TORCH_HOME chooses another place for downloads") as told:
        get("rednet_nano")
    assert told.value.filename == str(cache_folder())


SCRIPT = """
import json, os, resource, sys
sys.path.insert(0, sys.argv[1])
from published_files import entry
from involution.models.weights import get, table
table.PUBLISHED = (entry(sys.argv[2]),)
for home, count, limit in json.loads(sys.argv[3]):
    os.environ["TORCH_HOME"] = home
    pipes = []
    for _ in range(count):
        ours, theirs = os.pipe()
        if not os.fork():
            said = "nothing"
            try:
                if limit:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                said = str(get("rednet_nano"))
            except OSError as error:
                said = str(error)
            finally:
                os.write(theirs, said.encode())
                os._exit(0)
        os.close(theirs)
        pipes.append(ours)
    print(json.dumps([open(ours).read() for ours in pipes]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs copies of a process")
def test_eight_processes_and_full_disks(offered, server, content, tmp_path):
    server.answers[f"/{FILE}"] = lambda handler, asked: send(handler, content, pause=0.03)
    # a file may become half as large as this one; then this one fits, but not what it is converted to
    limits = {"eight": (8, 0), "download": (1, len(content) // 2), "convert": (1, len(content))}
    cases = [(str(tmp_path / name), *limit) for name, limit in limits.items()]
    tests = os.path.dirname(sys.modules["published_files"].__file__)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tests, offered.address, json.dumps(cases)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    eight, (download,), (convert,) = map(json.loads, done.stdout.splitlines())
    folders = [tmp_path / name / "hub" / "checkpoints" for name in limits]
    assert eight == [str(folders[0] / READY)] * 8
    assert left(folders[0]) == [FILE, f"{FILE}.sha256", READY, f"{READY}.sha256"]
    assert len(server.asked) == 3
    assert download == (
        f"[Errno {errno.EFBIG}] File too large; TORCH_HOME chooses another place for downloads: '{folders[1]}'"
    )
    assert convert.startswith(f"[Errno {errno.EFBIG}] File too large: '{folders[2]}")
    assert [left(folder) for folder in folders[1:]] == [[], []]

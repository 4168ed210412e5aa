"""Large predictions by Ray Data: the same rows, errors in one line, no port beyond the loopback, nothing left."""

import json
import os
import subprocess
import sys
import time
from operator import itemgetter
from pathlib import Path

import pytest
from many_images import checkpoint, png, rows, shard, table
from pictures import picture

from involution.engine.predictor import PredictError
from involution.predict import Workers
from involution.predict.inputs import find_inputs
from involution.predict.workers import PartWorker, Work, _share

TASKS = ("classify", "detect", "segment")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images of every kind, broken ones among them, and a network for each task."""
    place = tmp_path_factory.mktemp("ray")
    (place / "photos").mkdir()
    for seed in range(3):
        picture(seed).save(place / "photos" / f"{seed}.png")
    (place / "photos" / "3.png").write_text("no image")
    table(place / "a.parquet", {"path": ["photos/1.png", "photos/none.png", None]})
    table(place / "b.parquet", {"bytes": [png(4), b"", png(5)]}, row_group_size=1)
    shard(place / "c.tar", {f"{seed}.png": png(seed) for seed in range(6, 9)})
    for task in TASKS:
        checkpoint(task, place / f"{task}.ckpt")
    return place


# one process with one cluster, since a start takes seconds
DRIVER = """
import json, os, sys
from contextlib import redirect_stdout
from pathlib import Path

import torch
from processes import descendants

from involution.predict import Workers, predict_many
from involution.predict.workers import WorkerError, _connected, _WithoutRay


def listening(pids):
    sockets = set()
    for pid in pids:
        try:
            for number in os.listdir(f"/proc/{pid}/fd"):
                sockets.add(os.readlink(f"/proc/{pid}/fd/{number}"))
        except OSError:
            pass
    found = []
    for name in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            words = line.split()
            if f"socket:[{words[9]}]" in sockets and (name.startswith("udp") or words[3] == "0A"):
                found.append([name, words[1].partition(":")[0]])
    return found


torch.set_num_threads(1)
place, tasks = Path(sys.argv[1]), sys.argv[2:]
images = [place / name for name in ("photos", "a.parquet", "b.parquet", "c.tar")]
call = {"images": images, "part_rows": 4, "format": "jsonl"}
for task in tasks:
    predict_many(**call, checkpoint=place / f"{task}.ckpt", folder=place / f"{task}-process")
ray_workers = Workers("ray", count=2)
told = {"done": {}}
with redirect_stdout(_WithoutRay(sys.stdout)), _connected(ray_workers, 0):
    for task in tasks:
        network = place / f"{task}.ckpt"
        found = predict_many(**call, checkpoint=network, folder=place / f"{task}-ray", workers=ray_workers)
        told["done"][task] = [found.images, found.parts, found.done, sum(found.errors.values())]
    told["usage"] = os.environ["RAY_USAGE_STATS_ENABLED"]
    told["processes"] = sorted(descendants(os.getpid()) - {os.getpid()})
    told["listening"] = listening(descendants(os.getpid()))
    import ray

    told["folder"] = ray._private.worker._global_node.get_session_dir_path()
    # the folder of the parts goes away in the middle
    class Gone(Exception): pass
    def advance(done, count):
        if done == 0:
            os.rename(place / "gone", place / "moved")
    from involution.predict import Progress
    try:
        predict_many(**call, checkpoint=place / "classify.ckpt", folder=place / "gone", workers=ray_workers,
                     progress=Progress(advance=advance))
    except Exception as error:
        told["gone"] = [type(error).__name__, str(error)]
print(json.dumps(told))
"""


def drive(place, *tasks):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": "127.0.0.1:1"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    command = [sys.executable, "-c", DRIVER, str(place), *tasks]
    done = subprocess.run(command, env=environment, timeout=600, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def told(place):
    return drive(place, "classify")


def assert_both_engines_wrote_the_same(task, place, told):
    assert told["done"][task] == [13, 4, 13, 4]
    one, other = place / f"{task}-process", place / f"{task}-ray"
    names = [f"part-{number:06}.jsonl" for number in range(4)]
    assert sorted(file.name for file in one.iterdir()) == ["_manifest.jsonl", *names]
    assert sorted(file.name for file in other.iterdir()) == ["_manifest.jsonl", *names]
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert len(rows(other)) == 13
    job, *parts = map(json.loads, (one / "_manifest.jsonl").read_text().splitlines())
    other_job, *other_parts = map(json.loads, (other / "_manifest.jsonl").read_text().splitlines())
    for part in (*parts, *other_parts):
        assert part.pop("modified")
    assert (job, parts) == (other_job, sorted(other_parts, key=itemgetter("part")))


def test_both_engines_write_the_same(place, told):
    assert_both_engines_wrote_the_same("classify", place, told)


# of a part, a worker makes what a single process makes of it: only the network is another one
@pytest.mark.slow
def test_both_engines_write_the_same_of_boxes_and_maps(place):
    told = drive(place, "detect", "segment")
    for task in ("detect", "segment"):
        assert_both_engines_wrote_the_same(task, place, told)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_no_port_is_open_beyond_the_loopback(told):
    assert len(told["processes"]) > 3
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert len(told["listening"]) > 3
    assert [where for where in told["listening"] if where[1] not in loopback] == []
    assert told["usage"] == "0"


def test_nothing_is_left_of_the_cluster(told):
    assert not Path(told["folder"]).exists()
    assert not Path(told["folder"]).parent.exists()
    # the last of them end a moment after their parent where the machine is busy
    end = time.monotonic() + 30
    while (left := [pid for pid in told["processes"] if Path(f"/proc/{pid}").exists()]) and time.monotonic() < end:
        time.sleep(0.1)
    assert left == []


def test_what_a_worker_can_not_do_ends_the_work(place, told):
    kind, said = told["gone"]
    assert kind in ("WorkerError", "FileNotFoundError", "FolderInUse")
    assert str(place / "gone") in said


def worker(place, folder, **more):
    settings = {"checkpoint": str(place / "classify.ckpt"), "sha256": "", "folder": folder, "format": "jsonl"}
    return PartWorker(Work(**{**settings, "options": {}, **more}), "cpu")


@pytest.fixture
def part(place):
    return {"part": json.dumps(find_inputs([place / "photos"]).parts(10)[0].to_dict())}


def test_a_checkpoint_that_changes_meanwhile_is_refused(place, part, tmp_path):
    answer = worker(place, tmp_path)(part)
    assert answer == {"line": "", "error": f"{place}/classify.ckpt: it changed since the prediction began"}
    assert list(tmp_path.iterdir()) == []


def test_a_part_whose_worker_dies_again_and_again_ends_the_work(place, part, tmp_path):
    # one for each worker that began it and did not come back
    (tmp_path / ".part-000000.tries.tmp").write_text("...")
    answer = worker(place, tmp_path)(part)
    assert answer["error"].startswith("part 0, images 0 to 3: its worker died 3 times, perhaps for want of memory; try")
    assert list(tmp_path.iterdir()) == []


def test_a_bug_is_no_message(place, part, tmp_path, monkeypatch):
    broken = worker(place, tmp_path)
    monkeypatch.setattr(broken, "_ready", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        broken(part)


@pytest.mark.parametrize(
    ("workers", "there", "share"),
    [
        (Workers("ray"), {"CPU": 8.0}, (8, False)),
        (Workers("ray", count=3), {"CPU": 8.0, "memory": 1e9}, (3, False)),
        (Workers("ray"), {"CPU": 8.0, "GPU": 2.0}, (2, True)),
        (Workers("ray", "cpu"), {"CPU": 8.0, "GPU": 2.0}, (8, False)),
        (Workers("ray", "cuda"), {"CPU": 1.0, "GPU": 2.0}, (1, True)),
        (Workers("ray"), {"CPU": 0.5}, (1, False)),
    ],
)
def test_a_core_or_a_gpu_for_each_worker(workers, there, share):
    assert _share(workers, there) == share


def test_more_workers_than_there_is_room_for_are_refused():
    with pytest.raises(PredictError, match="wanted 3 workers, but Ray has room for 2, with a core and a GPU each"):
        _share(Workers("ray", count=3), {"CPU": 8, "GPU": 2})
    with pytest.raises(PredictError, match="wanted device cuda, but Ray finds no GPU; use --device cpu"):
        _share(Workers("ray", "cuda"), {"CPU": 8})

"""Large predictions that are killed and interrupted, lose workers, or go on for long: `make test-faults`."""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from many_images import checkpoint, lines, png, rows, table
from processes import descendants

pytestmark = [pytest.mark.faults, pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")]
ENGINES = {"process": [], "ray": ["--engine", "ray", "--workers", "2"]}
IMAGES, ROWS = 1600, 50


def make(folder, count):
    """Return the words of a command on so many small images, some of them broken."""
    contents = [png(seed) for seed in range(7)] + [b"no image"]
    table(folder / "images.parquet", {"bytes": [contents[number % 8] for number in range(count)]}, row_group_size=100)
    words = ["classify", "predict", str(folder / "images.parquet"), "--parts-format", "jsonl", "--device", "cpu"]
    return [*words, "--checkpoint", str(checkpoint("classify", folder / "c.ckpt")), "--part-rows"]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return [*make(tmp_path_factory.mktemp("images"), IMAGES), str(ROWS)]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "rows"
    assert start(words, folder).wait(600) == 0
    found = rows(folder)
    assert [bool(row["error"]) for row in found] == [number % 8 == 7 for number in range(IMAGES)]
    return found


def start(words, folder, engine="process", **options):
    command = [sys.executable, "-m", "involution", *words, "--parts", str(folder), *ENGINES[engine]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, start_new_session=True, text=True, **options)


def finished(folder):
    """Return which parts the record says are finished, even while it is written."""
    try:
        content = (folder / "_manifest.jsonl").read_text()
    except FileNotFoundError:
        return set()
    return {line for line in content.split("\n")[1:-1] if line.endswith("}")}


def wait_for_parts(folder, count, process):
    end = time.monotonic() + 300
    while len(finished(folder)) < count and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.05)


def running(pid):
    """Return what a process is, unless it is gone or only waits to be forgotten."""
    try:
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        return None
    # Ray's own agents notice a little later
    agent = "(ray::DashboardA" in name or "(ray::RuntimeEnv" in name
    return None if rest.split()[0] in "ZX" or agent else name


def times(folder):
    return {file.name: file.stat().st_mtime_ns for file in folder.glob("part-*")}


@pytest.mark.parametrize(("engine", "kills"), [("process", 5), ("ray", 2)])
def test_killed_at_any_time_it_repeats_and_loses_nothing(engine, kills, words, whole, tmp_path):
    folder, chance = tmp_path / "rows", random.Random(7)
    for _ in range(kills):
        before, kept = finished(folder), times(folder) if folder.exists() else {}
        process = start(words, folder, engine, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_parts(folder, len(before) + 1, process)
        time.sleep(chance.random() * 0.3)
        below = descendants(process.pid)
        process.kill()
        process.wait()
        end = time.monotonic() + 60
        # Ray's processes end when the command does
        while left := list(filter(None, map(running, below))):
            assert time.monotonic() < end, left
            time.sleep(0.1)
        assert before <= finished(folder)
        after = times(folder)
        assert all(after[name] == when for name, when in kept.items() if any(name in line for line in before))
    assert start(words, folder, engine).wait(600) == 0
    assert rows(folder) == whole
    assert len(lines(folder)[1]) == IMAGES // ROWS
    assert [file.name for file in folder.glob(".*")] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
@pytest.mark.parametrize("engine", ENGINES)
def test_ctrl_c_leaves_whole_parts_and_says_how_to_go_on(engine, number, words, whole, tmp_path):
    folder = tmp_path / "rows"
    process = start(words, folder, engine, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for_parts(folder, 3, process)
    if number == signal.SIGINT:
        # as a terminal does: to all processes
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    out, err = process.communicate(timeout=120)
    count = len(finished(folder))
    assert (process.returncode, out) == (130, "")
    said = re.fullmatch(rf"{folder}: (\d+) of 32 parts are finished; the same command goes on\ninterrupted\n", err)
    assert said, err
    # it may come between the line and the count
    assert count - 1 <= int(said[1]) <= count
    assert start(words, folder, engine).wait(600) == 0
    assert rows(folder) == whole


def test_a_worker_that_is_killed_costs_nothing(words, whole, tmp_path):
    folder = tmp_path / "rows"
    process = start(words, folder, "ray", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    for parts in (2, 8):
        wait_for_parts(folder, parts, process)
        names = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in descendants(process.pid)}
        workers = [pid for pid, name in names.items() if name.startswith("ray::MapWorker")]
        os.kill(random.Random(parts).choice(workers), signal.SIGKILL)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out
    assert rows(folder) == whole


class Memory(threading.Thread):
    """MiB that a process and all below it have, sampled while it works."""

    def __init__(self, pid, folder):
        super().__init__(daemon=True)
        self.pid, self.folder, self.samples = pid, folder, []

    def run(self):
        while (pids := descendants(self.pid)) and Path(f"/proc/{self.pid}").exists():
            total = 0
            for pid in pids:
                try:
                    total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                except (OSError, IndexError):
                    continue
            self.samples.append((len(finished(self.folder)), total * os.sysconf("SC_PAGE_SIZE") / 2**20))
            time.sleep(1)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_memory_is_flat_over_a_hundred_thousand_images(engine, tmp_path):
    folder = tmp_path / "rows"
    process = start([*make(tmp_path, 100_000), "1000"], folder, engine, stdout=subprocess.DEVNULL)
    memory = Memory(process.pid, folder)
    memory.start()
    assert process.wait(3600) == 0
    memory.join(30)
    # while all work: from a fifth of the parts on, and before the last ones
    used = [mib for parts, mib in memory.samples if 20 <= parts < 95]
    half = len(used) // 2
    print(f"{engine}: {min(used):.0f} to {max(used):.0f} MiB, first half {max(used[:half]):.0f}, {len(used)} samples")
    assert max(used[half:]) < 1.03 * max(used[:half]), used
    assert len(rows(folder)) == 100_000

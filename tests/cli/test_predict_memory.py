"""The memory of a prediction is the same after the first images and after ten thousand."""

import json
import os
import subprocess
import sys

import pytest
from many_images import checkpoint
from pictures import picture

WORKER = """
import json, sys
import torch
torch.set_num_threads(1)
from involution.cli import main
from involution.engine.predictor import Predictor

step, words = int(sys.argv[1]), sys.argv[3:]
seen, original = [], Predictor.stream

def stream(self, images, **options):
    for number, result in enumerate(original(self, images, **options), 1):
        yield result
        if number % step == 0:
            with open("/proc/self/statm") as file:
                seen.append(int(file.read().split()[1]) * 4096 / 2**20)

Predictor.stream = stream
code = main(words)
with open(sys.argv[2], "w") as file:
    json.dump({"code": code, "rss": seen}, file)
"""


def memory(task, tmp_path, count, step, size):
    """MiB that the process has after every so many images, and what it wrote."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(4):
        picture(seed, size).save(photos / f"{seed:05}.png")
    for number in range(4, count):
        os.link(photos / f"{number % 4:05}.png", photos / f"{number:05}.png")
    script, told = tmp_path / "worker.py", tmp_path / "told.json"
    script.write_text(WORKER)
    output = tmp_path / ("maps" if task == "segment" else "found.json")
    words = [task, "predict", str(photos), "--checkpoint", str(checkpoint(task, tmp_path / "best.ckpt"))]
    words += ["--output", str(output), "--device", "cpu"]
    command = [sys.executable, str(script), str(step), str(told), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, timeout=3600, check=True, stdout=subprocess.DEVNULL)
    found = json.loads(told.read_text())
    assert found["code"] == 0
    assert len(found["rss"]) == count // step
    if task == "classify":
        assert len(json.loads(output.read_text())["results"]) == count
    elif task == "detect":
        assert len({item["image_id"] for item in json.loads(output.read_text())}) == count
    else:
        assert len(list(output.glob("*.png"))) == count
    return found["rss"]


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from /proc")
@pytest.mark.parametrize("task", ["classify", "detect", "segment"])
class TestMemory:
    def test_stays_flat_over_hundreds_of_images(self, task, tmp_path):
        rss = memory(task, tmp_path, 200, 50, (256, 256))
        # the images alone would be 19 MiB, their label maps 6
        assert rss[-1] - rss[1] < 4, rss

    @pytest.mark.slow
    def test_stays_flat_over_ten_thousand_images(self, task, tmp_path):
        rss = memory(task, tmp_path, 10_000, 1_000, (32, 24))
        assert max(rss) - rss[0] < 8, rss

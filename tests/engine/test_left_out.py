"""Images that pass the check and break while loading: left out where the user says so, else one line."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile

import pytest
import torch
from generated import add, image_folder, shards
from PIL import Image

from involution.cli import main
from involution.data.images import ImageError
from involution.data.scenes import make_digit_scenes
from involution.engine import ClassifyConfig, DetectConfig, SegmentConfig, evaluate, train
from involution.engine.config import RunConfig
from involution.engine.loader import EvalBatches, EvalItems, TrainBatches, TrainItems, make_loader

TINY = {"trainer.epochs": 1, "data.batch_size": 4, "data.workers": 0, "schedule.warmup_epochs": 0}
CLASSIFY = {"model.name": "test_resnet", "data.image_size": 16, "data.cache": False, **TINY}
# of each split, by their place in it: two that follow one another fill a batch of two
BROKEN = {"train": (1, 5), "val": (2, 3)}


def truncate(file):
    # the headers of small pictures are most of them
    file.write_bytes(file.read_bytes()[:-100])


def damage(root, folders):
    """Cut image files in half, which their headers do not show; the files by split."""
    found = {}
    for split, places in BROKEN.items():
        files = sorted(file for file in (root / folders[split]).rglob("*.*") if file.suffix in (".png", ".jpg"))
        found[split] = [files[place] for place in places]
        for file in found[split]:
            truncate(file)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole data set of each task, and the class of its settings."""
    root = tmp_path_factory.mktemp("whole")
    image_folder(root / "pets", splits=("train", "val"), per_class=4)
    make_digit_scenes(root / "scenes", {"train": 8, "val": 6})
    return root


SETS = {
    "classify": ("imagefolder", "pets", ClassifyConfig, "digits", CLASSIFY),
    "detect": ("coco", "scenes", DetectConfig, "digit-scenes", {**TINY, "trainer.precision": "32-true"}),
    "segment": ("masks", "scenes", SegmentConfig, "digit-scenes", {**TINY, "data.allow_empty": True}),
}


def settings(task, root, output, **changes) -> RunConfig:
    kind, folder, cls, recipe, fast = SETS[task]
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    own = {"output": str(output), "name": "run", "data.spec": f"{kind}:{root / folder}", "data.on_problem": "skip"}
    return cls.load(recipe, {**fast, **own, **changes})


def without_broken(root, task, broken):
    """The same data set without the broken images of val."""
    for file in broken["val"]:
        file.unlink()
        if task == "segment":
            (root / "scenes" / "labels" / "val" / file.name).unlink()
    if task == "detect":
        file = root / "scenes" / "annotations" / "instances_val.json"
        content = json.loads(file.read_text())
        names = {item.name for item in broken["val"]}
        gone = {item["id"] for item in content["images"] if item["file_name"] in names}
        content["images"] = [item for item in content["images"] if item["id"] not in gone]
        content["annotations"] = [item for item in content["annotations"] if item["image_id"] not in gone]
        file.write_text(json.dumps(content))


@pytest.mark.parametrize("task", SETS)
def test_broken_images_are_left_out_named_once_and_not_counted(task, whole, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(whole, root)
    broken = damage(root, {split: f"{SETS[task][1]}/{split}" for split in BROKEN})
    result = train(settings(task, root, tmp_path, trainer__epochs=2), progress=False)
    assert len(result.history) == 2
    said = capsys.readouterr().err
    for file in (*broken["train"], *broken["val"]):
        assert said.count(f"{file}: broken or truncated image") == 1
    kept = json.loads((result.log_dir / "data.json").read_text())["findings"]["problems"]
    assert len(kept) == 4
    # batches of two: one of them is wholly broken
    figures = evaluate(result.last, split="val", batch_size=2, on_problem="skip")
    assert figures.num_images == (10 if task == "classify" else 4)
    assert capsys.readouterr().err.count("left out while loading, 2 images: ") == 1
    without_broken(root, task, broken)
    clean = evaluate(result.last, split="val", batch_size=2)
    assert figures.num_images == clean.num_images
    assert str(figures.to_dict()) == str(clean.to_dict())


@pytest.mark.parametrize("task", SETS)
@pytest.mark.parametrize("workers", [0, 2])
def test_without_leave_it_is_one_line_that_names_the_file(task, workers, whole, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(whole, root)
    folder = SETS[task][1]
    broken = damage(root, {split: f"{folder}/{split}" for split in BROKEN})["train"]
    config = settings(task, root, tmp_path, data__on_problem="refuse", data__workers=workers)
    words = [task, "train", "--recipe", SETS[task][3], "--output", str(tmp_path), "--name", "run"]
    words += [f"--{key}={value}" for key, value in SETS[task][4].items() if key != "data.workers"]
    assert main([*words, "--data.spec", config.data.spec, "--data.workers", str(workers)]) == 1
    said = capsys.readouterr().err
    assert re.search(rf"involution: ({broken[0]}|{broken[1]}): broken or truncated image \(.*\)\n$", said)
    assert "Traceback" not in said


def test_shards(tmp_path, capsys):
    root = shards(tmp_path / "shards", per_shard=12)
    config = ClassifyConfig.load(
        "digits",
        {
            **CLASSIFY,
            "output": str(tmp_path),
            "name": "run",
            "data.spec": f"webdataset:{root}",
            "data.on_problem": "skip",
            "data.workers": 2,
        },
    )
    for name, key in (("train-000", "00003"), ("val-000", "20004")):
        with tarfile.open(root / f"{name}.tar") as archive:
            members = {member.name: archive.extractfile(member).read() for member in archive}
        members[f"{key}.jpg"] = members[f"{key}.jpg"][:-100]
        with tarfile.open(root / f"{name}.tar", "w") as archive:
            for member, content in members.items():
                add(archive, member, content)
    result = train(config, progress=False)
    said = capsys.readouterr().err
    assert said.count("train-000.tar:00003: ") == 1
    assert said.count("val-000.tar:20004: ") == 1
    figures = evaluate(result.last, split="val", on_problem="skip", workers=1)
    assert (figures.num_images, int(figures.confusion.sum())) == (11, 11)
    with pytest.raises(ImageError, match=r"val-000\.tar:20004: broken or truncated image"):
        evaluate(result.last, split="val")


def test_nothing_left_to_measure_on_or_to_train_on(whole, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(whole, root)
    result = train(settings("classify", root, tmp_path), progress=False)
    for file in (root / "pets" / "val").rglob("*.jpg"):
        truncate(file)
    with pytest.raises(ImageError, match=r"none of the 12 images to measure on can be read: .*\.jpg: broken"):
        evaluate(result.last, split="val", on_problem="skip")
    for file in (root / "pets" / "train").rglob("*.jpg"):
        truncate(file)
    with pytest.raises(ImageError, match=r"none of the 12 training images can be read: .*\.jpg: broken"):
        train(settings("classify", root, tmp_path, name="other"), progress=False)


def test_an_image_that_a_detector_can_not_resize(whole, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(whole, root)
    for split in BROKEN:
        Image.new("RGB", (9000, 2)).save(root / "scenes" / split / "000000.png")
        file = root / "scenes" / "annotations" / f"instances_{split}.json"
        content = json.loads(file.read_text())
        content["images"][0] |= {"width": 9000, "height": 2}
        content["annotations"] = [item for item in content["annotations"] if item["image_id"] != 1]
        file.write_text(json.dumps(content))
    with pytest.raises(ImageError, match=r"train/000000\.png: 9000 x 2 pixels are too narrow: with its longer side at"):
        train(settings("detect", root, tmp_path, data__on_problem="refuse"), progress=False)
    result = train(settings("detect", root, tmp_path, name="skips"), progress=False)
    said = capsys.readouterr().err
    assert said.count("000000.png: 9000 x 2 pixels are too narrow") == 2
    assert evaluate(result.last, on_problem="skip").num_images == 5


class Numbers(torch.utils.data.Dataset):
    """Numbers, of which some can't be read."""

    def __init__(self, count, broken):
        self.count, self.broken = count, broken

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.broken:
            raise ImageError(f"number {index}: broken")
        return torch.tensor(float(index)), index


def plain(image, target):
    return image, target


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_keep_their_sizes_and_depend_on_the_image_alone(workers):
    def batches(rank, world, seen):
        items = TrainItems(Numbers(12, {3, 4, 7}), plain, 0)
        return list(make_loader(items, TrainBatches(12, 4, 1, 0, rank, world), workers, False, None, seen))

    seen: list[str] = []
    one = batches(0, 1, seen)
    assert [len(labels) for _, labels in one] == [4, 4, 4]
    assert set(seen) == {"number 3: broken", "number 4: broken", "number 7: broken"}
    assert not {3, 4, 7} & {int(label) for _, labels in one for label in labels}
    two = [batches(rank, 2, []) for rank in range(2)]
    for whole, *parts in zip(one, *two, strict=True):
        assert sorted(whole[1].tolist()) == sorted(label for part in parts for label in part[1].tolist())


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_leaves_out_the_broken_and_empty_batches(workers):
    seen: list[str] = []
    items = EvalItems(Numbers(7, {0, 2, 3}), plain)
    found = list(make_loader(items, EvalBatches(7, 2), workers, False, None, seen))
    assert [labels.tolist() for _, labels in found] == [[1], [4, 5], [6]]
    assert seen == ["number 0: broken", "number 2: broken", "number 3: broken"]


WORKER = """
import json, sys
import torch
torch.set_num_threads(1)
from involution.engine import evaluate, train
from involution.engine.process import is_main_process
from involution.engine.tasks.classify.config import ClassifyConfig

config = ClassifyConfig.load("digits", json.loads(sys.argv[1]))
result = train(config, progress=False)
found = evaluate(result.last, split="val", devices=config.devices, accelerator="cpu", batch_size=2, on_problem="skip")
if is_main_process():
    torch.save({"count": found.num_images, "confusion": found.confusion}, sys.argv[2])
"""


@pytest.mark.slow
def test_two_processes_say_it_once_and_count_the_rest(whole, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(whole, root)
    broken = damage(root, {split: f"pets/{split}" for split in BROKEN})
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    changes = {**CLASSIFY, "output": str(tmp_path), "name": "run", "data.spec": f"imagefolder:{root / 'pets'}"}
    changes |= {"data.on_problem": "skip", "devices": 2, "trainer.accelerator": "cpu", "data.workers": 1}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(script), json.dumps(changes), str(tmp_path / "found")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for file in broken["train"]:
        assert done.stderr.count(f"{file}: broken") == 1
    for file in broken["val"]:
        # in training and in the evaluation after it
        assert done.stderr.count(f"{file}: broken") == 2
    found = torch.load(tmp_path / "found")
    assert (found["count"], int(found["confusion"].sum())) == (10, 10)


@pytest.mark.slow
def test_two_processes_end_in_one_line(whole, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(whole, root)
    broken = damage(root, {split: f"pets/{split}" for split in BROKEN})["train"]
    words = ["classify", "train", "--recipe", "digits", "--output", str(tmp_path), "--devices", "2"]
    words += [f"--{key}={value}" for key, value in CLASSIFY.items()]
    words += ["--trainer.accelerator", "cpu", "--data.spec", f"imagefolder:{root / 'pets'}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "involution", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(re.findall(rf"involution: (?:{broken[0]}|{broken[1]}): broken", done.stderr)) == 1


@pytest.mark.parametrize("task", SETS)
def test_reports_do_without_what_can_not_be_read(task, whole, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(whole, root)
    folder = root / SETS[task][1] / "val"
    # the first is the one that is shown where nothing says which is of middling difficulty
    truncate(min(file for file in folder.rglob("*.*") if file.suffix in (".png", ".jpg")))
    spec = f"{SETS[task][0]}:{root / SETS[task][1]}"
    words = [task, "train", "--recipe", SETS[task][3], "--output", str(tmp_path), "--name", "run", "--data.spec", spec]
    words += [f"--{key}={value}" for key, value in SETS[task][4].items()]
    model = ["--model.name", "rednet_nano", "--data.image_size", "32"] if task == "classify" else []
    assert main([*words, *model, "--data.on_problem", "skip"]) == 0
    run, page = tmp_path / "run", tmp_path / "page.html"
    measure = [task, "eval", "--checkpoint", str(run / "best.ckpt"), "--split", "val", "--report", str(page)]
    assert main([*measure, "--on-problem", "skip"]) == 0
    assert "Traceback" not in capsys.readouterr().err
    for report in (run / "report.html", page):
        text = report.read_text()
        assert re.search(r"val: 1 of \d+ images could not be read and are not measured", text)
        assert "filters at the lettered positions" in text

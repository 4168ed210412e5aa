"""Commands whose checkpoints, data and outputs are at an address."""

import io
import json
from pathlib import Path

import PIL.Image
import pytest
import torch
from app_checkpoints import save_detector, save_segmenter
from engine_runs import FAST
from explain_checkpoint import save_checkpoint
from generated import shards
from pictures import picture

from involution.cli import main

TRAIN = [word for key, value in {**FAST, "data.batch_size": 8}.items() for word in (f"--{key}", str(value))]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        "classify": save_checkpoint(folder / "c.ckpt", channels=3),
        "detect": save_detector(folder / "d.ckpt", "faster_rcnn"),
        "segment": save_segmenter(folder / "s.ckpt"),
    }


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("x", "y")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        picture(number).save(tmp_path / "photos" / name / "img.png")
    return tmp_path


def put(memory, file, address):
    memory.put_file(str(file), address.removeprefix("memory:/"))
    return address


@pytest.mark.parametrize(
    ("task", "outputs", "made"),
    [
        ("classify", ["--output", "memory://out/found.csv"], {"found.csv"}),
        ("classify", ["--output", "memory://out/found.json"], {"found.json"}),
        ("detect", ["--output", "memory://out/found.json"], {"found.json"}),
        ("detect", ["--pictures", "memory://out"], {"img.png", "img-2.png", "index.jsonl"}),
        ("segment", ["--output", "memory://out"], {"img.png", "img-2.png", "index.jsonl"}),
        ("segment", ["--pictures", "memory://out"], {"img.png", "img-2.png", "index.jsonl"}),
    ],
)
def test_predictions_go_to_an_address(memory, checkpoints, photos, capsys, task, outputs, made):
    address = put(memory, checkpoints[task], "memory://runs/x/best.ckpt")
    words = [task, "predict", "photos", "--checkpoint", address, *outputs]
    for _ in range(2):
        # its own files are replaced
        assert main(words) == 0
        names = {path.rpartition("/")[2] for path in memory.find("/out")}
        assert names == {*made, ".involution-files.jsonl"}
    here = [word.replace("memory://", f"{photos}/") for word in words]
    Path(photos / "runs/x").mkdir(parents=True)
    memory.get_file("/runs/x/best.ckpt", str(photos / "runs/x/best.ckpt"))
    assert main(here) == 0
    for name in made - {"index.jsonl", "found.csv", "found.json"}:
        assert memory.cat(f"/out/{name}") == (photos / "out" / name).read_bytes()
    if "index.jsonl" in made:
        index = [json.loads(line) for line in memory.cat("/out/index.jsonl").splitlines()]
        assert [(line["checkpoint"], line["outputs"]) for line in index] == [
            ("memory://runs/x/best.ckpt", ["img.png"]),
            ("memory://runs/x/best.ckpt", ["img-2.png"]),
        ]
    assert not (photos / "memory:").exists()
    # nothing of the user's is overwritten
    (name, *_) = sorted(made)
    memory.pipe_file(f"/out/{name}", b"mine")
    capsys.readouterr()
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"memory://out/{name}: not overwritten: involution did not make this file" in line
    assert memory.cat(f"/out/{name}") == b"mine"


def test_thousands_of_files_do_not_write_their_record_a_thousand_times(memory, monkeypatch, tmp_path):
    from involution.data import addresses
    from involution.engine import files

    addresses.allow("memory://out")
    original, written = addresses.put, []

    def counted(source, target):
        written.append(target.name)
        original(source, target)

    monkeypatch.setattr(addresses, "put", counted)
    for number in range(300):
        files.write_text(f"memory://out/{number}.txt", "x")
    assert written.count(files.RECORD) < 60
    files.write_record("memory://out")
    assert len(memory.cat(f"/out/{files.RECORD}").splitlines()) == 300
    # what another process finds
    files._READ.clear()
    assert files.is_ours("memory://out/299.txt")


def test_a_run_from_shards_to_report_at_addresses(memory, photos, capsys):
    for file in shards(photos / "shards").iterdir():
        put(memory, file, f"memory://bucket/{file.name}")
    spec = "webdataset:memory://bucket/{train-{000..001},val-000}.tar"
    words = ["classify", "train", "--data.spec", spec, "--output", "memory://runs", "--name", "x", *TRAIN]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "checkpoint: memory://runs/x/best.ckpt" in out
    assert f"eval --checkpoint memory://runs/x/best.ckpt --split val --data '{spec}'" in out
    assert "report: memory://runs/x/report.html" in out
    outputs = ["--output", "memory://out/figures.json", "--report", "memory://out/report.html"]
    words = ["classify", "eval", "--checkpoint", "memory://runs/x/best.ckpt", "--split", "val", "--data", spec]
    assert main([*words, *outputs]) == 0
    assert json.loads(memory.cat("/out/figures.json"))["num_images"] == 12
    assert b"memory://runs/x/best.ckpt" in memory.cat("/out/report.html")
    assert main(["data", "check", spec, "--output", "memory://sheets"]) == 0
    assert {path.rpartition("/")[2] for path in memory.find("/sheets")} >= {"sheet.png", "data.json"}
    assert sorted(entry.name for entry in photos.iterdir()) == ["photos", "shards"]


def refused(capsys, words, message):
    capsys.readouterr()
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_no_address_is_taken_from_a_file(memory, photos, capsys):
    for file in shards(photos / "shards").iterdir():
        put(memory, file, f"memory://bucket/{file.name}")
    # of the settings
    (photos / "settings.yaml").write_text("data:\n  spec: webdataset:memory://bucket\n")
    message = "memory://bucket: an address is only taken from the command line"
    refused(capsys, ["classify", "train", "--config", "settings.yaml", *TRAIN], message)
    (photos / "settings.yaml").write_text("output: memory://elsewhere\n")
    refused(capsys, ["classify", "train", "--config", "settings.yaml"], "memory://elsewhere: an address is only taken")
    # of a checkpoint
    assert (
        main(["classify", "train", "--data.spec", "webdataset:shards", "--output", "runs", "--name", "x", *TRAIN]) == 0
    )
    found = torch.load("runs/x/best.ckpt", weights_only=True)
    found["involution"]["recipe"]["data"]["spec"] = "webdataset:memory://bucket"
    torch.save(found, "stranger.ckpt")
    words = ["classify", "eval", "--checkpoint", "stranger.ckpt", "--split", "val"]
    refused(capsys, words, message)
    assert main([*words, "--data", "webdataset:memory://bucket"]) == 0


def test_a_list_of_a_data_set_leads_to_no_address(memory, photos, capsys):
    put(memory, photos / "photos/x/img.png", "memory://bucket/img.png")
    image = {"id": 1, "file_name": "memory://bucket/img.png", "width": 8, "height": 8}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "area": 16, "iscrowd": 0}
    content = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "a"}]}
    for split in ("train", "val"):
        (photos / "set" / split).mkdir(parents=True)
        picture(1).save(photos / "set" / split / "other.png")
        (photos / "set" / "annotations").mkdir(exist_ok=True)
        (photos / "set" / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    assert main(["data", "check", "coco:set"]) != 0
    said = capsys.readouterr()
    assert "memory://bucket/img.png" in said.out + said.err


def test_what_can_not_be_used_is_one_line(memory, photos, checkpoints, capsys):
    predict = ["classify", "predict", "photos", "--checkpoint"]
    refused(capsys, [*predict, "memory://runs/best.ckpt"], "no such checkpoint: memory://runs/best.ckpt")
    put(memory, photos / "photos/x/img.png", "memory://runs/best.ckpt")
    refused(capsys, [*predict, "memory://runs/best.ckpt"], "memory://runs/best.ckpt is")
    refused(
        capsys, [*predict, "s3://me:hunter2@b/best.ckpt"], "s3://...@b/best.ckpt: an address must not hold a password"
    )
    refused(capsys, ["explain", "photos", "--output", "memory://out"], "involution explain takes no addresses")
    refused(capsys, ["ablate", "--output", "memory://out"], "involution ablate takes no addresses")


def test_a_storage_that_fails_is_one_line(memory, photos, checkpoints, capsys, monkeypatch):
    put(memory, checkpoints["classify"], "memory://runs/best.ckpt")

    def failing(fs, path, **options):
        raise RuntimeError("no credentials at https://host/?key=hunter2")

    monkeypatch.setattr(type(memory), "info", failing)
    words = ["classify", "predict", "photos", "--checkpoint", "memory://runs/best.ckpt"]
    assert main([*words, "--output", "memory://out/a.csv"]) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert line == "involution: memory://out/a.csv: failed 4 times (no credentials at https://host/?...)"


def test_a_label_map_at_an_address_can_be_opened(memory, checkpoints, photos):
    words = ["segment", "predict", "photos/x", "--checkpoint", str(checkpoints["segment"]), "--output", "memory://maps"]
    assert main(words) == 0
    with PIL.Image.open(io.BytesIO(memory.cat("/maps/img.png"))) as found, PIL.Image.open("photos/x/img.png") as image:
        assert found.size == image.size

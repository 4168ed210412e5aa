import json

import pytest
from generated import image_folder
from PIL import Image

from involution.cli import main
from involution.data.scenes import make_digit_scenes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make_digit_scenes(tmp_path_factory.mktemp("scenes") / "small", {"train": 4, "val": 2})


def test_says_what_is_there_and_writes_a_sheet(tmp_path, capsys):
    image_folder(tmp_path / "pets", splits=("train", "val"))
    (tmp_path / "pets" / "train" / "ant" / "000.jpg").write_bytes(b"words")
    (tmp_path / "pets" / "train" / "ant" / "words.txt").write_text("words")
    out = tmp_path / "out"
    assert main(["data", "check", f"imagefolder:{tmp_path / 'pets'}", "--output", str(out)]) == 1
    said = capsys.readouterr().out
    assert "train: 23 images" in said
    assert "not used, other files: 1 (train/ant/words.txt)" in said
    assert "left out, 1 problem: train/ant/000.jpg: not an image in a known format" in said
    assert json.loads((out / "data.json").read_text())["splits"]["val"]["images"] == 24
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.size[0] > 500


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_every_task(scenes, tmp_path, capsys, task):
    words = ["data", "check", f"digit-scenes:{scenes}", "--task", task, "--allow_empty", "--output", str(tmp_path)]
    assert main(words) == 0
    assert "train: 4 images" in capsys.readouterr().out
    assert (tmp_path / "sheet.png").is_file()


def test_the_task_follows_from_the_format(scenes, capsys):
    assert main(["data", "check", str(scenes), "--quick", "--allow_empty"]) == 0
    said = capsys.readouterr()
    assert "taken as data for detect; --task segment for the other" in said.err
    assert "boxes: " in said.out
    assert main(["data", "check", "/no/such"]) == 2
    assert "is not in a known or recognised format; say which: " in capsys.readouterr().err


def test_values_are_told_by_yaml(tmp_path, capsys):
    for split in ("train", "val"):
        for folder in (tmp_path / split, tmp_path / "labels" / split):
            folder.mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / split / "a.png")
        labels = Image.new("L", (8, 8))
        labels.paste(255, (0, 0, 4, 8))
        labels.save(tmp_path / "labels" / split / "a.png")
    (tmp_path / "classes.txt").write_text("background\nlesion\n")
    assert main(["data", "check", f"masks:{tmp_path}"]) == 2
    assert "--data.values '{0: background, 255: lesion}'" in capsys.readouterr().err
    assert main(["data", "check", f"masks:{tmp_path}", "--values", "{0: background, 255: lesion}"]) == 0
    assert "background 32 (50.0%), lesion 32 (50.0%)" in capsys.readouterr().out

import json
import os
import shutil
from pathlib import Path

import pytest
from generated import image_folder, shards
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


def test_settings_have_the_names_that_messages_use(tmp_path, capsys):
    image_folder(tmp_path / "pets", splits=("train", "val"))
    (tmp_path / "names.txt").write_text("one\ntwo\nthree\n")
    words = ["data", "check", f"imagefolder:{tmp_path / 'pets'}", "--quick"]
    assert main([*words, "--classes", str(tmp_path / "names.txt")]) == 2
    said = capsys.readouterr().err
    assert main([*words, "--data.classes", str(tmp_path / "names.txt")]) == 2
    assert capsys.readouterr().err == said
    assert main([*words, "--data.exif", "ignore"]) == 0
    assert main([*words, "--data.on_problem", "skip"]) == 2
    assert "unknown option --data.on_problem" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["classify", "detect", "segment"])
def test_images_that_break_when_decoded_are_told_and_not_drawn(scenes, tmp_path, capsys, task):
    root = tmp_path / "data"
    if task == "classify":
        spec, folder = f"imagefolder:{image_folder(root, splits=('train', 'val'), per_class=2)}", root / "train" / "ant"
    else:
        shutil.copytree(scenes, root)
        spec, folder = f"digit-scenes:{root}", root / "train"
    file = min(folder.glob("*.*"))
    file.write_bytes(file.read_bytes()[:-100])
    out = tmp_path / "out"
    words = ["data", "check", spec, "--task", task, "--allow-empty"]
    assert main([*words, "--output", str(out)]) == 1
    said = capsys.readouterr()
    assert f"left out, 1 problem: train: {file}: broken or truncated image" in said.out
    assert f"train: {5 if task == 'classify' else 3} images" in said.out
    assert "not on the sheet" not in said.err
    assert json.loads((out / "data.json").read_text())["splits"]["train"]["images"] == (5 if task == "classify" else 3)
    # without decoding everything the sheet alone meets it
    assert main([*words, "--quick", "--output", str(tmp_path / "quick")]) == 0
    assert f"not on the sheet: 1 ({file}: broken or truncated image" in capsys.readouterr().err
    with Image.open(tmp_path / "quick" / "sheet.png") as sheet:
        assert sheet.size[0] > 500


def test_a_split_of_which_nothing_can_be_read(tmp_path, capsys):
    root = image_folder(tmp_path, splits=("train", "val"), per_class=2)
    for file in (root / "val").rglob("*.jpg"):
        file.write_bytes(file.read_bytes()[:-100])
    assert main(["data", "check", str(root)]) == 2
    assert "none of the 6 images of val can be read: " in capsys.readouterr().err


def test_shards_are_decoded_too(tmp_path, capsys):
    root = shards(tmp_path, names=("train-0",), per_shard=30)
    file = root / "train-0.tar"
    content = file.read_bytes()
    start = content.index(b"00007.jpg") + 512
    file.write_bytes(content[:start] + bytes(300) + content[start + 300 :])
    assert main(["data", "check", f"webdataset:{root}"]) == 1
    assert "train-0.tar:00007: not an image in a known format" in capsys.readouterr().out


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_every_task(scenes, tmp_path, capsys, task):
    words = ["data", "check", f"digit-scenes:{scenes}", "--task", task, "--allow-empty", "--output", str(tmp_path)]
    assert main(words) == 0
    assert "train: 4 images" in capsys.readouterr().out
    assert (tmp_path / "sheet.png").is_file()


def test_the_task_follows_from_the_format(scenes, capsys):
    assert main(["data", "check", str(scenes), "--quick", "--allow-empty"]) == 0
    said = capsys.readouterr()
    assert "taken as data for detect; --task segment for the other" in said.err
    assert "boxes: " in said.out
    assert main(["data", "check", "/no/such"]) == 2
    assert "is not in a known or recognised format; say which: " in capsys.readouterr().err


def test_names_that_are_no_utf_8_are_written_by_their_codes(tmp_path, capsys):
    for name in (b"h\xfcnd", b"cat"):
        folder = tmp_path / "pets" / os.fsdecode(name)
        folder.mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / os.fsdecode(b"\xe9%d.png" % number))
        (folder / os.fsdecode(b"\xe9.txt")).write_text("words")
    words = ["data", "check", f"imagefolder:{tmp_path / 'pets'}", "--output", str(tmp_path / "check")]
    assert main(words) == 0
    found = json.loads((tmp_path / "check" / "data.json").read_text())
    assert found["classes"] == ["cat", r"h\xfcnd"]
    assert r"h\xfcnd" in capsys.readouterr().out


def test_what_is_in_no_format_is_told_apart_where_it_is_known(tmp_path, capsys):
    (tmp_path / "via.csv").write_text("filename,region_shape_attributes\n")
    assert main(["data", "check", str(tmp_path)]) == 2
    assert "say which: " in (said := capsys.readouterr().err)
    assert "; via.csv is the VGG Image Annotator's; convert its boxes" in said


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


def test_what_can_still_be_written_is(scenes, tmp_path, capsys, monkeypatch):
    write = Path.write_text

    def full(self, *args, **options):
        if self.name.startswith(".data.json"):
            raise OSError(28, "No space left on device")
        return write(self, *args, **options)

    monkeypatch.setattr(Path, "write_text", full)
    words = ["data", "check", f"digit-scenes:{scenes}", "--task", "detect", "--allow-empty", "--output", str(tmp_path)]
    assert main(words) == 1
    assert capsys.readouterr().err == f"involution: {tmp_path / 'data.json'}: No space left on device\n"
    assert (tmp_path / "sheet.png").is_file()


def test_the_check_of_another_data_set_stays(scenes, tmp_path, capsys):
    out = tmp_path / "out"
    for kind in ("cats", "dogs"):
        image_folder(tmp_path / kind, splits=("train", "val"))
    for kind, names in (("cats", "data.json"), ("dogs", "data-2.json"), ("cats", "data.json")):
        assert main(["data", "check", f"imagefolder:{tmp_path / kind}", "--quick", "--output", str(out)]) == 0
        assert f"wrote {out / names} and" in capsys.readouterr().out
    assert sorted(file.name for file in out.glob("[!.]*")) == ["data-2.json", "data.json", "sheet-2.png", "sheet.png"]


@pytest.mark.parametrize(
    ("option", "owner"),
    [
        (["--masks"], "detect"),
        (["--values", "{0: background}"], "segment"),
        (["--ignore-index", "0"], "segment"),
        (["--classes", "names.txt"], "classify"),
    ],
)
def test_options_of_another_task_are_refused(option, owner, capsys):
    spec = "digit-scenes" if owner == "classify" else "digits"
    task = "detect" if owner == "classify" else "classify"
    assert main(["data", "check", spec, "--task", task, *option]) == 2
    assert f"{option[0]} is for {owner}, but {spec} is checked as data for {task}" in capsys.readouterr().err


def test_images_that_a_classifier_crops_are_told(tmp_path, capsys):
    root = image_folder(tmp_path / "pets", splits=("train", "val"))
    Image.new("RGB", (30, 300)).save(root / "val" / "ant" / "tall.png")
    main(["data", "check", f"imagefolder:{root}", "--quick"])
    assert (
        "warning: images of val of which an image classifier with the default settings sees the middle alone, less "
        "than 40% of them: 1 (tall.png)\n"
    ) in capsys.readouterr().out


def test_classes_without_images_are_told_once(tmp_path, capsys):
    image_folder(tmp_path, splits=("train", "valid"), per_class=2)
    shutil.rmtree(tmp_path / "valid" / "cat")
    assert main(["data", "check", f"imagefolder:{tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if ("cat" in line and "none of" in line) or "no images of" in line] == [
        "val: no images of cat"
    ]
    assert "nothing malformed or suspicious" not in said

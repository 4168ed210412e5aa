"""What the predict commands write, and what they refuse to write over."""

import json
import os
import shutil
from pathlib import Path

import PIL.Image
import pytest
from app_checkpoints import save_detector, save_segmenter
from explain_checkpoint import save_checkpoint
from pictures import picture

from involution.cli import main


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        "classify": save_checkpoint(folder / "c.ckpt", channels=3),
        "detect": save_detector(folder / "d.ckpt", "faster_rcnn"),
        "segment": save_segmenter(folder / "s.ckpt"),
    }


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for place in ("x", "y"):
        (root / place).mkdir(parents=True)
        picture(1 if place == "x" else 2).save(root / place / "img.png")
    return root


@pytest.mark.parametrize(
    ("task", "words", "message"),
    [
        ("classify", ["--topk", "0"], "wanted topk of 1 or more, got 0"),
        ("detect", ["--score", "2"], "wanted a score from 0 to 1, got 2.0"),
        ("classify", ["--batch-size", "0"], "wanted batch_size from 1 to 1000000, got 0"),
    ],
)
def test_wrong_options_are_told_before_anything_is_read(task, words, message, capsys):
    for more in ([], ["--parts", "rows"]):
        assert main([task, "predict", "nowhere", "--checkpoint", "none.ckpt", *words, *more]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("segment", ["--output", "{photos}/x"]),
        ("segment", ["--pictures", "{photos}/x"]),
        ("detect", ["--pictures", "{photos}/x"]),
        ("detect", ["--output", "{photos}/mine.json"]),
        ("classify", ["--output", "{photos}/mine.csv"]),
        ("segment", ["--output", "{photos}/new", "--pictures", "{photos}/y"]),
    ],
)
def test_nothing_of_the_users_is_overwritten(task, options, checkpoints, photos, capsys):
    (photos / "mine.json").write_text("{}")
    (photos / "mine.csv").write_text("a,b")
    before = {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()}
    options = [word.format(photos=photos) for word in options]
    words = [task, "predict", str(photos / "x"), str(photos / "y"), "--checkpoint", str(checkpoints[task])]
    assert main([*words, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "not overwritten: involution did not make this file" in line
    assert {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("words", [[], ["--parts", "{out}", "--parts-format", "jsonl"]])
def test_scores_that_a_detector_leaves_out_are_told(checkpoints, photos, tmp_path, capsys, words):
    words = [word.format(out=tmp_path / "out") for word in words]
    words = ["detect", "predict", str(photos / "x"), "--checkpoint", str(checkpoints["detect"]), *words, "--score"]
    assert main([*words, "0.01"]) == 0
    assert "score 0.01 finds objects of 0.05 and more: the detector itself leaves out" in capsys.readouterr().err


def test_maps_and_pictures_go_to_different_folders(checkpoints, photos, tmp_path, capsys):
    words = ["segment", "predict", str(photos), "--checkpoint", str(checkpoints["segment"])]
    assert main([*words, "--output", str(tmp_path / "out"), "--pictures", f"{tmp_path}/./out"]) == 2
    assert "wanted two folders" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_which_map_belongs_to_which_image_is_written(checkpoints, photos, tmp_path):
    (photos / "broken.png").write_text("no image")
    out = tmp_path / "out"
    words = ["segment", "predict", str(photos), "--checkpoint", str(checkpoints["segment"]), "--output", str(out)]
    for _ in range(2):
        # its own files are replaced
        assert main(words) == 1
    index = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
    assert [line["input"] for line in index] == [
        str(photos / name) for name in ("broken.png", "x/img.png", "y/img.png")
    ]
    assert "error" in index[0]
    assert [line["outputs"] for line in index[1:]] == [["img.png"], ["img-2.png"]]
    for line in index[1:]:
        with PIL.Image.open(out / line["outputs"][0]) as found, PIL.Image.open(line["input"]) as image:
            assert found.size == image.size


@pytest.mark.parametrize("task", ["classify", "detect", "segment"])
def test_a_missing_checkpoint_makes_no_folder(task, photos, tmp_path, capsys):
    suffix = {"classify": "/a.csv", "detect": "/a.json", "segment": ""}[task]
    words = [task, "predict", str(photos), "--checkpoint", "none.ckpt", "--output", f"{tmp_path}/out{suffix}"]
    assert main(words) == 2
    assert "no such checkpoint: none.ckpt" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", ["classify", "detect", "segment"])
def test_one_impossible_image_never_costs_the_others(task, checkpoints, photos, tmp_path, capsys):
    PIL.Image.new("RGB", (60_000, 2), "red").save(photos / "thread.png")
    (photos / "cut.png").write_bytes((photos / "x" / "img.png").read_bytes()[:60])
    (photos / "loop.png").symlink_to(photos / "loop.png")
    odd = os.fsencode(str(photos)) + b"/caf\xe9.png"
    shutil.copyfile(photos / "x" / "img.png", odd)
    output = tmp_path / {"classify": "a.json", "detect": "a.json", "segment": "maps"}[task]
    argv = [task, "predict", str(photos), "--checkpoint", str(checkpoints[task]), "--output", str(output)]
    assert main(argv) == 1
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert "cut.png" in printed.err
    if task == "segment":
        index = [json.loads(line) for line in (output / "index.jsonl").read_text(encoding="utf-8").splitlines()]
        done = {Path(line["input"]).name for line in index if "outputs" in line}
    else:
        content = json.loads(output.read_text(encoding="utf-8"))
        done = {
            Path(item.get("file", item.get("file_name"))).name
            for item in (content["results"] if task == "classify" else content)
        }
    assert {"img.png", "caf\udce9.png"} <= done


def test_its_own_outputs_are_no_inputs_the_second_time(checkpoints, photos, capsys):
    words = ["segment", "predict", str(photos), "--checkpoint", str(checkpoints["segment"])]
    for said in ("", "made by an earlier prediction"):
        assert main([*words, "--output", str(photos / "out")]) == 0
        printed = capsys.readouterr()
        assert "2 segmented, 0 skipped" in printed.out
        assert said in printed.err
    # named by the user, it is taken
    words[2] = str(photos / "out" / "img.png")
    assert main(words) == 0
    assert "1 segmented" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize("task", ["classify", "detect"])
def test_a_file_that_cannot_be_written_costs_nothing_else(task, checkpoints, photos, tmp_path, capsys):
    (tmp_path / "full.json").symlink_to("/dev/full")
    words = [task, "predict", str(photos), "--checkpoint", str(checkpoints[task])]
    pictures = ["--pictures", str(tmp_path / "drawn")] if task == "detect" else []
    assert main([*words, "--output", str(tmp_path / "full.json"), *pictures]) == 1
    printed = capsys.readouterr()
    assert printed.err == f"not written: {tmp_path / 'full.json'}: No space left on device\n"
    assert "2 images" in printed.out or "2 classified" in printed.out
    if pictures:
        assert len(list((tmp_path / "drawn").glob("*.png"))) == 2
        assert (tmp_path / "drawn" / "index.jsonl").is_file()


def test_results_of_other_images_stay(checkpoints, photos, tmp_path, capsys):
    out, pictures = tmp_path / "out", tmp_path / "pictures"
    words = ["segment", "predict", "--checkpoint", str(checkpoints["segment"])]
    words += ["--output", str(out), "--pictures", str(pictures)]
    first = [*words, str(photos / "x" / "img.png")]
    for _ in range(2):
        assert main(first) == 0
        assert "earlier" not in capsys.readouterr().err
    before = (out / "img.png").read_bytes(), (pictures / "img.png").read_bytes()
    for _ in range(2):
        assert main([*words, str(photos / "y" / "img.png")]) == 0
        said = capsys.readouterr().err
        for folder in (out, pictures):
            assert f"{folder} also holds files of earlier commands: 1 (img.png)\n" in said
    assert ((out / "img.png").read_bytes(), (pictures / "img.png").read_bytes()) == before
    for folder in (out, pictures):
        index = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]
        assert [(line["input"], line["outputs"]) for line in index] == [
            (str(photos / "x" / "img.png"), ["img.png"]),
            (str(photos / "y" / "img.png"), ["img-2.png"]),
        ]
    # maps and pictures of one image are different things
    assert main([*words[:4], "--output", str(pictures), str(photos / "x" / "img.png")]) == 2
    assert "img.png: not overwritten: it holds other results" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["classify", "detect"])
def test_a_file_of_other_results_is_refused_and_of_the_same_replaced(task, checkpoints, photos, tmp_path, capsys):
    words = [task, "predict", "--checkpoint", str(checkpoints[task]), "--output", str(tmp_path / "found.json")]
    assert main([*words, str(photos / "x")]) == 0
    before = (tmp_path / "found.json").read_bytes()
    capsys.readouterr()
    assert main([*words, str(photos / "y")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"found.json: not overwritten: it holds other results ({task} predict of {photos / 'x'}, with" in line
    assert (tmp_path / "found.json").read_bytes() == before
    assert main([*words, str(photos / "y"), str(photos / "x")]) == 0


def test_own_pictures_that_are_named_are_taken_and_told(checkpoints, photos, tmp_path, capsys):
    words = ["segment", "predict", "--checkpoint", str(checkpoints["segment"])]
    assert main([*words, str(photos), "--pictures", str(tmp_path / "out")]) == 0
    assert main([*words, str(tmp_path / "out" / "img.png")]) == 0
    assert "taken by name, though made by an earlier prediction or command: 1 (" in capsys.readouterr().err


@pytest.fixture
def full(monkeypatch):
    """Let there be no room for some pictures."""

    def mark(matches):
        def save(self, file, **options):
            if matches(Path(file)):
                raise OSError(28, "No space left on device")
            write(self, file, **options)

        monkeypatch.setattr(PIL.Image.Image, "save", save)

    write = PIL.Image.Image.save
    return mark


def test_a_picture_that_cannot_be_written_costs_no_other(checkpoints, photos, tmp_path, capsys, full):
    out, drawn = tmp_path / "out", tmp_path / "drawn"
    full(lambda file: file.parent == out and file.name.startswith(".img.png"))
    words = ["segment", "predict", str(photos), "--checkpoint", str(checkpoints["segment"])]
    assert main([*words, "--output", str(out), "--pictures", str(drawn)]) == 1
    printed = capsys.readouterr()
    assert printed.err == f"not written: {out / 'img.png'}: No space left on device\n"
    assert "2 segmented, 0 skipped" in printed.out
    assert sorted(file.name for file in drawn.glob("*.png")) == ["img-2.png", "img.png"]
    assert sorted(os.listdir(out)) == [".involution-files.jsonl", "img-2.png", "index.jsonl"]
    lines = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
    told = [line.get("error", line.get("outputs")) for line in lines]
    assert told == ["not written: No space left on device", ["img-2.png"]]


def test_many_that_cannot_be_written_are_told_in_short(checkpoints, photos, tmp_path, capsys, full):
    for number in range(12):
        picture(1).save(photos / f"{number:02}.png")
    full(lambda file: file.name.startswith((".0", ".1")))
    words = ["segment", "predict", str(photos), "--checkpoint", str(checkpoints["segment"])]
    assert main([*words, "--output", str(tmp_path / "out")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    assert lines[-1] == "not written: 2 more"


@pytest.mark.parametrize("size", ["0", "10000000000000000000"])
def test_sizes_of_batches_have_limits(checkpoints, photos, capsys, size):
    words = ["classify", "predict", str(photos), "--checkpoint", str(checkpoints["classify"]), "--batch-size", size]
    assert main(words) == 2
    assert capsys.readouterr().err == f"involution: wanted batch_size from 1 to 1000000, got {size}\n"

import csv
import json
import os

import numpy as np
import pytest
import timm
import torch
from pictures import huge_png, picture
from PIL import Image

import involution.models  # noqa: F401  (registers RedNet)
from involution.cli import main
from involution.data.findings import Findings
from involution.data.images import ImageError
from involution.engine import ConfigError
from involution.engine.checkpoint import ModelCard
from involution.engine.files import RECORD
from involution.predict import (
    ClassificationPredictor,
    ClassificationResult,
    PredictError,
    SkippedImage,
    find_images,
)


def save_checkpoint(path, channels):
    torch.manual_seed(0)
    model = timm.create_model("rednet_nano_conv", num_classes=4, in_chans=channels)
    # the untrained classifier is nearly constant: make its answers differ from image to image
    torch.nn.init.normal_(model.fc.weight)
    card = ModelCard(
        task="classify",
        model="rednet_nano_conv",
        model_args={},
        classes=["cat", "dog", "eel", "fox"],
        input_size=(channels, 16, 16),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        interpolation="bilinear",
        crop_pct=1.0,
        recipe={
            "model": {"name": "rednet_nano_conv"},
            "data": {"channels": channels, "mean": [0.5] * channels, "std": [0.25] * channels},
        },
        versions={},
    )
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"involution": card.to_dict(), "state_dict": weights}, path)
    return path


@pytest.fixture(scope="module")
def colour_checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("colour") / "best.ckpt", 3)


@pytest.fixture(scope="module")
def grey_checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("grey") / "best.ckpt", 1)


@pytest.fixture(scope="module")
def classifier(colour_checkpoint):
    return ClassificationPredictor.from_checkpoint(colour_checkpoint, "cpu")


@pytest.fixture
def folder(tmp_path):
    """Five good images and four that no reader should trust, also below a second folder."""
    root = tmp_path / "images"
    (root / "below").mkdir(parents=True)
    for index in range(4):
        picture(index).save(root / f"{index}.png")
    picture(4).save(root / "below" / "4.jpg")
    (root / "cut.png").write_bytes((root / "0.png").read_bytes()[:200])
    (root / "empty.jpg").touch()
    (root / "huge.png").write_bytes(huge_png())
    (root / "text.jpg").write_text("not an image")
    (root / "notes.txt").write_text("left alone")
    return root


def test_scores_are_those_of_the_model(classifier):
    images = [picture(seed) for seed in range(3)]
    results = classifier.predict(images, topk=4)
    with torch.inference_mode():
        expected = classifier.model(torch.stack([classifier.prepare(image) for image in images])).softmax(1)
    for result, row in zip(results, expected, strict=True):
        order = row.argsort(descending=True)
        assert result.labels == tuple(classifier.card.classes[i] for i in order)
        assert result.scores == pytest.approx(row[order].tolist(), abs=1e-6)
        assert (result.label, result.score) == (result.labels[0], result.scores[0])
        assert result.seconds > 0
    assert [result.file for result in results] == ["image 0", "image 1", "image 2"]


def test_prepare_scales_and_normalises(grey_checkpoint):
    tensor = ClassificationPredictor.from_checkpoint(grey_checkpoint, "cpu").prepare(
        Image.new("RGB", (40, 30), (255, 255, 255))
    )
    # (1 - 0.5) / 0.25, less the rounding of grey to 8 bits
    torch.testing.assert_close(tensor, torch.full((1, 16, 16), 2.0), atol=0.02, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_batch_size_changes_neither_order_nor_scores(classifier, folder, batch_size):
    files, _ = find_images([folder])
    results = list(classifier.stream(files, batch_size=batch_size))
    assert [result.file for result in results] == [str(file) for file in files]
    good = [result for result in results if isinstance(result, ClassificationResult)]
    alone = [classifier.predict([result.file])[0] for result in good]
    assert len(good) == 5
    assert [result.labels for result in good] == [result.labels for result in alone]
    for result, single in zip(good, alone, strict=True):
        assert result.scores == pytest.approx(single.scores, abs=1e-5)


def test_only_one_batch_is_held(classifier):
    taken = []

    def images():
        for seed in range(10):
            taken.append(seed)
            yield picture(seed)

    stream = classifier.stream(images(), batch_size=3)
    next(stream)
    assert taken == [0, 1, 2]


def test_unreadable_images_are_set_aside_with_their_cause(classifier, folder):
    results = list(classifier.stream(find_images([folder])[0]))
    reasons = {result.file.rpartition("/")[2]: result.reason for result in results if isinstance(result, SkippedImage)}
    assert set(reasons) == {"cut.png", "empty.jpg", "huge.png", "text.jpg"}
    assert "truncated" in reasons["cut.png"]
    assert "0 bytes" in reasons["empty.jpg"]
    assert "60000" in reasons["huge.png"] or "3600000000" in reasons["huge.png"]
    assert "not an image" in reasons["text.jpg"]


def test_predict_stops_at_an_unreadable_image(classifier, folder):
    with pytest.raises(ImageError, match=r"empty\.jpg: .*0 bytes"):
        classifier.predict([folder / "0.png", folder / "empty.jpg"])


@pytest.mark.parametrize("channels", ["grey", "colour"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16", "CMYK"])
def test_every_mode_is_read_as_the_same_picture(mode, channels, tmp_path, request):
    classifier = ClassificationPredictor.from_checkpoint(request.getfixturevalue(f"{channels}_checkpoint"), "cpu")
    grey = picture().convert("L")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    elif mode == "1":
        grey = grey.convert("1").convert("L")
        image = grey.convert("1")
    else:
        image = grey.convert(mode)
    assert image.mode == mode
    path = tmp_path / "image.tif"
    image.save(path)
    expected = classifier.prepare(grey)
    torch.testing.assert_close(classifier.prepare(image), expected, atol=0.05, rtol=0)
    by_file, by_memory, of_grey = (classifier.predict([item], topk=4)[0] for item in (path, image, grey))
    assert by_file.labels == by_memory.labels == of_grey.labels


def test_exif_orientation_is_applied(classifier, tmp_path):
    upright = picture()
    exif = Image.Exif()
    exif[0x0112] = 6
    # the camera lay on its side: the file holds the picture turned the other way
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    upright.save(tmp_path / "upright.png")
    turned, straight = classifier.predict([tmp_path / "turned.png", tmp_path / "upright.png"], topk=4)
    assert turned.labels == straight.labels
    assert turned.scores == pytest.approx(straight.scores, abs=1e-6)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"topk": 0}])
def test_sizes_below_one_are_refused(classifier, options):
    with pytest.raises(PredictError, match=r"1 or more|from 1 to 1000000"):
        classifier.predict([picture()], **options)


def test_unknown_devices_are_refused(colour_checkpoint):
    with pytest.raises(ConfigError, match="no device named 'warp'; wanted auto, cpu"):
        ClassificationPredictor.from_checkpoint(colour_checkpoint, "warp")
    with pytest.raises(ConfigError, match="device cuda:99 is not available"):
        ClassificationPredictor.from_checkpoint(colour_checkpoint, "cuda:99")


def test_find_images_takes_files_folders_and_globs(folder):
    (folder / "odd[1].png").write_bytes(b"")
    files, unmatched = find_images(
        [folder / "notes.txt", str(folder / "[0-1].png"), folder, str(folder / "odd[1].png"), folder / "none*.png"]
    )
    names = [str(file.relative_to(folder)) for file in files]
    assert names == [
        *("notes.txt", "0.png", "1.png", "2.png", "3.png"),
        *("below/4.jpg", "cut.png", "empty.jpg", "huge.png", "odd[1].png", "text.jpg"),
    ]
    assert unmatched == [str(folder / "none*.png")]
    assert len(find_images([str(folder / "**" / "*.jpg")])[0]) == 3


def test_label_maps_of_a_data_set_are_no_images(tmp_path):
    for name in ("images/train/0.png", "images/val/1.png", "masks/train/0.png", "masks/val/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB" if name.startswith("images") else "L", (8, 8)).save(tmp_path / name)
    assert len(find_images([tmp_path])[0]) == 4
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    findings = Findings()
    files, _ = find_images([tmp_path], findings)
    assert [str(file.relative_to(tmp_path)) for file in files] == ["images/train/0.png", "images/val/1.png"]
    assert any(line.startswith("not used, label maps of a data set: 2 (") for line in findings.lines())
    assert len(find_images([tmp_path / "masks"])[0]) == 2


def test_results_as_json_and_csv(tmp_path, classifier):
    def write(path, results):
        with classifier.open_output(path) as add:
            for number, result in enumerate(results):
                add(result, f"{number}")

    done = ClassificationResult("a, b.png", 0.5, ("ü", "y"), (0.75, 0.25))
    results = [done, SkippedImage("c.png", "the file is empty (0 bytes)")]
    write(tmp_path / "new" / "out.json", results)
    found = json.loads((tmp_path / "new" / "out.json").read_text(encoding="utf-8"))
    assert found["results"] == [{"file": "a, b.png", "labels": ["ü", "y"], "scores": [0.75, 0.25], "seconds": 0.5}]
    assert found["skipped"] == [{"file": "c.png", "reason": "the file is empty (0 bytes)"}]
    write(tmp_path / "out.csv", results)
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        **{"file": "a, b.png", "label_1": "ü", "score_1": "0.750000", "label_2": "y", "score_2": "0.250000"},
        **{"seconds": "0.500000", "error": ""},
    }
    assert (rows[1]["file"], rows[1]["label_1"], rows[1]["error"]) == ("c.png", "", "the file is empty (0 bytes)")
    assert sorted(path.name for path in tmp_path.iterdir()) == [RECORD, "new", "out.csv"]


def test_command_classifies_the_readable_and_reports_the_rest(colour_checkpoint, folder, tmp_path, capsys):
    output = tmp_path / "out.json"
    argv = ["classify", "predict", str(folder), "--checkpoint", str(colour_checkpoint), "--topk", "2"]
    assert main([*argv, "--output", str(output), "--device", "cpu", "--batch-size", "2"]) == 1
    printed = capsys.readouterr()
    assert "5 classified, 4 skipped" in printed.out
    assert "4.jpg" in printed.out
    for name in ("cut.png", "empty.jpg", "huge.png", "text.jpg"):
        assert f"{name}: " in printed.err
    found = json.loads(output.read_text())
    assert [len(result["labels"]) for result in found["results"]] == [2] * 5
    assert len(found["skipped"]) == 4


def test_command_succeeds_where_all_is_well(colour_checkpoint, folder, capsys):
    assert main(["classify", "predict", f"{folder}/[0-3].png", "--checkpoint", str(colour_checkpoint)]) == 0
    printed = capsys.readouterr()
    assert "4 classified, 0 skipped" in printed.out
    assert printed.err == ""


def test_command_reports_a_source_that_matches_nothing(colour_checkpoint, folder, capsys):
    argv = ["classify", "predict", f"{folder}/0.png", "nowhere.png", "--checkpoint", str(colour_checkpoint)]
    assert main(argv) == 1
    assert "nowhere.png: no such file or folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["nowhere/*.png"], "no images found in nowhere"),
        (["{folder}/0.png", "--output", "out.xml"], "ends in .json or .csv"),
        (["{folder}/0.png", "--topk", "0"], "1 or more"),
        (["{folder}/0.png", "--checkpoint", "{folder}/0.png"], "is not a checkpoint"),
        (["{folder}/0.png", "--output", "{folder}/0.png/out.json"], "0.png: a file is where a folder is wanted"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(extra, message, colour_checkpoint, folder, capsys):
    extra = [word.format(folder=folder) for word in extra]
    checkpoint = [] if "--checkpoint" in extra else ["--checkpoint", str(colour_checkpoint)]
    assert main(["classify", "predict", *checkpoint, *extra]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert any(part in error for part in message.split("|"))


def test_images_are_read_as_in_the_training(grey_checkpoint, tmp_path):
    pixels = np.linspace(0, 4095, 256).reshape(16, 16)
    Image.fromarray(pixels.astype(np.uint16)).save(tmp_path / "microscope.png")
    Image.fromarray((pixels * (255 / 4095)).round().astype(np.uint8)).save(tmp_path / "plain.png")
    contents = torch.load(grey_checkpoint, weights_only=True)
    plain = ClassificationPredictor.from_checkpoint(grey_checkpoint).predict(tmp_path / "plain.png")
    for value_range, alike in ((None, False), ([0.0, 4095.0], True)):
        contents["involution"]["recipe"]["data"]["value_range"] = value_range
        torch.save(contents, tmp_path / "told.ckpt")
        told = ClassificationPredictor.from_checkpoint(tmp_path / "told.ckpt")
        with Image.open(tmp_path / "microscope.png") as opened:
            for image in (tmp_path / "microscope.png", opened):
                assert (told.predict(image).scores == plain.scores) == alike


def test_a_range_that_is_hardly_used_is_told(grey_checkpoint, tmp_path, capsys):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.array([[0, 4095]], np.uint16).repeat(4, 0)).save(tmp_path / name / "1.png")
        # of 8 bits it is the picture that counts
        Image.new("L", (4, 4)).save(tmp_path / name / "2.png")
    used = (
        "cat/1.png, dog/1.png); nearly all values are 0 to 4095, and --data.value_range in the training says what "
        "becomes black and white"
    )
    assert main(["classify", "predict", str(tmp_path), "--checkpoint", str(grey_checkpoint)]) == 0
    said = capsys.readouterr().err
    assert f"warning: images that use less than a tenth of the range of their type: 2 ({used}\n" in said
    assert (
        "images of different depths: more than 8 bits in 2 (cat/1.png, dog/1.png), 8 in 2 (cat/2.png, dog/2.png)\n"
        in said
    )
    spec = f"imagefolder:{tmp_path}"
    assert main(["classify", "eval", "--checkpoint", str(grey_checkpoint), "--data", spec]) == 0
    said = "warning: images of test: images that use less than a tenth of the range of their type"
    assert f"{said}: 2 ({used}\n" in capsys.readouterr().err


def test_images_of_which_little_is_seen_are_told(colour_checkpoint, tmp_path, capsys):
    for name, size in (("wide", (300, 30)), ("tall", (20, 90)), ("photo", (60, 40))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    assert main(["classify", "predict", str(tmp_path), "--checkpoint", str(colour_checkpoint)]) == 0
    told = "images of which the network sees the middle alone, less than 40% of them: 2 (tall.png, wide.png)\n"
    assert told in capsys.readouterr().err


def test_colours_that_a_network_of_grey_does_not_see_are_told(grey_checkpoint, colour_checkpoint, tmp_path, capsys):
    root = tmp_path / "pets"
    grey = Image.linear_gradient("L").resize((20, 20))
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        # stored in colours or not
        grey.convert("RGB" if name == "cat" else "L").save(root / name / "1.png")
        Image.new("RGB", (20, 20), "red").save(root / name / "2.png")
    told = "images in colours, of which the network, trained on grey ones, sees the brightness alone: 2 (cat/2.png, dog"
    rows = ["--parts", str(tmp_path / "rows"), "--parts-format", "jsonl"]
    for words in ([], rows):
        assert main(["classify", "predict", str(root), "--checkpoint", str(grey_checkpoint), *words]) == 0
        assert told in capsys.readouterr().err
    assert main(["classify", "predict", str(root / "cat"), "--checkpoint", str(colour_checkpoint)]) == 0
    assert "in colours" not in capsys.readouterr().err
    spec = f"imagefolder:{root}"
    assert main(["classify", "eval", "--checkpoint", str(grey_checkpoint), "--data", spec]) == 0
    said = "images of test in colours, of which the network of one channel sees the brightness alone: 2 (2.png, 2.png)"
    assert said in capsys.readouterr().err
    assert main(["classify", "eval", "--checkpoint", str(colour_checkpoint), "--data", spec]) == 0
    assert "in colours" not in capsys.readouterr().err


def test_files_that_are_none_cost_no_other_and_what_is_not_taken_is_said(colour_checkpoint, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, kind in (("a.jfif", "JPEG"), ("b", "PNG"), ("c.AVIF", "AVIF"), ("d.JPG~", "JPEG")):
        picture().convert("RGB").save(photos / name, kind)
    (photos / "loop.jpg").symlink_to(photos / "loop.jpg")
    os.mkfifo(photos / "pipe.jpg")
    (photos / "notes.txt").write_text("words")
    picture().convert("RGB").save(photos / "e.gif", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    Image.new("RGBA", (8, 8)).save(photos / "f.png")
    (photos / os.fsdecode(b"caf\xe9\x1b[31m.png")).write_bytes((photos / "b").read_bytes())
    out = tmp_path / "found.json"
    words = ["classify", "predict", str(photos), "--checkpoint", str(colour_checkpoint), "--output", str(out)]
    assert main(words) == 1
    said = capsys.readouterr()
    assert "not used, no images: 1 (notes.txt)" in said.err
    assert "files with several frames or pages, of which the first is used: 1 (e.gif)" in said.err
    assert "images with an alpha channel, whose transparent parts are read as white: 1 (f.png)" in said.err
    assert "loop.jpg: can't be opened" in said.err
    assert "pipe.jpg: is a named pipe, not a file" in said.err
    assert "\x1b" not in said.out + said.err
    assert "7 classified, 2 skipped" in said.out
    found = json.loads(out.read_bytes())
    assert [len(found[key]) for key in ("results", "skipped")] == [7, 2]

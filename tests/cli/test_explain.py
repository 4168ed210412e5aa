import json

import numpy as np
import pytest
import torch
from explain_checkpoint import save_checkpoint
from PIL import Image

from involution.cli import main


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24), dtype=np.uint8)
    Image.fromarray(pixels).save("seven.png")
    save_checkpoint("a.ckpt")
    return tmp_path


def test_everything_at_once(here, capsys):
    save_checkpoint("twin.ckpt", "rednet_nano_conv")
    words = ["explain", "seven.png", "--checkpoint", "a.ckpt", "--twin", "twin.ckpt", "--layer", "stage2.1"]
    words += ["--at", "10,10", "--at", "15,3", "--style", "dark", "--frames", "3", "--output", "out"]
    assert main(words) == 0
    printed = capsys.readouterr().out.split()
    written = {str(path.relative_to(here)) for path in (here / "out").glob("[!.]*")}
    assert sorted(printed) == sorted(written - {"out/index.jsonl"})
    lines = [json.loads(line) for line in (here / "out/index.jsonl").read_text().splitlines()]
    assert {line["input"] for line in lines} == {str(here / "seven.png")}
    assert sorted(f"out/{name}" for line in lines for name in line["outputs"]) == sorted(printed)
    stem = "out/seven-layer2.1.conv2"
    still = [f"{stem}-kernels.png", f"{stem}-heatmap.png", "out/seven-stages.png", f"{stem}-receptive-field.png"]
    assert printed[:5] == [*still, f"{stem}-window.gif"]
    with Image.open(printed[0]) as image:
        assert max(image.convert("RGB").getpixel((2, 2))) < 60
    with Image.open(printed[4]) as image:
        assert image.n_frames == 3


def test_one_picture_in_another_format(here, capsys):
    words = ["explain", "seven.png", "--checkpoint", "a.ckpt", "--what", "heatmap", "--format", "svg"]
    assert main([*words, "--group", "2"]) == 0
    (file,) = (here / "runs/explain").glob("*.svg")
    assert file.name == "seven-layer2.0.conv2-heatmap.svg"
    assert "<svg" in file.read_text()
    words = ["explain", "seven.png", "--checkpoint", "a.ckpt", "--what", "receptive-field", "--average", "*.png"]
    assert main([*words, "--format", "pdf"]) == 0
    assert (here / "runs/explain/seven-layer2.0.conv2-receptive-field.pdf").read_bytes().startswith(b"%PDF")


def test_turned_images_are_told_once(here, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.jpg", "b.jpg"):
        Image.new("L", (24, 20)).save(name, exif=exif)
    save_checkpoint("twin.ckpt", "rednet_nano_conv")
    words = ["explain", "a.jpg", "b.jpg", "--checkpoint", "a.ckpt", "--twin", "twin.ckpt", "--average", "a.jpg"]
    assert main([*words, "--what", "receptive-field"]) == 0
    assert capsys.readouterr().err == (
        "turned upright by their EXIF orientation: 2 (a.jpg, b.jpg); --data.exif ignore in the training reads the "
        "pixels as stored\n"
        "a.jpg and 1 more: Cropped: of 20×24 pixels the network sees those from 0 to 19 across and from 3 to 21 down.\n"
    )


def test_a_group_that_there_is_not_is_told_before_anything_is_drawn(here, capsys):
    words = ["explain", "seven.png", "--checkpoint", "a.ckpt", "--what", "stages", "animation", "--group", "99"]
    assert main([*words, "--output", "out"]) == 2
    assert "groups of kernels; got group 99" in capsys.readouterr().err
    assert not list((here / "out").glob("*.png"))


def test_layers_are_listed(here, capsys):
    assert main(["explain", "--checkpoint", "a.ckpt", "--list-layers", "--frames", "9"]) == 0
    out, err = capsys.readouterr()
    assert out.split()[:2] == ["conv1.3", "layer1.0.conv2"]
    assert err == "--frames has no effect with --list-layers\n"


def test_without_a_checkpoint_it_takes_the_demos(here, capsys):
    assert main(["explain", "seven.png"]) == 2
    assert "`involution demo`" in capsys.readouterr().err
    (here / "runs/demo/rednet_nano-seed0").mkdir(parents=True)
    save_checkpoint("runs/demo/rednet_nano-seed0/best.ckpt")
    assert main(["explain", "seven.png", "--what", "kernels"]) == 0
    words = ["explain", "seven.png", "--untrained", "rednet_nano", "--what", "kernels"]
    assert main(words) == 2
    assert "seven-layer2.0.conv2-kernels.png: not overwritten: it holds other results" in capsys.readouterr().err
    assert main([*words, "--output", "other"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layer", "layer2.1.con"], "did you mean layer2.1.conv2?"),
        (["--layer", "stage2"], "matches several involutions: layer2.0.conv2, layer2.1.conv2"),
        (["--at", "24,3"], "position 24,3 is outside the image: x goes from 0 to 23, y from 0 to 19"),
        (["--at", "0,3"], "position 0,3 is cut off: the network sees x from"),
        (["--at", "middle"], "wanted --at X,Y in pixels, such as --at 10,20; got 'middle'"),
        (["--what", "kernel"], "got 'kernel'; did you mean kernels?"),
        (["--style", "drak"], "did you mean dark?"),
        (["--format", "bmp"], "--format takes png, svg, pdf; got 'bmp'"),
        (["--group", "9"], "got group 9"),
        (["--frames", "0"], "--frames and --group of 1 or more"),
        (["--untrained", "rednet_nano"], "--untrained can't be combined with --checkpoint"),
        (["--average", "nothing*"], "no images found in nothing*"),
        (["--device", "nowhere"], "no device named 'nowhere'"),
        (["--twin", "a.ckpt", "--what", "animation"], "it is not a twin of rednet_nano"),
        (["--laier", "x"], "unknown option --laier; did you mean --layer?"),
    ],
)
def test_mistakes_are_told_in_one_line(here, capsys, words, message):
    assert main(["explain", "seven.png", "--checkpoint", "a.ckpt", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(here.glob("runs/explain/*"))


def test_a_twin_that_is_none_is_told(here, capsys):
    save_checkpoint("twin.ckpt", "rednet_nano_conv")
    other = torch.load(save_checkpoint("other.ckpt"), weights_only=True)
    other["involution"]["classes"] = ["x", "y", "z", "dog"]
    torch.save(other, "other.ckpt")
    for twin, said in (
        ("twin.ckpt", ""),
        ("a.ckpt", "a.ckpt is no convolution twin of rednet_nano: it has involutions\n"),
        ("other.ckpt", "rednet_nano: it has involutions and was trained on other classes\n"),
    ):
        words = ["explain", "seven.png", "--checkpoint", "a.ckpt", "--what", "receptive-field", "--twin", twin]
        assert main([*words, "--output", twin.partition(".")[0]]) == 0
        error = capsys.readouterr().err
        assert ("twin of" in error) == bool(said)
        assert said in error


def test_bad_files(here, capsys):
    assert main(["explain", "none.png", "--checkpoint", "a.ckpt"]) == 2
    assert "none.png: no such file" in capsys.readouterr().err
    (here / "text.png").write_text("no picture")
    assert main(["explain", "text.png", "--checkpoint", "a.ckpt"]) == 2
    assert main(["explain", "seven.png", "--checkpoint", "none.ckpt"]) == 2
    save_checkpoint("fresh.ckpt", steps=0)
    assert main(["explain", "seven.png", "--checkpoint", "fresh.ckpt"]) == 2
    assert "its weights are untrained (0 steps)" in capsys.readouterr().err
    save_checkpoint("conv.ckpt", "rednet_nano_conv")
    assert main(["explain", "seven.png", "--checkpoint", "conv.ckpt"]) == 2
    assert "rednet_nano_conv has no involutions" in capsys.readouterr().err


def test_an_interrupt_leaves_nothing_half_written(here, capsys, monkeypatch):
    from involution.explain import animation

    def press(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(animation, "draw_tile", press)
    assert main(["explain", "seven.png", "--checkpoint", "a.ckpt", "--what", "animation"]) == 130
    assert not list(here.glob("runs/explain/*"))


def test_images_of_one_name_keep_their_own_pictures(here, capsys):
    for place in ("x", "y"):
        (here / place).mkdir()
        Image.new("L", (20, 20), 10).save(here / place / "img.png")
    words = ["--checkpoint", "a.ckpt", "--what", "heatmap", "--output", "out"]
    name = "img{}-layer2.0.conv2-heatmap.png"
    for image, number in (("x/img.png", ""), ("y/img.png", "-2"), ("x/img.png", ""), ("y/img.png", "-2")):
        assert main(["explain", image, *words]) == 0
        assert capsys.readouterr().out.split() == [f"out/{name.format(number)}"]
    lines = [json.loads(line) for line in (here / "out/index.jsonl").read_text().splitlines()]
    assert [(line["input"], line["outputs"]) for line in lines] == [
        (str(here / "x/img.png"), [name.format("")]),
        (str(here / "y/img.png"), [name.format("-2")]),
    ]


def test_one_bad_image_costs_none_of_the_others(here, capsys):
    (here / "bad.png").write_text("no picture")
    words = ["explain", "bad.png", "seven.png", "gone.png", "--checkpoint", "a.ckpt", "--what", "heatmap"]
    assert main([*words, "--output", "out"]) == 1
    said = capsys.readouterr()
    assert said.out.split() == ["out/seven-layer2.0.conv2-heatmap.png"]
    cropped = "seven.png: Cropped: of 24×20 pixels the network sees those from 3 to 21 across and from 0 to 19 down."
    bad = "skipped bad.png: not an image in a known format"
    assert said.err.splitlines() == ["gone.png: no such file or folder", bad, cropped]
    lines = [json.loads(line) for line in (here / "out/index.jsonl").read_text().splitlines()]
    assert [line.get("error") for line in lines] == ["not an image in a known format", None]
    # one of those that are averaged
    words = ["explain", "seven.png", "--checkpoint", "a.ckpt", "--what", "receptive-field", "--output", "other"]
    assert main([*words, "--average", "seven.png", "bad.png"]) == 1
    said = capsys.readouterr()
    assert said.out.split() == ["other/seven-layer2.0.conv2-receptive-field.png"]
    assert "skipped bad.png: not an image in a known format" in said.err


def test_a_picture_that_can_not_be_written_costs_none_of_the_others(here, capsys, monkeypatch):
    import matplotlib.figure

    save = matplotlib.figure.Figure.savefig

    def full(self, file, **options):
        if "heatmap" in str(file):
            raise OSError(28, "No space left on device")
        save(self, file, **options)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", full)
    words = ["explain", "seven.png", "--checkpoint", "a.ckpt", "--frames", "2", "--output", "out"]
    assert main(words) == 1
    said = capsys.readouterr()
    stem = "out/seven-layer2.0.conv2"
    others = [f"{stem}-kernels.png", "out/seven-stages.png", f"{stem}-receptive-field.png", f"{stem}-window.gif"]
    assert said.out.split()[:4] == others
    assert f"not written: {stem}-heatmap.png: No space left on device" in said.err
    assert (here / "out/index.jsonl").is_file()


def test_a_range_of_values_that_is_hardly_used_is_told(here, capsys):
    pixels = np.random.default_rng(0).integers(0, 4096, (20, 24)).astype(np.uint16)
    Image.fromarray(pixels).save("deep.png")
    words = ["--checkpoint", "a.ckpt", "--what", "heatmap"]
    assert main(["explain", "deep.png", *words]) == 0
    said = "warning: images that use less than a tenth of the range of their type: 1 (deep.png)"
    assert said in capsys.readouterr().err
    assert main(["explain", "seven.png", *words]) == 0
    assert "warning" not in capsys.readouterr().err


def test_what_is_cut_off_and_of_another_kind_is_told_once_for_all_images(here, capsys):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (400, 200), (200, 30, 30)).save(name)
    words = ["explain", "a.png", "b.png", "--checkpoint", "a.ckpt", "--what", "heatmap"]
    assert main(words) == 0
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "a.png and 1 more: This network knows 16×16 grey images; a photograph of 400×200 was shown.",
        "a.png and 1 more: Cropped: of 400×200 pixels the network sees those from 100 to 299 across and from 0 to 199 "
        "down.",
    ]

import json
import os

import pytest

from involution.engine.files import RECORD, Origin, atomic_path, check_free, made_in, made_of
from involution.engine.outputs import INDEX, Attempts, free_names, write_index


def origin(image, command="segment predict --output", checkpoint="/a.ckpt"):
    return Origin(command, (f"/photos/{image}",), checkpoint)


def write(file, of, text="x"):
    with made_of(of), atomic_path(file) as partial:
        partial.write_text(text)


def names(folder, *images, endings=(".png",), **options):
    wanted = [(os.path.splitext(os.path.basename(image))[0], origin(image, **options)) for image in images]
    return free_names(folder, wanted, endings)


def test_names_are_unlike_even_where_case_does_not_count(tmp_path):
    assert names(tmp_path, "a/img.png", "b/IMG.png", "c/img-2.png", "d/img.jpg") == ["img", "IMG-2", "img-2-2", "img-3"]
    assert not list(tmp_path.iterdir())


def test_an_image_keeps_its_name_and_leaves_that_of_others_alone(tmp_path):
    write(tmp_path / "img.png", origin("x/img.png"))
    write(tmp_path / "img-2.png", origin("y/img.png"))
    for images, expected in (
        (["x/img.png"], ["img"]),
        (["y/img.png"], ["img-2"]),
        (["y/img.png", "x/img.png"], ["img-2", "img"]),
        (["z/img.png", "y/img.png"], ["img-3", "img-2"]),
        (["z/IMG.png"], ["IMG-3"]),
    ):
        assert names(tmp_path, *images) == expected
    # all files of a group, under one number
    assert names(tmp_path, "z/img.png", endings=["-a.png", ".png"]) == ["img-3"]


def test_another_network_or_command_for_the_same_image_is_refused(tmp_path):
    write(tmp_path / "img.png", origin("x/img.png"))
    told = r"it holds other results \(segment predict --output of /photos/x/img.png, with /a.ckpt\)"
    for change in ({"checkpoint": "/b.ckpt"}, {"command": "detect predict --pictures"}):
        with pytest.raises(FileExistsError, match=told):
            names(tmp_path, "x/img.png", **change)
    (tmp_path / "other.png").write_text("mine")
    with pytest.raises(FileExistsError, match="involution did not make this file"):
        names(tmp_path, "other.png")


def test_a_file_is_replaced_by_one_of_at_least_the_same_inputs(tmp_path):
    file = tmp_path / "found.json"
    write(file, Origin("classify predict", ("/a", "/b"), "/c"))
    write(file, Origin("classify predict", ("/b", "/a", "/d"), "/c"))
    for inputs, checkpoint in ((("/a", "/b"), "/c"), (("/a", "/b", "/d"), "/e"), ((), "/c")):
        with (
            made_of(Origin("classify predict", inputs, checkpoint)),
            pytest.raises(FileExistsError, match=r"holds other results \(classify predict of /b and 2 more, with /c\)"),
        ):
            check_free(file)
    with pytest.raises(FileExistsError, match="holds other results"):
        write(file, None)
    assert json.loads((tmp_path / RECORD).read_text().splitlines()[-1])[3:] == [
        "classify predict",
        ["/b", "/a", "/d"],
        "/c",
    ]


def test_long_names_are_cut(tmp_path):
    (name,) = names(tmp_path, f"{'ä' * 120}.png")
    assert name == "ä" * 80
    write(tmp_path / f"{name}-layer2.0.conv2-receptive-field.png", None)


def test_the_index_is_of_all_that_is_there(tmp_path):
    write(tmp_path / "img.png", origin("x/img.png"))
    write(tmp_path / "img-2.png", origin("y/img.png"))
    write(tmp_path / "gone.png", origin("z/gone.png"))
    write(tmp_path / "map.png", Origin("explain", ("/photos/x/img.png", "/twin.ckpt"), "/a.ckpt"))
    (tmp_path / "gone.png").unlink()
    for _ in range(2):
        write_index(tmp_path, [(origin("a/broken.png"), "no image")])
        lines = [json.loads(line) for line in (tmp_path / INDEX).read_text().splitlines()]
        assert lines == [
            {"input": "/photos/a/broken.png", "error": "no image"} | MADE,
            {
                "input": "/photos/x/img.png",
                "outputs": ["map.png"],
                "command": "explain",
                "checkpoint": "/a.ckpt",
                "also": ["/twin.ckpt"],
            },
            {"input": "/photos/x/img.png", "outputs": ["img.png"]} | MADE,
            {"input": "/photos/y/img.png", "outputs": ["img-2.png"]} | MADE,
        ]


MADE = {"command": "segment predict --output", "checkpoint": "/a.ckpt"}


def test_one_that_fails_costs_none_of_the_others(tmp_path):
    said = []
    attempts = Attempts(said.append)
    (tmp_path / "b").write_text("mine")
    for name in "abc":
        with attempts.one():
            write(tmp_path / name, None)
    assert (attempts.failed, len(said)) == (1, 1)
    assert said[0].startswith(f"not written: {tmp_path / 'b'}: not overwritten")
    assert sorted(made_in(tmp_path)) == ["a", "c"]
    with pytest.raises(BrokenPipeError, match="pipe"), attempts.one():
        raise BrokenPipeError("pipe")

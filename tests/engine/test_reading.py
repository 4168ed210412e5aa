"""Whoever shows an image to a network shows it the same pixels, read as its training did."""

import numpy as np
import pytest
import torch
from app_checkpoints import save_detector, save_segmenter
from explain_checkpoint import save_checkpoint
from PIL import Image

from involution.app.checkpoints import Checkpoint
from involution.app.limits import read_upload
from involution.data.images import read_image
from involution.data.registry import Options
from involution.engine.checkpoint import CARD_KEY, read_recipe
from involution.engine.task import get_task
from involution.explain import Subject
from involution.predict import PredictError, load_predictor

SETTINGS = {
    "default": {},
    "raw": {"exif": "ignore"},
    "range": {"value_range": [1000.0, 5000.0]},
    "raw range": {"exif": "ignore", "value_range": [1000.0, 5000.0]},
}
SAVE = {"classify": lambda path: save_checkpoint(path, channels=3), "detect": save_detector, "segment": save_segmenter}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Return the checkpoint of a task with some settings of its data."""
    folder = tmp_path_factory.mktemp("checkpoints")
    made = {}

    def find(task, name):
        if (task, name) not in made:
            path = SAVE[task](folder / f"{task} {name}.ckpt")
            content = torch.load(path, weights_only=True)
            content[CARD_KEY]["recipe"]["data"] |= SETTINGS[name]
            torch.save(content, path)
            made[task, name] = path
        return made[task, name]

    return find


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Return a 16-bit picture, and a photograph that lies on its side."""
    folder = tmp_path_factory.mktemp("pictures")
    deep = np.random.default_rng(0).integers(0, 6000, (20, 24)).astype(np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(photo).resize((40, 24)).save(folder / "photo.jpg", exif=exif)
    return {"deep": folder / "deep.png", "photo": folder / "photo.jpg"}


@pytest.mark.parametrize("picture", ["deep", "photo"])
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("task", SAVE)
def test_all_see_the_same_pixels(checkpoints, pictures, monkeypatch, task, name, picture):
    path, file = checkpoints(task, name), pictures[picture]
    predictor = load_predictor(path, "cpu")
    # what an evaluation gives its data set
    config = read_recipe(predictor.card, path, get_task(task).config)
    assert Options.of(config.data).reading == predictor.reading == Checkpoint.read(path).reading
    seen = []

    def run(names, images, **options):
        seen.extend(images)
        raise PredictError("seen")

    monkeypatch.setattr(predictor, "run", run)
    for image in (file, Image.open(file), read_image(file, reading=predictor.reading)):
        with pytest.raises(PredictError, match="seen"):
            predictor.predict(image)
    expected = read_image(file, reading=Options.of(config.data).reading)
    # the page reads in a process of its own with this
    seen.append(read_upload(file, predictor.reading))
    assert {(image.mode, image.size, image.tobytes()) for image in seen} == {
        (expected.mode, expected.size, expected.tobytes())
    }
    # and what the network is given of it
    wanted, subject = predictor.look(expected), Subject.from_checkpoint(path)
    for image in (file, Image.open(file), expected):
        view = subject.view(image)
        assert torch.equal(view.input, wanted.input)
        assert view.image_size == (expected.height, expected.width)
    # the settings make a difference where there is one to make
    differs = name.startswith("raw") if picture == "photo" else name.endswith("range")
    assert (expected.tobytes() != read_image(file).tobytes()) == differs


def test_a_classifiers_input_is_of_the_file_as_read(checkpoints, pictures):
    predictor = load_predictor(checkpoints("classify", "raw range"), "cpu")
    for file in pictures.values():
        wanted = predictor.look(read_image(file, reading=predictor.reading)).input[0]
        for image in (file, str(file), Image.open(file)):
            assert torch.equal(predictor.prepare(image), wanted)


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_results_are_drawn_on_the_image_as_it_was_seen(checkpoints, pictures, task):
    for name, size in (("default", (24, 40)), ("raw", (40, 24))):
        result = load_predictor(checkpoints(task, name), "cpu").predict(pictures["photo"])
        drawn = [result.draw(image) for image in (pictures["photo"], Image.open(pictures["photo"]))]
        assert drawn[0].tobytes() == drawn[1].tobytes()
        assert drawn[0].width * size[1] == drawn[0].height * size[0]
        with pytest.raises(
            PredictError, match=f"wanted the image of the prediction, {size[0]} x {size[1]} pixels, got"
        ):
            result.draw(Image.new("RGB", size[::-1]))


def test_narrow_images_are_drawn_within_reason(checkpoints):
    image = Image.new("RGB", (1999, 1))
    drawn = load_predictor(checkpoints("segment", "default"), "cpu").predict(image).draw(image)
    assert drawn.size == (1999, 1)

"""Files in runtimes that take arrays: what NumPy makes of their results is what PyTorch makes of them."""

import numpy as np
import PIL.Image
import pytest
from pictures import picture

from involution.data.resizing import channels_first, linear, normalised, shorter_side
from involution.data.transforms import eval_transform
from involution.engine.task import get_task as engine_task
from involution.export import ExportError, arrays
from involution.export.metadata import Metadata
from involution.export.registry import get_task, on_tensors

CLASSES = ["a", "b", "c", "d"]
TASKS = ("classify", "detect", "segment")
STEPS = {"classify": ["resize", "crop", "normalise", "softmax"], "detect": ["resize", "pad", "normalise"]}
STEPS["segment"] = ["resize", "normalise", "softmax"]


def said(task, inside, **changes):
    """What a file says of itself."""
    preparation = {
        "in_graph": STEPS[task] if inside else [],
        "channels": "RGB",
        "resize": 32,
        "longest": 48 if task == "detect" else None,
        "crop": 28 if task == "classify" else None,
        "multiple_of": 16 if task == "detect" else None,
        "interpolation": "bilinear",
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.25, 0.3],
        "exif": "apply",
        "value_range": None,
    }
    inputs = [{"name": "images", "dtype": "float32", "shape": ["batch", 3, "height", "width"]}]
    inputs += [{"name": "size", "dtype": "int64", "shape": [2]}] if task == "detect" and not inside else []
    values = {
        "task": task,
        "model": "some",
        "classes": CLASSES,
        "category_ids": [3, 5, 7, 9],
        "preprocessing": preparation,
        "inputs": inputs,
        "outputs": [],
        "license": None,
        "source": "",
        "versions": {},
    }
    return Metadata(**{**values, **changes})


def softmax(logits):
    parts = np.exp(logits - logits.max(1, keepdims=True))
    return parts / parts.sum(1, keepdims=True)


def runs(task, inside, masks=True):
    """What computes something of its inputs, as a file would."""
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(3, len(CLASSES))).astype(np.float32)

    def dense(inputs):
        (images,) = inputs
        images = images.astype(np.float32) / 99
        if task == "classify":
            logits = images.std((2, 3)) @ weights
        else:
            step = 1 if inside else 3
            logits = np.einsum("nchw,ck->nkhw", images[:, :, ::step, ::step], weights)
        return (softmax(logits) if inside else logits,)

    def detector(inputs):
        height, width = inputs[0].shape[2:] if inside else inputs[1]
        corners = rng.uniform(-0.2, 1.2, (9, 2, 2)) * [width, height]
        corners.sort(1)
        boxes = corners.reshape(9, 4).clip(0, [width, height, width, height]).astype(np.float32)
        # one without an area
        boxes[3, 2:] = boxes[3, :2]
        scores = np.sort(rng.uniform(0.2, 1, 9).astype(np.float32))[::-1].copy()
        found = (boxes, scores, rng.integers(0, len(CLASSES), 9))
        return (*found, rng.uniform(0, 1, (9, 8, 8)).astype(np.float32)) if masks else found

    return detector if task == "detect" else dense


def predictors(task, inside, masks=True, **changes):
    """The same file by arrays and by tensors."""
    metadata = said(task, inside, **changes)
    first, second = (runs(task, inside, masks) for _ in range(2))
    network = get_task(task).network(on_tensors(lambda path: second)(None), metadata)
    return (
        arrays.PREDICTORS[task](arrays.File(first, metadata), metadata.card()),
        engine_task(task).predictor(network, metadata.card()),
    )


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("task", TASKS)
def test_arrays_and_tensors_give_the_same_results(task, inside, masks):
    ours, theirs = predictors(task, inside, masks, most=9)
    assert (ours.takes_pixels, theirs.takes_pixels) == (inside, inside and task != "detect")
    pictures = [picture(seed, size) for seed, size in enumerate([(64, 48), (30, 45), (32, 32)])]
    for one, other in zip(ours.predict(pictures), theirs.predict(pictures), strict=True):
        found, wanted = one.row(), other.row()
        for name in ("scores", "boxes", "shares"):
            if name in found:
                assert np.array(found.pop(name)) == pytest.approx(np.array(wanted.pop(name)), abs=1e-4)
        assert found == wanted
        if task == "detect":
            assert (one.most, one.full) == (other.most, other.full) == (9, one.found == 9)
            assert found["labels"]


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("task", TASKS)
def test_classes_that_are_not_to_be_chosen_from_are_not(task, inside):
    for predictor in predictors(task, inside):
        predictor.within = [1, 3]
        result = predictor.predict(picture(0, (64, 48)))
        names = result.shares if task == "segment" else result.labels
        assert names
        assert set(names) <= {"b", "d"}
        if task == "classify":
            assert sum(result.scores) == pytest.approx(1)


def test_of_equal_classes_the_first_comes_first():
    metadata = said("classify", False)
    file = arrays.File(lambda inputs: (np.zeros((len(inputs[0]), 4), np.float32),), metadata)
    result = arrays.FileClassifier(file, metadata.card()).predict(picture(0), topk=3)
    assert (result.labels, result.scores) == (("a", "b", "c"), (0.25, 0.25, 0.25))


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pillow_resizes_nearly_as_torchvision_does(mode, interpolation):
    rng = np.random.default_rng(0)
    for size in ((90, 61), (33, 200), (20, 24)):
        noise = PIL.Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).convert(mode)
        mean, std = [0.0] * len(mode), [1 / 255] * len(mode)
        wanted = eval_transform(48, len(mode), mean, std, interpolation, 1.0)(noise).numpy()
        resized = shorter_side(noise, 48, interpolation)
        left, top = (round((length - 48) / 2) for length in resized.size)
        found = normalised(channels_first(resized.crop((left, top, left + 48, top + 48))), mean, std)
        assert found.shape == wanted.shape
        apart = np.abs(found - wanted)
        assert apart.max() < 2.01
        assert (apart > 0.5).mean() < 0.05


def test_without_torchvision_pillow_prepares_the_images(monkeypatch):
    image = picture(2, (64, 48))
    for task in ("classify", "segment"):
        (predictor, _) = predictors(task, False)
        wanted = predictor._prepared(image)
        monkeypatch.setattr(arrays, "_is_there", lambda package: False)
        found = predictor._prepared(image)
        monkeypatch.undo()
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).mean() < 1e-3


@pytest.mark.parametrize("size", [(7, 9), (30, 20), (1, 1), (13, 40)])
def test_maps_are_resized_as_by_pytorch(size):
    import torch

    values = np.random.default_rng(0).normal(size=(2, 3, 13, 17)).astype(np.float32)
    wanted = torch.nn.functional.interpolate(torch.tensor(values), size, mode="bilinear", align_corners=False)
    found = linear(values, size)
    assert found.dtype == np.float32
    assert found == pytest.approx(wanted.numpy(), abs=1e-5)


def test_a_file_that_computes_something_else_is_refused():
    metadata = said("classify", False)
    file = arrays.File(lambda inputs: (np.zeros((1, 9), np.float32),), metadata)
    with pytest.raises(ExportError, match="the file names 4 classes and computes 1 x 9"):
        arrays.FileClassifier(file, metadata.card()).predict(picture(0))
    metadata = said("detect", True)
    found = (np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.array([4]))
    file = arrays.File(lambda inputs: found, metadata)
    with pytest.raises(ExportError, match="something else than boxes, scores and labels of 4 classes"):
        arrays.FileDetector(file, metadata.card()).predict(picture(0))


def test_images_that_can_not_be_prepared_are_set_aside():
    narrow = PIL.Image.new("RGB", (4000, 2))
    for task in ("classify", "segment"):
        (predictor, _) = predictors(task, True)
        (found,) = predictor.stream([PIL.Image.new("RGB", (200_000, 1))])
        assert "too narrow" in found.reason
    (predictor, _) = predictors("detect", False)
    (found,) = predictor.stream([narrow])
    assert (found.kind, "nothing is left of the shorter one" in found.reason) == ("network", True)
    inputs = [{"name": "images", "dtype": "float32", "shape": [1, 3, 32, 32]}, {"name": "size"}]
    (predictor, _) = predictors("detect", False, inputs=inputs)
    (found,) = predictor.stream([picture(0, (64, 48))])
    assert "exported for images of at most 32 x 32 pixels after the resize, got 32 x 42" in found.reason

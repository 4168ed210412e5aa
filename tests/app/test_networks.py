import pytest
import torch
from app_checkpoints import save_runs, uploaded
from pictures import picture
from PIL import Image

from involution.app import limits
from involution.app.checkpoints import Checkpoint
from involution.app.errors import AppError
from involution.app.examples import example_images
from involution.app.networks import predict, stage_kernels
from involution.explain import ExplainError, generated_kernels
from involution.predict import ClassificationPredictor, SegmentationPredictor


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = save_runs(tmp_path_factory.mktemp("runs"))
    return {
        name: Checkpoint.read(folder / name / "best.ckpt")
        for name in ("demo/rednet", "demo/twin", "scenes", "segments")
    }


def test_predictions_are_those_of_the_task(runs):
    image = picture()
    found = predict(runs["demo/rednet"], uploaded(image))
    model = ClassificationPredictor.from_checkpoint(runs["demo/rednet"].path)
    (expected,) = model.predict([image])
    assert (found.result.labels, found.result.scores) == (expected.labels, pytest.approx(expected.scores))
    assert found.parameters == sum(part.numel() for part in model.model.parameters())
    assert found.title == "rednet_nano"
    boxes = predict(runs["scenes"], uploaded(image))
    assert set(boxes.result.labels) == {"<b>two</b>"}
    assert boxes.result.masks.shape[1:] == (24, 20)
    labels = predict(runs["segments"], uploaded(image)).result.labels
    assert torch.equal(labels, SegmentationPredictor.from_checkpoint(runs["segments"].path).predict(image).labels)


def test_an_image_of_which_little_is_seen_is_told(runs):
    notes = [predict(runs["demo/rednet"], uploaded(picture(size=(16, width)))).note for width in (16, 160)]
    assert "middle" not in notes[0]
    assert notes[1].endswith("The network sees the middle alone, 10% of the image.")
    assert "middle" not in predict(runs["segments"], uploaded(picture(size=(32, 320)))).note


def test_kernels_of_each_stage_at_a_pixel_beside_the_twins(runs):
    image = picture(size=(16, 16)).convert("L")
    title, stages = stage_kernels(runs["demo/rednet"], runs["demo/twin"], uploaded(image), (9, 5))
    assert title == "rednet_nano"
    assert [(stage.title, stage.layer) for stage in stages] == [
        ("Stem", "conv1.3"),
        ("Stage 1", "layer1.1.conv2"),
        ("Stage 2", "layer2.1.conv2"),
        ("Stage 3", "layer3.1.conv2"),
    ]
    # maps of 16, 16, 8 and 4 positions a side
    assert [stage.position for stage in stages] == [(9, 5), (9, 5), (4, 2), (2, 1)]
    rednet, twin = (
        ClassificationPredictor.from_checkpoint(runs[name].path, "cpu") for name in ("demo/rednet", "demo/twin")
    )
    for stage in stages:
        row, column = stage.position
        whole = generated_kernels(rednet.model, rednet.prepare(image)[None], stage.layer)
        assert stage.groups == whole.shape[0]
        assert torch.equal(stage.kernels, whole[:4, :, :, row, column])
        weight = twin.model.get_parameter(f"{stage.layer}.weight")
        assert all(torch.equal(stage.fixed[i], weight[i, i]) for i in range(len(stage.kernels)))


def test_the_network_with_involutions_is_looked_into(runs):
    image = uploaded(picture(size=(16, 16)))
    title, stages = stage_kernels(runs["demo/twin"], runs["demo/rednet"], image, (3, 3))
    assert title == "rednet_nano"
    assert stages[0].fixed is not None
    assert stage_kernels(runs["demo/rednet"], None, image, (3, 3))[1][0].fixed is None
    # a network of another layout has no convolution in that place
    assert stage_kernels(runs["scenes"], runs["demo/twin"], image, (3, 3))[1][0].fixed is None
    with pytest.raises(AppError, match="rednet_nano_conv: no involutions, so no kernels are generated"):
        stage_kernels(runs["demo/twin"], None, image, (3, 3))


def test_a_pixel_that_is_cut_off(runs):
    with pytest.raises(ExplainError, match="position 0,8 is cut off"):
        stage_kernels(runs["demo/rednet"], None, uploaded(Image.new("L", (40, 16))), (8, 0))


@pytest.mark.parametrize("run", ["demo/rednet", "scenes", "segments"])
def test_the_time_limit_reaches_into_the_network(runs, run):
    with pytest.raises(AppError, match="stopped after 0 seconds"), limits.time_limit(0):
        predict(runs[run], uploaded(picture()))
    with pytest.raises(AppError, match="stopped after 0 seconds"), limits.time_limit(0):
        stage_kernels(runs[run], None, uploaded(picture()), (3, 12))


@pytest.mark.parametrize("size", [(1, 1), (9, 1), (3, 30)])
@pytest.mark.parametrize("run", ["demo/rednet", "scenes", "segments"])
def test_tiny_and_narrow_images(runs, run, size):
    image = uploaded(Image.new("RGB", size, "red"))
    predict(runs[run], image)
    title, _ = stage_kernels(runs[run], None, image, (size[1] // 2, size[0] // 2))
    assert "rednet_nano" in title


def test_examples_are_of_what_trainings_leave_out():
    examples = example_images()
    assert [(tasks, name) for tasks, name, _ in examples[:4]] == [
        (("classify",), "Digit 3"),
        (("classify",), "Digit 5"),
        (("classify",), "Digit 8"),
        (("detect", "segment"), "Scene 1"),
    ]
    from involution.data.arrays import digits_splits

    train, val, _ = digits_splits(0)
    seen = {bytes(pixels.numpy()) for part in (train, val) for pixels in part.images}
    assert all(image.tobytes() not in seen for tasks, _, image in examples if "classify" in tasks)
    assert all(image.size == (128, 128) for tasks, _, image in examples if "detect" in tasks)


def test_a_file_that_training_replaced_is_read_again_and_another_network_refused(tmp_path):
    file = save_runs(tmp_path) / "demo/rednet/best.ckpt"
    checkpoint, image = Checkpoint.read(file), uploaded(picture())
    before = predict(checkpoint, image).result.scores
    kernels = stage_kernels(checkpoint, None, image, (10, 10))[1][-1].kernels
    content = torch.load(file, weights_only=True)
    for value in content["state_dict"].values():
        value.mul_(2 if value.is_floating_point() else 1)
    torch.save(content, file)
    now = predict(checkpoint, image).result.scores
    (expected,) = ClassificationPredictor.from_checkpoint(file).predict([picture()])
    assert now == pytest.approx(expected.scores)
    assert now != before
    assert not torch.equal(stage_kernels(checkpoint, None, image, (10, 10))[1][-1].kernels, kernels)
    content["involution"]["classes"] = ["x", *content["involution"]["classes"][1:]]
    torch.save(content, file)
    for call in (lambda: predict(checkpoint, image), lambda: stage_kernels(checkpoint, None, image, (10, 10))):
        with pytest.raises(AppError, match="its file was replaced by that of another network, or with other classes"):
            call()

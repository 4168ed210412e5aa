import numpy as np
import pytest
import torch
from explain_checkpoint import save_checkpoint
from PIL import Image
from safetensors.torch import save_file

from involution.explain import ExplainError, Subject, View, involution_layers, layer_map, telling_positions
from involution.models import CheckpointError, rednet_nano
from involution.nn import Involution2d


def spot(size, x, y):
    """A dark picture (width, height) with a bright patch around a pixel."""
    pixels = np.zeros((size[1], size[0]), np.uint8)
    pixels[max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("size", "point"),
    [((320, 200), (160, 100)), ((320, 200), (90, 40)), ((200, 320), (60, 235)), ((48, 48), (8, 40))],
)
def test_pixels_of_the_file_are_found_in_the_input(tmp_path, size, point):
    checkpoint = save_checkpoint(tmp_path / "a.ckpt", side=64, crop_pct=0.875)
    subject = Subject.from_checkpoint(checkpoint)
    view = subject.view(spot(size, *point))
    row, column = view.input_pixel(*point)
    bright = (view.picture > 0.5).nonzero().float()
    middle = bright.mean(0)
    assert abs(middle[0] - row) <= 1
    assert abs(middle[1] - column) <= 1


def test_what_is_outside_or_cut_off_is_refused(tmp_path):
    view = Subject.from_checkpoint(save_checkpoint(tmp_path / "a.ckpt")).view(Image.new("L", (64, 32)))
    assert view.size == (16, 16)
    with pytest.raises(ExplainError, match="position 64,3 is outside the image: x goes from 0 to 63, y from 0 to 31"):
        view.input_pixel(64, 3)
    with pytest.raises(ExplainError, match="position 3,3 is cut off: the network sees x from 16 to 47"):
        view.input_pixel(3, 3)
    assert view.input_pixel(16, 0) == (0, 0)
    assert view.input_pixel(47, 31) == (15, 15)


def test_what_is_cut_off_and_what_is_of_another_kind_is_noted(tmp_path):
    subject = Subject.from_checkpoint(save_checkpoint(tmp_path / "a.ckpt"))
    assert subject.view(Image.new("L", (32, 32))).notes == ()
    (cropped,) = subject.view(Image.new("L", (64, 32))).notes
    assert cropped == "Cropped: of 64×32 pixels the network sees those from 16 to 47 across and from 0 to 31 down."
    other, _ = subject.view(Image.new("RGB", (300, 200), (255, 0, 0))).notes
    assert other == "This network knows 16×16 grey images; a photograph of 300×200 was shown."


def test_input_is_what_prediction_gives_the_network(tmp_path):
    from involution.predict import ClassificationPredictor

    checkpoint = save_checkpoint(tmp_path / "a.ckpt", channels=3, crop_pct=0.9)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    view = Subject.from_checkpoint(checkpoint).view(image)
    assert torch.equal(view.input[0], ClassificationPredictor.from_checkpoint(checkpoint, "cpu").prepare(image))
    torch.testing.assert_close(view.picture.permute(2, 0, 1), (view.input[0] * 0.25 + 0.5).clamp(0, 1))


def test_untrained_checkpoints_are_refused(tmp_path):
    with pytest.raises(ExplainError, match=r"weights are untrained \(0 steps\)"):
        Subject.from_checkpoint(save_checkpoint(tmp_path / "a.ckpt", steps=0))
    with pytest.raises(CheckpointError.__mro__[1], match="no such checkpoint"):
        Subject.from_checkpoint(tmp_path / "none.ckpt")


def test_weights_alone_are_taken_for_their_model(tmp_path):
    model = rednet_nano(in_chans=3)
    torch.nn.init.normal_(model.conv1[0].weight)
    save_file(model.state_dict(), tmp_path / "nano.safetensors")
    subject = Subject.from_checkpoint(tmp_path / "nano.safetensors")
    assert (subject.name, subject.untrained) == ("rednet_nano", False)
    assert torch.equal(subject.network.conv1[0].weight, model.conv1[0].weight)
    assert subject.view(Image.new("RGB", (50, 40))).size == (32, 32)
    assert "grey" not in str(subject.view(Image.new("RGB", (40, 40), "red")).notes)


def test_colours_that_weights_of_grey_do_not_see_are_told(tmp_path):
    save_file(rednet_nano(in_chans=1).state_dict(), tmp_path / "grey.safetensors")
    subject = Subject.from_checkpoint(tmp_path / "grey.safetensors")
    said = "This network knows grey images; one in colours was shown."
    assert subject.view(Image.new("RGB", (40, 40), "red")).notes[0] == said
    assert said not in subject.view(Image.new("RGB", (40, 40))).notes


@pytest.mark.parametrize(("side", "stride", "places"), [(16, 2, 8), (15, 2, 8), (32, 4, 8), (7, 1, 7)])
def test_positions_stand_for_the_patch_that_holds_a_pixel(side, stride, places):
    first = torch.nn.Conv2d(1, 16, 3, stride=max(1, stride // 2), padding=1)
    network = torch.nn.Sequential(first, Involution2d(16, 3, stride=min(stride, 2)))
    found = layer_map(View.of(network, torch.rand(1, 1, side, side), name="small"), "1")
    assert found.size == (places, places)
    assert found.stride == (stride, stride)
    for pixel in range(side):
        assert found.position(pixel, 0) == (pixel // stride, 0)
    assert found.middle(1, 0)[0] == 1.5 * stride - 0.5
    assert found.position(side - 1, side - 1) == (places - 1, places - 1)


def test_windows_are_those_that_the_operator_reads():
    network = torch.nn.Sequential(torch.nn.AvgPool2d(2), Involution2d(1, 5, stride=2, dilation=2))
    image = torch.rand(1, 1, 32, 32)
    found = layer_map(View.of(network, image, name="small"), "1")
    top, left, height, width = found.window(3, 4)
    # a change of the input moves this output only inside of the window
    leaf = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network.eval()(leaf)[0, 0, 3, 4], leaf)
    rows = gradient[0, 0].abs().sum(1).nonzero().flatten()
    columns = gradient[0, 0].abs().sum(0).nonzero().flatten()
    assert (rows[0] - 0.5, rows[-1] + 0.5) == (top, top + height)
    assert (columns[0] - 0.5, columns[-1] + 0.5) == (left, left + width)


def test_telling_positions_differ_and_stand_apart():
    view = View.of(rednet_nano(in_chans=1).eval(), torch.rand(1, 1, 16, 16), name="nano")
    found = layer_map(view, "conv1.3")
    places = telling_positions(found, 4)
    assert all(1 <= row <= 14 and 1 <= column <= 14 for row, column in places)
    gaps = [max(abs(a - c), abs(b - d)) for i, (a, b) in enumerate(places) for c, d in places[:i]]
    assert min(gaps) > 3
    with pytest.raises(ExplainError, match="wanted 1 position or more, got 0"):
        telling_positions(found, 0)


def _detector_checkpoint(path, recipe):
    from involution.engine.loading import make_card
    from involution.engine.tasks.detect.config import DetectConfig
    from involution.engine.tasks.detect.network import create_detector

    config = DetectConfig.load(recipe, {"model.weights": None})
    card = make_card(config, ["ant", "bee"], [1, 2])
    return _save(path, create_detector(config, 2, False), card)


def _segmenter_checkpoint(path, recipe):
    from involution.engine.loading import make_card
    from involution.engine.tasks.segment.config import SegmentConfig
    from involution.engine.tasks.segment.network import create_segmenter

    config = SegmentConfig.load(recipe, {"model.neck": "involution"})
    card = make_card(config, ["ground", "ant", "bee"])
    return _save(path, create_segmenter(config, 3, False), card)


def _save(path, network, card):
    weights = {f"model.{key}": value for key, value in network.state_dict().items()}
    torch.save({"involution": card.to_dict(), "state_dict": weights, "global_step": 5}, path)
    return path


@pytest.mark.parametrize(
    ("save", "recipe", "last"),
    [
        (_detector_checkpoint, "digit-scenes", "backbone.body.layer3.1.conv2"),
        (_detector_checkpoint, "digit-scenes-detr", "body.layer3.1.conv2"),
        # the pyramid's output layers are involutions, too
        (_segmenter_checkpoint, "digit-scenes", "backbone.fpn.layer_blocks.3"),
    ],
)
def test_detectors_and_segmenters_are_looked_into(tmp_path, save, recipe, last):
    if "detr" in recipe:
        pytest.importorskip("transformers")
    subject = Subject.from_checkpoint(save(tmp_path / "a.ckpt", recipe))
    view = subject.view(spot((128, 96), 100, 20))
    row, column = view.input_pixel(100, 20)
    assert view.picture[row, column].min() > 0.9
    assert view.picture[0, 0].max() < 0.1
    layers = involution_layers(subject.network)
    assert layers[-1] == last
    found = layer_map(view, last)
    # the network's input is divided among the positions of the map
    assert found.kernels.shape[1:3] == (7, 7)
    assert tuple(side / places for side, places in zip(view.size, found.size, strict=True)) == found.stride

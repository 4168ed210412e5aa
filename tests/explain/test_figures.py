from dataclasses import replace

import matplotlib.colors
import numpy as np
import pytest
import torch
from matplotlib.animation import FFMpegWriter
from PIL import Image
from torch import nn

from involution.explain import (
    ExplainError,
    View,
    animate,
    find_layer,
    heat_map_figure,
    kernels_figure,
    layer_map,
    receptive_field,
    receptive_field_figure,
    save_animation,
    stage_layers,
    stages_figure,
)
from involution.explain.animation import exact_palette, fixed_products, sliding_path
from involution.models import rednet_nano
from involution.models.variants import rednet_nano_conv
from involution.nn import Involution2d

LAYER = "layer2.1.conv2"


@pytest.fixture
def view():
    torch.manual_seed(0)
    return View.of(rednet_nano(in_chans=1).eval(), torch.rand(1, 1, 16, 16), name="nano")


def generated(view, layer):
    """What the layer's generator puts out in an ordinary forward pass."""
    caught = []
    hook = view.network.get_submodule(layer).generator.register_forward_hook(lambda m, a, out: caught.append(out))
    with torch.no_grad():
        view.network(view.input)
    hook.remove()
    return caught[0][0]


def drawn(axes):
    return torch.from_numpy(axes.images[-1].get_array().data)


def texts(figure):
    parts = [figure, *figure.subfigs]
    return [text.get_text() for part in parts for text in part.texts]


def test_find_layer_by_parts_of_its_name(view):
    assert find_layer(view.network, "layer3.0") == find_layer(view.network, "stage3.0") == "layer3.0.conv2"
    with pytest.raises(ExplainError, match=r"'stage2' matches several involutions: layer2\.0\.conv2, layer2\.1"):
        find_layer(view.network, "stage2")
    with pytest.raises(ExplainError, match=r"one of conv1\.3, .*got 'layer2.1.con'; did you mean layer2\.1\.conv2\?"):
        find_layer(view.network, "layer2.1.con")


@pytest.mark.parametrize("style", ["light", "dark"])
def test_tiles_are_the_generated_kernels(view, style):
    kernels = generated(view, LAYER)
    places = [(1, 2), (6, 4), (7, 0)]
    figure = kernels_figure(view, "stage2.1", places, style=style)
    picture, *tiles = [axes for axes in figure.axes if axes.images]
    assert len(tiles) == 6
    for index, axes in enumerate(tiles):
        assert torch.equal(drawn(axes), kernels[index // 3][(..., *places[index % 3])])
    on_picture = picture.images[1:]
    for image, (row, column) in zip(on_picture, places, strict=True):
        assert torch.equal(torch.from_numpy(image.get_array().data), kernels[0, :, :, row, column])
        left, right, bottom, top = image.get_extent()
        # stride 2: a position's patch is two pixels wide
        assert ((top + bottom) / 2, (left + right) / 2) == pytest.approx((2 * row + 0.5, 2 * column + 0.5))
    limits = {image.get_clim() for axes in tiles for image in axes.images}
    assert len(limits) == 1
    assert sum(limits.pop()) == 0


def test_heat_map_is_the_sum_of_each_kernel(view):
    kernels = generated(view, LAYER)
    figure = heat_map_figure(view, LAYER)
    first, second = figure.axes[1:3]
    torch.testing.assert_close(drawn(first), kernels[0].sum((0, 1)))
    torch.testing.assert_close(drawn(second), kernels[1].sum((0, 1)))
    assert second.get_title() == "group 2"
    assert list(first.images[0].get_extent()) == [-0.5, 15.5, 15.5, -0.5]
    assert drawn(heat_map_figure(view, LAYER, groups=[1]).axes[1]).equal(drawn(second))


def test_untrained_weights_are_named_in_every_picture(view):
    plain = kernels_figure(view, LAYER)
    random = View.of(view.network, view.input, name="nano", untrained=True)
    figures = [
        kernels_figure(random, LAYER),
        heat_map_figure(random, LAYER, style="dark"),
        receptive_field_figure([random], LAYER),
    ]
    moving = animate(random, LAYER, frames=1)
    moving._draw_was_started = True
    for figure in [*figures, moving._fig]:
        assert "UNTRAINED, RANDOM WEIGHTS" in texts(figure)
    assert "UNTRAINED, RANDOM WEIGHTS" not in texts(plain)


def test_dark_and_light(view):
    dark, light = (heat_map_figure(view, LAYER, style=style) for style in ("dark", "light"))
    brightness = [sum(matplotlib.colors.to_rgb(figure.get_facecolor())) for figure in (dark, light)]
    assert brightness[0] < 0.5
    assert brightness[1] > 2.5
    with pytest.raises(ExplainError, match="wanted the style light or dark, got 'blue'"):
        heat_map_figure(view, LAYER, style="blue")


def test_wrong_positions_and_groups_are_named(view):
    with pytest.raises(ExplainError, match=r"8 rows and 8 columns; got \(8, 0\)"):
        kernels_figure(view, LAYER, [(8, 0)])
    with pytest.raises(ExplainError, match="has 2 groups of kernels; got group 3"):
        heat_map_figure(view, LAYER, groups=[2])
    with pytest.raises(ExplainError, match="at most 8 positions"):
        kernels_figure(view, LAYER, [(0, 0)] * 9)


def test_receptive_field_of_a_convolution_is_its_kernel():
    conv = nn.Conv2d(2, 3, 3, stride=2, padding=1)
    field = receptive_field(nn.Sequential(conv), torch.rand(2, 2, 9, 9), "0", (2, 3))
    expected = torch.zeros(9, 9)
    # all output channels together, each input channel for itself
    expected[3:6, 5:8] = conv.weight.detach().sum(0).abs().sum(0)
    torch.testing.assert_close(field, expected / expected.max())


def test_receptive_field_of_an_involution_counts_kernel_and_generator():
    torch.manual_seed(0)
    network = nn.Sequential(Involution2d(2, 3, groups=1, norm_layer=None, act_layer=None)).eval()
    image = torch.rand(1, 2, 7, 7)
    field = receptive_field(network, image, "0")
    # by differences, in double precision
    network = network.double()
    expected = torch.zeros(2, 7, 7, dtype=torch.float64)
    for index in range(expected.numel()):
        step = torch.zeros(1, 2, 7, 7, dtype=torch.float64)
        step.view(-1)[index] = 1e-6
        high, low = (network(image.double() + sign * step)[0, :, 3, 3].sum() for sign in (1, -1))
        expected.view(-1)[index] = (high - low).detach() / 2e-6
    expected = expected.abs().sum(0)
    torch.testing.assert_close(field.double(), expected / expected.max(), atol=1e-4, rtol=1e-4)
    assert (field > 0).nonzero().amin(0).tolist() == [2, 2]
    assert (field > 0).nonzero().amax(0).tolist() == [4, 4]


def test_receptive_fields_side_by_side(view):
    twin = View.of(rednet_nano_conv(in_chans=1).eval(), view.input, name="twin")
    figure = receptive_field_figure([view, twin], LAYER)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["image", "nano", "twin"]
    field = receptive_field(twin.network, twin.input, LAYER)
    torch.testing.assert_close(drawn(figure.axes[2]), field.clamp(min=1e-3))
    # over the picture: nothing covers it where nothing matters
    below, above = figure.axes[2].images
    grey = torch.from_numpy(below.get_array().data)
    assert torch.corrcoef(torch.stack([grey.flatten(), view.picture.flatten()]))[0, 1] > 0.99
    assert (torch.from_numpy(above.get_alpha())[field <= 1e-3] == 0).all()
    with pytest.raises(ExplainError, match="small has no layer"):
        receptive_field_figure([view, View.of(nn.Conv2d(1, 1, 1), view.input, name="small")], LAYER)
    with pytest.raises(ExplainError, match=r"8 rows and 8 columns; got \(9, 0\)"):
        receptive_field(view.network, view.input, LAYER, (9, 0))


def test_animation_has_a_frame_for_each_position(view, tmp_path):
    kernels = generated(view, LAYER)
    moving = animate(view, LAYER, frames=5, group=1)
    path = sliding_path((8, 8), 5)
    done = []
    save_animation(moving, tmp_path / "window.gif", lambda frame, total: done.append((frame, total)))
    with Image.open(tmp_path / "window.gif") as image:
        assert image.n_frames == 5
    assert [frame for frame, _ in done] == list(range(5))
    image, *tiles = moving._fig.axes
    assert len(tiles) == 6
    moving._func(2)
    row, column = path[2]
    assert torch.equal(drawn(tiles[1]), kernels[1, :, :, row, column])
    assert image.get_xlabel() == f"row {row}, column {column}"
    # window × kernel = products, which add up to what the layer puts out there, at one of the group's channels
    inside = drawn(tiles[0]).isfinite()
    torch.testing.assert_close(drawn(tiles[2])[inside], (drawn(tiles[0]) * drawn(tiles[1]))[inside])
    output = []
    hook = view.network.get_submodule(LAYER).register_forward_hook(lambda module, args, out: output.append(out[0]))
    with torch.no_grad():
        view.network(view.input)
    hook.remove()
    sums = output[0][16:, row, column]
    assert (sums - drawn(tiles[2])[inside].sum()).abs().min() < 1e-4
    assert tiles[2].get_xlabel() == f"sum {round(drawn(tiles[2])[inside].sum().item(), 2) + 0.0:.2f}"
    assert list(tmp_path.glob("[!.]*")) == [tmp_path / "window.gif"]


def test_animation_as_video_if_ffmpeg_is_there(view, tmp_path, monkeypatch):
    moving = animate(view, LAYER, frames=2)
    moving._draw_was_started = True
    if FFMpegWriter.isAvailable():
        save_animation(moving, tmp_path / "window.mp4")
        assert (tmp_path / "window.mp4").read_bytes()[4:8] == b"ftyp"
    monkeypatch.setattr(FFMpegWriter, "isAvailable", lambda: False)
    with pytest.raises(ExplainError, match="MP4 needs ffmpeg"):
        save_animation(moving, tmp_path / "other.mp4")
    with pytest.raises(ExplainError, match=r"ends in \.gif or \.mp4"):
        save_animation(moving, tmp_path / "window.avi")


def test_paths_slide_to_and_fro():
    path = sliding_path((56, 56), 64)
    assert len(path) == 64
    assert (path[0], path[-1][0]) == ((0, 0), 55)
    assert sliding_path((2, 2), 4) == [(0, 0), (0, 1), (1, 1), (1, 0)]
    with pytest.raises(ExplainError, match="wanted 1 frame or more, got 0"):
        sliding_path((2, 2), 0)


def test_the_fixed_kernel_says_where_it_is_from(view):
    found = layer_map(view, LAYER)
    twin = View.of(rednet_nano_conv(in_chans=1).eval(), view.input, name="twin")
    fixed, origin = fixed_products(view, found, twin)
    weight = twin.network.get_submodule(LAYER).weight
    assert torch.equal(fixed.kernels, weight[fixed.target, fixed.source].detach())
    assert origin == f"twin, layer2.1.conv2, channel {fixed.source + 1} to channel {fixed.target + 1}"
    assert fixed.parts == weight.shape[1]
    _, origin = fixed_products(view, found)
    assert "conv1.6 of the same network" in origin
    assert "conv1.0" in fixed_products(view, layer_map(view, "stem"))[1]
    lonely = View.of(nn.Sequential(Involution2d(1, 3)), view.input, name="lonely")
    with pytest.raises(ExplainError, match="lonely has no convolution larger than 1×1"):
        fixed_products(lonely, layer_map(lonely, "0"))
    with pytest.raises(ExplainError, match="it is not a twin of nano"):
        fixed_products(view, found, lonely)


def test_windows_of_an_animation_are_whole(view):
    moving = animate(view, LAYER, frames=64)
    moving._draw_was_started = True
    axes = moving._fig.axes[0]
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for frame in range(64):
        moving._func(frame)
        for window in [patch for patch in axes.patches if not patch.get_fill()]:
            assert left < window.get_x()
            assert window.get_x() + window.get_width() < right
            assert top < window.get_y()
            assert window.get_y() + window.get_height() < bottom


def test_an_animation_keeps_the_colours_of_its_cells(view, tmp_path):
    moving = animate(view, LAYER, frames=3)
    save_animation(moving, tmp_path / "window.gif")
    moving._func(2)
    tile = moving._fig.axes[2]
    shown = tile.images[-1]
    box = tile.get_window_extent()
    with Image.open(tmp_path / "window.gif") as image:
        image.seek(2)
        frame = image.convert("RGB")
    scale = frame.width / moving._fig.bbox.width
    for row, column in ((0, 0), (3, 3), (6, 5)):
        x = (box.x0 + (column + 0.5) * box.width / 7) * scale
        y = frame.height - (box.y1 - (row + 0.5) * box.height / 7) * scale
        wanted = shown.cmap(shown.norm(shown.get_array()[row, column]), bytes=True)[:3]
        assert frame.getpixel((round(x), round(y))) == tuple(int(part) for part in wanted)


def test_colours_of_areas_are_exact_however_many_others_there_are():
    random = np.random.default_rng(0)
    frames = [random.integers(0, 256, (40, 60, 3), dtype=np.uint8) for _ in range(2)]
    violet, orange = (98, 72, 196), (189, 106, 18)
    frames[0][:10, :10], frames[1][20:, 30:] = violet, orange
    palette, places = exact_palette(frames)
    assert len(palette) <= 256
    assert (palette[places[0]][:10, :10] == violet).all()
    assert (palette[places[1]][20:, 30:] == orange).all()
    few, places = exact_palette([frame // 128 * 100 for frame in frames])
    assert (few[places[1]] == frames[1] // 128 * 100).all()


def test_notes_are_at_the_foot_and_a_heat_map_always_has_one(view):
    noted = replace(view, notes=("Cropped: something.",))
    moving = animate(noted, LAYER, frames=1)
    moving._draw_was_started = True
    heat = [heat_map_figure(noted, LAYER), stages_figure(noted)]
    for figure in [*heat, kernels_figure(noted, LAYER), receptive_field_figure([noted], LAYER), moving._fig]:
        assert "Cropped: something." in texts(figure)
    for figure in heat:
        assert "the last map is what random weights make of it" in " ".join(texts(figure))


def test_a_map_of_random_weights_is_beside_those_that_were_learned(view):
    random = view.with_random_weights()
    assert torch.equal(random.network.conv1[0].weight, view.with_random_weights().network.conv1[0].weight)
    assert not torch.equal(random.network.conv1[0].weight, view.network.conv1[0].weight)
    state = torch.get_rng_state()
    figure, stages = heat_map_figure(view, LAYER, groups=[1]), stages_figure(view)
    assert torch.equal(torch.get_rng_state(), state)
    axes = next(axes for axes in figure.axes if axes.get_title() == "random weights")
    values = generated(random, LAYER)[1].sum((0, 1))
    torch.testing.assert_close(drawn(axes), values)
    assert axes.images[0].get_clim()[1] == pytest.approx(values.abs().max().item())
    titles = [axes.get_title() for axes in stages.axes]
    assert titles.count("random weights") == 1
    # of random weights there is nothing to compare with
    for figure in (heat_map_figure(random, LAYER), stages_figure(random)):
        assert "random weights" not in [axes.get_title() for axes in figure.axes]
        assert "these weights are random" in " ".join(texts(figure))


def test_the_window_of_the_first_position_has_its_true_size(view):
    figure = kernels_figure(view, LAYER, [(1, 2), (6, 4)])
    axes = figure.axes[0]
    top, left, height, width = layer_map(view, LAYER).window(1, 2)
    (window,) = [p for p in axes.patches if p.get_width() == width and p.get_linewidth() == 1.8]
    assert (window.get_y(), window.get_x(), window.get_height()) == (top, left, height)
    assert axes.get_xlim()[0] < left
    assert axes.get_ylim()[1] < top
    assert axes.get_xlabel() == "dashed: window of A,\n14×14 of 16×16 pixels"


def test_stages_have_a_row_each(view):
    figure = stages_figure(view, style="dark")
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    # a group is named where it is first: later stages have more of them
    assert sorted(titles) == ["group 1", "group 2", "group 3", "group 4", "image", "random weights"]
    rows = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel().startswith("stage")]
    assert rows == [f"stage {stage}" for stage in stage_layers(view.network)]
    twin = View.of(rednet_nano_conv().eval(), torch.rand(1, 3, 16, 16), name="twin")
    with pytest.raises(ExplainError, match="twin has no stages of involutions; draw one layer"):
        stages_figure(twin)

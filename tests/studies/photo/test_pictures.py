import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms.v2.functional import pil_to_tensor

from involution.studies import plots
from involution.studies.photo import pictures, table
from involution.studies.photo.networks import PER_PIXEL, PerPixel
from involution.studies.photo.runs import LONG, TIME, Plan
from involution.studies.photo.train import noisy_photo, photo


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return PerPixel()


def test_drawn_kernels_are_the_networks_over_the_pixels_that_they_average(network):
    drawn = pictures.kernel_map(network, "flower")
    top, left = pictures._PLACES["flower"]
    with torch.no_grad():
        kernels = network.kernels(noisy_photo("flower")[None])[0, 0]
    assert drawn.shape == (64, 64)
    assert drawn[~drawn.isnan()].max() == 1
    scale = kernels[:, :, top + 4 : top + 64 : 8, left + 4 : left + 64 : 8].max()
    for row, column in ((4, 4), (28, 60)):
        # the window's centre is the pixel that it makes
        window = drawn[row - 3 : row + 4, column - 3 : column + 4]
        torch.testing.assert_close(window * scale, kernels[:, :, top + row, left + column])
    assert drawn.isnan().sum() == 64 * 64 - 64 * 49


def test_crops_show_true_pixels(network, tmp_path):
    shown = pictures.crops("china", {PER_PIXEL: network, "nothing": nn.Identity()})
    top, left = pictures._PLACES["china"]
    torch.testing.assert_close(shown.clean, photo("china")[:, top : top + 64, left : left + 64])
    torch.testing.assert_close(shown.results["nothing"], shown.noisy)
    titles = {"noisy": "noisy", "weights": "kernels", PER_PIXEL: "ours", "nothing": "other", "clean": "clean"}
    figure = pictures.hero([shown], titles, {"china": {"noisy": "21.0 dB"}}, "dark")
    assert {text.get_text() for text in figure.texts} >= {"noisy", "kernels", "ours", "clean", "21.0 dB"}
    figure.savefig(tmp_path / "hero.png")
    with Image.open(tmp_path / "hero.png") as picture:
        screen = pil_to_tensor(picture.convert("RGB")) / 255
    # the last column, each pixel as a square of 3x3
    x, y = screen.shape[2] - 12 - 192, 50
    for corner in (0, 2):
        pixels = screen[:, y + corner : y + 192 : 3, x + corner : x + 192 : 3]
        torch.testing.assert_close(pixels, shown.clean, rtol=0, atol=0.006)


def test_no_weight_is_paper_and_the_most_is_ink():
    colors = pictures.kernel_colors(torch.tensor([[torch.nan, 0.0, 1.0]]), "#ffffff", "#000000")
    torch.testing.assert_close(colors[:, 0], torch.tensor([[1.0, 1.0, 0.0]] * 3))


def test_chart_has_a_line_for_each_network():
    plan = Plan(seeds=2, comparisons=(TIME, LONG))

    def record(run):
        return {"psnr": 25.0 + run.seed, "ssim": 0.5, "steps": 1, "seconds": run.seconds} | dict.fromkeys(
            ("noisy_psnr", "noisy_ssim"), 0.2
        )

    rows = table.rows(plan, {run: record(run) for run in plan.runs()})
    figure = plots.photo_figure(rows)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "learned from china.jpg, tested on flower.jpg",
        "learned from flower.jpg, tested on china.jpg",
    ]
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 7
    assert plots.photo_figure([]) is None

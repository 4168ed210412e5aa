import pytest
import torch
from torch import nn

from involution import explain
from involution.explain.kernels import kernel_limit, mark_positions
from involution.nn import Involution2d


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), Involution2d(32, 5, stride=2), nn.BatchNorm2d(32))


def test_involution_layers_names_the_involutions(model):
    assert explain.involution_layers(model) == ["1"]
    assert explain.involution_layers(nn.Conv2d(1, 1, 1)) == []


def test_generated_kernels_are_those_that_are_applied(model):
    image = torch.rand(1, 1, 9, 11)
    kernels = explain.generated_kernels(model, image, "1")
    assert kernels.shape == (2, 5, 5, 5, 6)
    # the operator by hand at one place of the second group
    model.eval()
    with torch.no_grad():
        features, output = model[0](image), model[:2](image)
    window = nn.functional.pad(features, (2, 4, 2, 4))[0, 16:, 4:9, 6:11]
    torch.testing.assert_close((window * kernels[1, :, :, 2, 3]).sum((1, 2)), output[0, 16:, 2, 3])


def test_generated_kernels_leave_the_model_as_it_was(model):
    model.train()
    mean = model[2].running_mean.clone()
    explain.generated_kernels(model, torch.rand(1, 1, 8, 8), "1")
    assert model.training
    assert torch.equal(model[2].running_mean, mean)
    assert not model[1].generator._forward_hooks


def test_generated_kernels_refuse_other_layers_and_batches(model):
    with pytest.raises(ValueError, match="wanted the name of an involution, one of 1; got '0'"):
        explain.generated_kernels(model, torch.rand(1, 1, 8, 8), "0")
    with pytest.raises(ValueError, match=r"wanted one image \[1, C, H, W\], got shape \[2, 1, 8, 8\]"):
        explain.generated_kernels(model, torch.rand(2, 1, 8, 8), "1")


def test_mosaic_puts_each_kernel_where_it_is_used():
    kernels = torch.rand(2, 3, 5, 4, 2)
    mosaic = explain.kernel_mosaic(kernels, group=1)
    assert mosaic.shape == (4 * 4 + 1, 2 * 6 + 1)
    for i in range(4):
        for j in range(2):
            assert torch.equal(mosaic[4 * i + 1 : 4 * i + 4, 6 * j + 1 : 6 * j + 6], kernels[1, :, :, i, j])
    assert mosaic.isnan().sum() == mosaic.numel() - kernels[1].numel()


def test_kernel_limit_ignores_a_rare_outlier_and_is_never_zero():
    assert kernel_limit(torch.cat([torch.full((999,), -0.5), torch.tensor([100.0])])) == pytest.approx(0.5)
    assert kernel_limit(torch.zeros(3, 3)) > 0


def test_plot_kernels_draws_every_group_at_every_position():
    kernels = torch.randn(2, 7, 7, 8, 8)
    figure = explain.plot_kernels(torch.rand(16, 16), kernels, [(0, 0), (3, 5), (7, 7)])
    tiles = [axes for axes in figure.axes if axes.images and axes.images[0].get_array().shape == (7, 7)]
    assert len(tiles) == 6
    assert [axes.get_title() for axes in tiles[:3]] == ["A", "B", "C"]
    assert [axes.get_ylabel() for axes in tiles[::3]] == ["group 1", "group 2"]
    drawn = torch.from_numpy(tiles[4].images[0].get_array().data)
    assert torch.equal(drawn, kernels[1, :, :, 3, 5])
    limits = {axes.images[0].get_clim() for axes in tiles}
    assert len(limits) == 1
    low, high = limits.pop()
    assert low == -high


def test_plot_mosaic_draws_the_whole_map():
    kernels = torch.randn(1, 3, 3, 4, 4)
    axes = explain.plot_mosaic(kernels).axes[0]
    assert axes.images[0].get_array().shape == (17, 17)


def test_positions_are_marked_at_the_middle_of_their_patch():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    mark_positions(axes, torch.rand(16, 16), [(0, 3)], (8, 4))
    (mark,) = axes.texts
    # row 0 of 8 covers pixels 0 and 1, column 3 of 4 covers pixels 12 to 15
    assert mark.xy == (13.5, 0.5)
    assert mark.get_text() == "A"

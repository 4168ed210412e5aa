import pytest
import torch
from torch.nn import functional as F

from involution.studies.photo.networks import NETWORKS, PER_PIXEL, PerPixel


@pytest.mark.parametrize("name", NETWORKS)
def test_a_picture_becomes_one_of_the_same_size(name):
    image = torch.rand(2, 3, 9, 11)
    assert NETWORKS[name].build()(image).shape == image.shape


def test_kernels_sum_to_one_and_make_weighted_averages():
    torch.manual_seed(0)
    network, image = PerPixel(width=4, kernel_size=3), torch.rand(1, 3, 6, 7)
    with torch.no_grad():
        kernels, found = network.kernels(image), network(image)
    assert kernels.shape == (1, 1, 3, 3, 6, 7)
    assert kernels.min() > 0
    torch.testing.assert_close(kernels.sum((2, 3)), torch.ones(1, 1, 6, 7))
    # by hand at one position, with the picture's edge
    padded = F.pad(image, (1, 1, 1, 1))
    for row, column in ((0, 0), (3, 4)):
        window = padded[0, :, row : row + 3, column : column + 3]
        expected = (window * kernels[0, 0, :, :, row, column]).sum((1, 2))
        torch.testing.assert_close(found[0, :, row, column], expected)


def test_those_of_equal_parameters_have_no_fewer():
    def parameters(name):
        return sum(parameter.numel() for parameter in NETWORKS[name].build().parameters())

    own = parameters(PER_PIXEL)
    assert own == (3 * 9 * 16 + 16) + (16 * 9 * 16 + 16) + (16 * 49 + 49)
    for name in ("residual CNN, equal parameters", "depthwise 7×7 CNN"):
        assert own < parameters(name) < 1.07 * own

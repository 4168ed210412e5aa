import math

import pytest
import torch

from involution.engine.image_quality import psnr, ssim


def test_psnr_by_hand():
    truth = torch.full((3, 8, 8), 0.5)
    assert psnr(truth + 0.1, truth) == pytest.approx(20, abs=1e-4)
    noisy = truth + 0.2 * torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert psnr(noisy, truth) == pytest.approx(-10 * math.log10(((noisy - truth) ** 2).mean().item()), abs=1e-4)


def test_what_lies_outside_of_the_colours_is_clipped():
    truth = torch.ones(3, 16, 16)
    truth[:, ::2] = 0.5
    assert psnr(truth + 0.5 * (truth == 1), truth) == math.inf
    assert ssim(truth + 0.5 * (truth == 1), truth) == pytest.approx(1)


def test_ssim_falls_with_noise():
    truth = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert ssim(truth, truth) == pytest.approx(1)
    assert 0 < ssim(truth + 0.3 * noise, truth) < ssim(truth + 0.1 * noise, truth) < 1

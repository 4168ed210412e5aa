import time

import pytest
import torch

from involution.engine.image_quality import psnr
from involution.studies.photo import train
from involution.studies.photo.networks import NETWORKS, PER_PIXEL
from involution.studies.photo.train import NOISE, Run, cost, measure, noisy_photo, photo


def test_photographs_and_their_noise():
    clean, noisy = photo("flower"), noisy_photo("flower")
    assert clean.shape == noisy.shape == (3, 427, 640)
    assert (clean.min(), clean.max()) == (0, 1)
    assert (noisy - clean).std().item() == pytest.approx(NOISE, rel=0.01)
    # what is outside of the colours is clipped, so there is less than 20.17 dB of noise
    assert psnr(noisy, clean) > 20.17


def test_steps_are_counted_and_the_seed_decides():
    run = Run("one 7×7 convolution", "flower", 0, steps=3)
    assert run.test == "china"
    before = torch.get_rng_state(), torch.get_num_threads()
    first, found = train.train(run)
    assert found["steps"] == 3
    again, other = train.train(run)[0], train.train(Run(run.network, "flower", 1, steps=3))[0]
    torch.testing.assert_close(again.weight, first.weight, rtol=0, atol=0)
    assert not torch.equal(other.weight, first.weight)
    torch.testing.assert_close(torch.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]


def test_time_is_the_processors(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(time, "process_time", lambda: float(next(clock)))
    _, found = train.train(Run("one 7×7 convolution", "china", 0, seconds=4))
    assert found == {"steps": 3, "seconds": 5}


def test_learning_rate_rises_then_falls_to_zero():
    rates = [train._schedule(done / 100) for done in range(101)]
    assert rates[0] < 0.03
    assert max(rates) == rates[5] > 0.99
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[100] == pytest.approx(0, abs=1e-9)


def test_few_pixels_are_those_in_the_middle(monkeypatch):
    image = torch.arange(3 * 6 * 8.0).reshape(3, 6, 8)
    torch.testing.assert_close(train.square(image, 2), image[:, 2:4, 3:5])
    seen = []
    monkeypatch.setattr(train, "_crops", lambda clean: seen.append(clean.shape) or torch.zeros(1, 3, 48, 48))
    train.train(Run("one 7×7 convolution", "china", 0, steps=1, side=96))
    assert seen == [(3, 96, 96)]


def test_measured_is_what_the_network_makes_of_the_other_photograph():
    found = measure(torch.nn.Identity(), "china")
    assert found["psnr"] == pytest.approx(found["noisy_psnr"])
    assert found["ssim"] == pytest.approx(found["noisy_ssim"])
    torch.manual_seed(0)
    # averages of 49 pixels have less noise, whatever their weights
    assert measure(NETWORKS[PER_PIXEL].build(), "flower")["psnr"] > 25


def test_costs_by_hand():
    assert cost("one 7×7 convolution") == (3 * 3 * 49 + 3, 3 * 3 * 49)
    assert cost(PER_PIXEL)[1] == 3 * 9 * 16 + 16 * 9 * 16 + 16 * 49 + 3 * 49

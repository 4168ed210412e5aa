"""One training: a network learns on one photograph to take noise away, and is measured on another."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from involution.engine.image_quality import psnr, ssim
from involution.studies.photo.networks import NETWORKS
from involution.studies.workers import alone

PHOTOS = ("china", "flower")
NOISE = 25 / 255
"""Standard deviation of the noise; colours are in 0..1."""

# crops of a step, and pixels of a side of each
_CROPS, _SIDE = 4, 48
# pixels at a crop's edges, where layers see zeros around it, that don't count
_EDGE = 4
# part of the training in which the learning rate rises
_WARM_UP = 0.05


@dataclass(frozen=True)
class Run:
    """What one training is.

    Attributes:
        network: Name in `NETWORKS`.
        train: Photograph that it learns on; the other one tests it.
        seed: Of the weights at the start, the crops and their noise.
        seconds: Of the processor that training takes, on one thread; None where steps count.
        steps: Optimizer steps; None where seconds count.
        side: Pixels of a side of the square in the middle of the photograph that is learned from; 0 for all of it.
    """

    network: str
    train: str
    seed: int
    seconds: float | None = None
    steps: int | None = None
    side: int = 0

    @property
    def test(self) -> str:
        """The other photograph."""
        return next(name for name in PHOTOS if name != self.train)


@cache
def photo(name: str) -> Tensor:
    """Return one of scikit-learn's two photographs `[3, 427, 640]`, colours in 0..1."""
    from sklearn.datasets import load_sample_image

    return torch.from_numpy(load_sample_image(f"{name}.jpg").copy()).permute(2, 0, 1).contiguous() / 255


@cache
def noisy_photo(name: str) -> Tensor:
    """Return the photograph that every network is tested on: the same noise for all."""
    clean = photo(name)
    return clean + NOISE * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))


def square(image: Tensor, side: int) -> Tensor:
    """Return the square of `side` pixels in the middle of an image `[C, H, W]`; the image for 0."""
    if not side:
        return image
    top, left = ((size - side) // 2 for size in image.shape[-2:])
    return image[:, top : top + side, left : left + side]


def train(run: Run) -> tuple[nn.Module, dict[str, float]]:
    """Train a network on one thread, with a learning rate that falls to zero over its time or its steps.

    Args:
        run: What is trained; `seconds` are those of this process.

    Returns:
        The network, and the steps and seconds that it took.
    """
    entry = NETWORKS[run.network]
    clean = square(photo(run.train), run.side)
    with alone(run.seed):
        network = entry.build()
        optimizer = torch.optim.Adam(network.parameters(), entry.learning_rate)
        begin, steps = time.process_time(), 0
        while (done := _share(run, time.process_time() - begin, steps)) < 1:
            for group in optimizer.param_groups:
                group["lr"] = entry.learning_rate * _schedule(done)
            crops = _crops(clean)
            found = network(crops + NOISE * torch.randn_like(crops))
            loss = F.l1_loss(_inside(found), _inside(crops))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
        seconds = time.process_time() - begin
    return network.eval(), {"steps": steps, "seconds": seconds}


def measure(network: nn.Module, name: str) -> dict[str, float]:
    """Return PSNR and SSIM of what a network makes of the noisy photograph, and of that as it is."""
    clean, noisy = photo(name), noisy_photo(name)
    found = denoised(network, noisy)
    return {
        "psnr": psnr(found, clean),
        "ssim": ssim(found, clean),
        "noisy_psnr": psnr(noisy, clean),
        "noisy_ssim": ssim(noisy, clean),
    }


def denoised(network: nn.Module, noisy: Tensor) -> Tensor:
    """Return what a network makes of an image `[3, H, W]`."""
    with torch.inference_mode():
        return network(noisy[None])[0].clamp(0, 1)


def cost(name: str) -> tuple[int, int]:
    """Return parameters of a network of `NETWORKS`, and its multiply-adds for a pixel."""
    from involution.studies.cost import multiply_adds

    network, side = NETWORKS[name].build(), 64
    image = torch.zeros(1, 3, side, side)
    with torch.inference_mode():
        macs = multiply_adds(lambda: network(image))
    return sum(parameter.numel() for parameter in network.parameters()), round(macs / side**2)


def _share(run: Run, seconds: float, steps: int) -> float:
    """Return which part of the training is done."""
    if run.steps is not None:
        return steps / run.steps
    return seconds / (run.seconds or math.inf)


def _schedule(done: float) -> float:
    return min(1.0, (done + 0.001) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * done))


def _crops(clean: Tensor) -> Tensor:
    rows, columns = (torch.randint(0, size - _SIDE + 1, (_CROPS,)).tolist() for size in clean.shape[-2:])
    return torch.stack([clean[:, y : y + _SIDE, x : x + _SIDE] for y, x in zip(rows, columns, strict=True)])


def _inside(image: Tensor) -> Tensor:
    return image[..., _EDGE:-_EDGE, _EDGE:-_EDGE]


def record(run: Run) -> tuple[nn.Module, dict[str, Any]]:
    """Train and measure; return the network and what was found."""
    network, found = train(run)
    return network, {**found, **measure(network, run.test)}

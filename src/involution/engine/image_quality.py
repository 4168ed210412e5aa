"""How close an image is to the true one: PSNR and SSIM, by torchmetrics."""

from __future__ import annotations

from torch import Tensor


def psnr(image: Tensor, truth: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB; higher is closer.

    Args:
        image: Colours `[C, H, W]` in 0..1; what lies outside is clipped, as it would be in a file.
        truth: What it should be, of the same shape.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    return float(peak_signal_noise_ratio(image.clamp(0, 1), truth, data_range=1.0))


def ssim(image: Tensor, truth: Tensor) -> float:
    """Return the structural similarity, 1 for equal images.

    Args:
        image: Colours `[C, H, W]` in 0..1, of 6 pixels a side or more; what lies outside is clipped.
        truth: What it should be, of the same shape.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    found = structural_similarity_index_measure(image.clamp(0, 1)[None], truth[None], data_range=1.0)
    assert isinstance(found, Tensor)
    return float(found)

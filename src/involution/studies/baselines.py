"""What involution is compared with."""

import torch.nn.functional as F
from torch import Tensor


def unfold_involution2d(input: Tensor, weight: Tensor, stride: int = 1, padding: int = 0, dilation: int = 1) -> Tensor:
    """Apply involution the common way: unfold the input into K² times its size, multiply, sum.

    Args:
        input: ``[N, C, H, W]``.
        weight: ``[N, G, K, K, H_o, W_o]``.
        stride: Step of the window.
        padding: Zeros around the input.
        dilation: Distance between taps.

    Returns:
        ``[N, C, H_o, W_o]``.

    Example:
        >>> from involution import involution2d
        >>> x, kernels = torch.randn(2, 32, 14, 14), torch.randn(2, 2, 7, 7, 14, 14)
        >>> torch.allclose(unfold_involution2d(x, kernels, padding=3), involution2d(x, kernels, padding=3), atol=1e-4)
        True
    """
    batch, groups, k_h, k_w, height, width = weight.shape
    columns = F.unfold(input, (k_h, k_w), dilation, padding, stride)
    columns = columns.view(batch, groups, -1, k_h * k_w, height, width)
    return (columns * weight.flatten(2, 3).unsqueeze(2)).sum(dim=3).flatten(1, 2)

"""Networks compiled for inference, in the process that uses them."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from involution.models.fuse import fuse


@contextmanager
def without_word_of_cuda() -> Iterator[None]:
    """Leave out what PyTorch's compiler says where CUDA's tools are and no GPU is, of code for the CPU."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class CompiledNetwork(nn.Module):
    """A folded copy of a network, compiled by PyTorch when it is first called and called like the network.

    Attributes:
        network: The folded network.
        compile_seconds: What the calls that compiled have taken, None before the first.

    Example:
        >>> import timm
        >>> fast = compile_for_inference(timm.create_model("rednet_nano").eval())
        >>> fast.training, fast.network.layer1[0].conv2.generator is not None
        (False, True)
    """

    def __init__(self, network: nn.Module, dynamic: bool | None) -> None:
        super().__init__()
        self.network = network
        self.compile_seconds: float | None = None
        # weights become constants in the memory order that their convolutions want
        self._call: Any = torch.compile(network, dynamic=dynamic, options={"freezing": True})

    def forward(self, *inputs: Any) -> Any:
        """Return what the network returns; without gradients."""
        start = time.perf_counter()
        with torch.no_grad(), without_word_of_cuda():
            found = self._call(*inputs)
        if self.compile_seconds is None:
            self.compile_seconds = time.perf_counter() - start
        return found

    def train(self, mode: bool = True) -> CompiledNetwork:
        """Stay in evaluation mode, or refuse to leave it.

        Raises:
            ValueError: If training is wanted: the norms are gone.
        """
        if mode:
            raise ValueError("a network compiled for inference can't be trained; train the one that it was made of")
        super().train(False)
        return self


def compile_for_inference(model: nn.Module, *, dynamic: bool | None = None) -> CompiledNetwork:
    """Return a copy of a network that is as fast as PyTorch alone makes it: norms folded, weights frozen, compiled.

    The involutions stay this package's kernels, one fused call each; everything around them is compiled, which takes
    from half a minute to minutes on a CPU, at the first call. PyTorch keeps the code in the folder that
    ``TORCHINDUCTOR_CACHE_DIR`` names, so that the next process is faster. It needs a C++ compiler.

    Args:
        model: A network in evaluation mode, which stays as it is.
        dynamic: As of ``torch.compile``: True for code that takes any size, None to find out which sizes change.

    Raises:
        ValueError: If the model is in training mode.

    Example:
        >>> import timm
        >>> fast = compile_for_inference(timm.create_model("rednet_nano").eval())
        >>> fast.compile_seconds is None  # nothing is compiled before the first call
        True
        >>> scores = fast(torch.rand(1, 3, 64, 64))  # doctest: +SKIP
        >>> fast.compile_seconds  # doctest: +SKIP
        97.3
    """
    folded = copy.deepcopy(model)
    fuse(folded)
    return CompiledNetwork(folded, dynamic).eval()

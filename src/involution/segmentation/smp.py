"""segmentation-models-pytorch's segmenters on any network in timm's registry, including RedNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

import involution.models.variants  # noqa: F401  (registers RedNet)
from involution.extras import require
from involution.models.arguments import check_arguments, named_arguments
from involution.models.checkpoint import CheckpointReport
from involution.models.loading import load_checkpoint
from involution.models.pyramid import parameters_outside

__all__ = ["SmpSegmenter", "smp"]

_MODELS = {"smp_fpn": "FPN", "smp_upernet": "UPerNet", "smp_deeplabv3plus": "DeepLabV3Plus"}


# of segmentation-models-pytorch's arguments; further ones would go to timm
_SET_HERE = {"encoder_name", "encoder_weights", "in_channels", "classes", "aux_params"}


class SmpSegmenter(nn.Module):
    """One of segmentation-models-pytorch's networks, for images of any size.

    Args:
        network: a network that needs images whose sides are multiples of 32.

    Attributes:
        encoder: the network's backbone.
    """

    def __init__(self, network: nn.Module, loaded: CheckpointReport | None = None) -> None:
        super().__init__()
        self.network = network
        self.loaded = loaded

    @property
    def encoder(self) -> nn.Module:
        """The network's backbone."""
        encoder: nn.Module = self.network.encoder  # type: ignore[assignment]
        return encoder

    @property
    def trunk(self) -> nn.Module:
        """The features of timm's network in it."""
        trunk: nn.Module = self.encoder.model  # type: ignore[assignment]
        return trunk

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of everything but the backbone."""
        return parameters_outside(self, self.encoder)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, classes, H, W] of images [N, C, H, W]."""
        height, width = x.shape[-2:]
        padded = F.pad(x, (0, -width % 32, 0, -height % 32), mode="replicate")
        logits: Tensor = self.network(padded)
        return logits[..., :height, :width]


def smp(
    name: str, num_classes: int, backbone: str = "rednet50_stem7", *, weights: str | Path | None = None, **kwargs: Any
) -> SmpSegmenter:
    """One of segmentation-models-pytorch's segmenters, which differ from the published ones.

    Its FPN has no 3×3 output convolutions and sums fewer layers; its UPerNet has more norms and no auxiliary head.

    Args:
        name: ``smp_fpn``, ``smp_upernet`` or ``smp_deeplabv3plus``.
        num_classes: Classes.
        backbone: Name in timm's registry.
        weights: File with trained weights of the backbone, or the name of published ones.
        **kwargs: Arguments of segmentation-models-pytorch's network.

    Raises:
        ValueError: Another name.
        CheckpointError: Weights of another network.
        MissingExtra: segmentation-models-pytorch is not installed.

    Example:
        >>> smp("smp_fpn", 19, "rednet26_stem7").eval()(torch.rand(1, 3, 64, 70)).shape
        torch.Size([1, 19, 64, 70])
    """
    if name not in _MODELS:
        raise ValueError(f"no segmenter {name!r}; choose from {', '.join(_MODELS)}")
    require("segmentation_models_pytorch")
    import segmentation_models_pytorch

    build = getattr(segmentation_models_pytorch, _MODELS[name])
    check_arguments(name, kwargs, named_arguments(build) - _SET_HERE)
    network = build(encoder_name=f"tu-{backbone}", encoder_weights=None, classes=num_classes, **kwargs)
    loaded = None if weights is None else load_checkpoint(network.encoder.model, weights)
    return SmpSegmenter(network, loaded)

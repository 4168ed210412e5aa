"""Backbones with a feature pyramid, whose output convolutions may be involutions.

The pyramid is torchvision's ("Feature Pyramid Networks for Object Detection", CVPR 2017). In the published detectors
and segmenters with an involution neck, each 3×3 convolution after the top-down path becomes a 7×7 involution without
norm or activation; the lateral 1×1 convolutions stay.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import timm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from involution.models.arguments import check_arguments, network_arguments
from involution.models.checkpoint import CheckpointReport
from involution.models.loading import load_checkpoint
from involution.nn import Involution2d

__all__ = ["Backbone", "FeaturePyramid", "Kind", "group_norm", "parameters_outside"]

Kind = Literal["convolution", "involution"]
NORMS = ("batch", "group")
# a ResNet's stem and first stage
_FROZEN = ("conv1", "bn1", "layer1")


def group_norm(channels: int, **kwargs: Any) -> nn.GroupNorm:
    """Group norm with at most 32 groups, fewer if 32 does not divide ``channels``."""
    return nn.GroupNorm(math.gcd(32, channels), channels, **kwargs)


class Backbone(nn.Module):
    """The stages of a network in timm's registry, optionally with the first ones frozen.

    Args:
        name: Name in timm's registry: rednet50_stem7, its twin rednet50_conv, resnet50, …
        levels: Which of its features to return, as indices into ``feature_info``; for a RedNet 0 is the stem and i
            the i-th stage.
        weights: File of trained weights or the name of published ones, as `load_checkpoint` takes it. Then the stem
            and the first stage are frozen and every batch norm keeps its statistics, as published.
        freeze: Freeze so (True) or train everything (False); by default as ``weights`` says. What is frozen is known
            by a ResNet's names, RedNet's too.
        norm: ``batch``, or ``group`` for training from scratch with small batches.
        in_chans: Channels of the images.
        model_args: Further arguments of the network.
        load: Read the weights; False where a checkpoint of the whole detector brings them afterwards.

    Attributes:
        channels: Channels of each level.
        strides: Ratio of image size to each level's size.
        frozen: Whether stem, first stage and batch norms' statistics are frozen.
        loaded: What was read from ``weights``, None without.
        settings: Name, levels, norm, in_chans and model_args, as they were given.

    Raises:
        ValueError: No such network, norm or argument, levels that are not different, a freeze without weights or of a
            network that is no ResNet, or group norm where weights of batch norms are to be loaded.
        CheckpointError: Weights of another network.

    Example:
        >>> body = Backbone("rednet26", levels=(1, 2))
        >>> [tuple(level.shape) for level in body(torch.rand(1, 3, 64, 64))]
        [(1, 256, 16, 16), (1, 512, 8, 8)]
    """

    def __init__(
        self,
        name: str,
        levels: Sequence[int] = (1, 2, 3, 4),
        *,
        weights: str | Path | None = None,
        freeze: bool | None = None,
        norm: str = "batch",
        in_chans: int = 3,
        model_args: Mapping[str, Any] | None = None,
        load: bool = True,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
        if norm == "group" and (weights is not None or freeze):
            raise ValueError(
                "norm='group' is for training from scratch: trained weights and frozen stages need batch norms"
            )
        if freeze and weights is None:
            raise ValueError("freeze=True needs weights: a stem that was never trained must not be frozen")
        if not timm.is_model(name):
            raise ValueError(f"no network {name!r} in timm's registry")
        if not levels or len(set(levels)) != len(levels):
            raise ValueError(f"levels wants different features of {name}, got {list(levels)[:10]}")
        if model_args:
            check_arguments(name, model_args, network_arguments(name))
        extra: dict[str, Any] = {"norm_layer": group_norm} if norm == "group" else {}
        try:
            body: Any = timm.create_model(
                name, features_only=True, out_indices=tuple(levels), in_chans=in_chans, **extra, **(model_args or {})
            )
        except (IndexError, AssertionError) as error:
            every: Any = timm.create_model(name, features_only=True, **(model_args or {}))
            count = len(every.feature_info)
            # as many, and as coarse as there are
            able = list(range(count))[-len(levels) :]
            raise ValueError(
                f"levels of {name} go from 0 to {count - 1} ({count} features), got {list(levels)}; in a training: "
                f"--model.levels '{able}'"
            ) from error
        self.body = body
        self.settings: dict[str, Any] = {
            "name": name,
            "levels": list(levels),
            "norm": norm,
            "in_chans": in_chans,
            "model_args": dict(model_args or {}),
        }
        self.channels: list[int] = body.feature_info.channels()
        self.strides: list[int] = body.feature_info.reduction()
        self.frozen = freeze if freeze is not None else weights is not None
        parts = [part for part, _ in self.body.named_children()]
        if self.frozen and not set(_FROZEN) <= set(parts):
            raise ValueError(
                f"{name} has no {', '.join(_FROZEN)} to freeze: its parts are {', '.join(parts)}; train all of it "
                "with freeze=False"
            )
        self.loaded: CheckpointReport | None = None
        if weights is not None and load:
            self.loaded = load_checkpoint(self.body, weights)
        if self.frozen:
            self.freeze_stem()
            # the batch norms are to be in eval mode from the beginning
            self.train(self.training)

    def freeze_stem(self) -> None:
        """Freeze the parameters of stem and first stage."""
        for part in _FROZEN:
            self.body.get_submodule(part).requires_grad_(False)

    def train(self, mode: bool = True) -> Backbone:
        """Train or evaluate; the batch norms of a frozen backbone, its generators' too, stay in eval mode."""
        super().train(mode)
        if self.frozen:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the levels ``[N, channels[i], H/strides[i], W/strides[i]]`` of images ``[N, C, H, W]``."""
        features: list[Tensor] = self.body(x)
        return features


class FeaturePyramid(nn.Module):
    """A backbone and torchvision's feature pyramid on its levels, as torchvision's detectors expect them.

    Args:
        backbone: The backbone.
        out_channels: Channels of every returned level.
        neck: ``convolution`` (3×3) or ``involution`` (7×7) after the top-down path.
        extra_blocks: torchvision's block that adds coarser levels.

    Raises:
        ValueError: Another neck, or channels that an involution can't group by 16.

    Example:
        >>> pyramid = FeaturePyramid(Backbone("rednet26"), neck="involution")
        >>> {name: tuple(level.shape) for name, level in pyramid(torch.rand(1, 3, 64, 64)).items()}
        {'0': (1, 256, 16, 16), '1': (1, 256, 8, 8), '2': (1, 256, 4, 4), '3': (1, 256, 2, 2)}
    """

    def __init__(
        self,
        backbone: Backbone,
        out_channels: int = 256,
        *,
        neck: Kind = "convolution",
        extra_blocks: ExtraFPNBlock | None = None,
    ) -> None:
        super().__init__()
        check_kind("neck", neck)
        self.backbone = backbone
        self.fpn = FeaturePyramidNetwork(backbone.channels, out_channels, extra_blocks)
        if neck == "involution":
            self.fpn.layer_blocks = nn.ModuleList(Involution2d(out_channels, 7) for _ in backbone.channels)
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Return the levels of images ``[N, C, H, W]`` by name, finest first."""
        levels = self.backbone(x)
        named: OrderedDict[str, Tensor] = self.fpn(OrderedDict((str(i), level) for i, level in enumerate(levels)))
        return named


def parameters_outside(network: nn.Module, body: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of ``network`` that are not those of ``body``, a part of it.

    Example:
        >>> body = nn.Linear(2, 2)
        >>> [tuple(found.shape) for found in parameters_outside(nn.Sequential(body, nn.Linear(2, 3)), body)]
        [(3, 2), (3,)]
    """
    inside = {id(parameter) for parameter in body.parameters()}
    return [parameter for parameter in network.parameters() if id(parameter) not in inside]


def check_kind(what: str, kind: str) -> None:
    """Raise ``ValueError`` unless ``kind`` is convolution or involution."""
    if kind not in ("convolution", "involution"):
        raise ValueError(f"{what} must be convolution or involution, got {kind!r}")

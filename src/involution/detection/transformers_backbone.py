"""Our backbones as transformers knows its own, so that its networks on them can be saved and loaded.

Importing this file imports transformers and registers `TimmRegistryBackbone` under the model type
``involution_backbone``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoBackbone, AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.detr.modeling_detr import replace_batch_norm

from involution.models.pyramid import Backbone

__all__ = ["TimmRegistryBackbone", "TimmRegistryBackboneConfig", "freeze_norms"]


class TimmRegistryBackboneConfig(PreTrainedConfig):
    """What a `Backbone` is made from.

    Args:
        name: Name in timm's registry.
        levels: Which of its features to return.
        norm: ``batch`` or ``group``.
        in_chans: Channels of the images.
        model_args: Further arguments of the network.
        frozen: Whether stem, first stage and batch norms are frozen.
        **kwargs: Of transformers' own.
    """

    model_type = "involution_backbone"

    def __init__(
        self,
        name: str = "rednet50_stem7",
        levels: tuple[int, ...] | list[int] = (4,),
        norm: str = "batch",
        in_chans: int = 3,
        model_args: dict[str, Any] | None = None,
        frozen: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.name = name
        self.levels = list(levels)
        self.norm = norm
        self.in_chans = in_chans
        self.model_args = dict(model_args or {})
        self.frozen = frozen

    @classmethod
    def of(cls, body: Backbone) -> TimmRegistryBackboneConfig:
        """The config behind a backbone."""
        return cls(**body.settings, frozen=body.frozen)


class TimmRegistryBackbone(PreTrainedModel):
    """A `Backbone` from its config.

    Args:
        config: The config.
    """

    config_class = TimmRegistryBackboneConfig

    def __init__(self, config: TimmRegistryBackboneConfig, **kwargs: Any) -> None:
        super().__init__(config)
        body = Backbone(
            config.name,
            config.levels,
            # they come afterwards
            weights="" if config.frozen else None,
            load=False,
            freeze=config.frozen,
            norm=config.norm,
            in_chans=config.in_chans,
            model_args=config.model_args,
        )
        if config.frozen:
            freeze_norms(body)
        self.channels = body.channels
        # where transformers' DETRs look for the network; no child, because they would freeze its batch norms
        object.__setattr__(self, "_backbone", body)


def freeze_norms(body: nn.Module) -> None:
    """Turn a network's batch norms, those of kernel generators too, into transformers' frozen ones."""
    with torch.no_grad():
        replace_batch_norm(body)


AutoConfig.register(TimmRegistryBackboneConfig.model_type, TimmRegistryBackboneConfig, exist_ok=True)
AutoBackbone.register(TimmRegistryBackboneConfig, TimmRegistryBackbone, exist_ok=True)

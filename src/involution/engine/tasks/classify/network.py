"""The classifier that the settings of a run describe."""

from __future__ import annotations

import torch
from torch import nn

from involution.engine.checkpoint import create_network
from involution.engine.settings import ConfigError
from involution.engine.tasks.classify.config import ClassifyConfig
from involution.engine.weights import load_weights


def create_classifier(config: ClassifyConfig, num_classes: int, weights: bool) -> nn.Module:
    """Make the classifier that the settings describe.

    Args:
        config: the settings.
        num_classes: classes.
        weights: read the weights that training starts from; if False, a checkpoint provides them later.

    Raises:
        ConfigError: for an unknown network, or one that can't take the images.
        CheckpointError: for weights that can't be used.
    """
    network = create_network(config.model.name, config.model.args, num_classes, config.data.channels)
    if weights:
        _check_input(network, config)
        if config.model.weights:
            # the classes are known to the training
            network.loaded = load_weights(network, config.model.weights)  # type: ignore[assignment]
    return network


def _check_input(network: nn.Module, config: ClassifyConfig) -> None:
    """Raise `ConfigError` for a network that can't take images of this size, such as a ViT for another size."""
    side = config.data.image_size
    network.eval()
    try:
        with torch.no_grad():
            network(torch.zeros(1, config.data.channels, side, side))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ConfigError(f"{config.model.name} can't take images of {side} x {side} pixels: {error}") from error
    network.train()

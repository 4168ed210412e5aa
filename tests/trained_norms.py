"""Networks whose norms have statistics and weights as training would give them."""

import torch
from torch import nn


def trained(model):
    """Set the norms of a network as training would; returns it in evaluation mode."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            # an involution multiplies features by features: with larger ones the deepest networks overflow
            nn.init.uniform_(module.weight, -0.7, 0.7)
            nn.init.normal_(module.bias, 0, 0.1)
    return model.eval()

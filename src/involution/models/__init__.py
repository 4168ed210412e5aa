"""RedNet models, registered in timm by the import, and their checkpoints."""

from involution.extras import require

require("timm")

from involution.models.checkpoint import CheckpointReport, convert_checkpoint
from involution.models.compiled import CompiledNetwork, compile_for_inference
from involution.models.errors import CheckpointError
from involution.models.fuse import FuseReport, fuse
from involution.models.inference import FusedConv2d, InferenceReport, optimize_for_inference
from involution.models.loading import load_checkpoint
from involution.models.rednet import InvolutionBottleneck, RedNet, ResNetC
from involution.models.variants import (
    convolution_twin,
    rednet26,
    rednet38,
    rednet50,
    rednet101,
    rednet152,
    rednet_micro,
    rednet_nano,
)

__all__ = [
    "CheckpointError",
    "CheckpointReport",
    "CompiledNetwork",
    "FuseReport",
    "FusedConv2d",
    "InferenceReport",
    "InvolutionBottleneck",
    "RedNet",
    "ResNetC",
    "compile_for_inference",
    "convert_checkpoint",
    "convolution_twin",
    "fuse",
    "load_checkpoint",
    "optimize_for_inference",
    "rednet26",
    "rednet38",
    "rednet50",
    "rednet101",
    "rednet152",
    "rednet_micro",
    "rednet_nano",
]

"""Involution as modules."""

from involution.nn.involution import Involution1d, Involution2d, Involution3d, KernelGenerator
from involution.nn.replace import ConversionReport, convert_conv_to_involution

__all__ = [
    "ConversionReport",
    "Involution1d",
    "Involution2d",
    "Involution3d",
    "KernelGenerator",
    "convert_conv_to_involution",
]

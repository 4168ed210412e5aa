"""Involution as modules."""

from .convert import ConversionReport, convert_conv_to_involution
from .involution import Involution1d, Involution2d, Involution3d, KernelGenerator

__all__ = [
    "ConversionReport",
    "Involution1d",
    "Involution2d",
    "Involution3d",
    "KernelGenerator",
    "convert_conv_to_involution",
]

"""Involution (CVPR 2021, arXiv 2103.06255): the operator, the modules and the RedNet models built on it."""

from .nn import Involution1d, Involution2d, Involution3d
from .ops import dynamic_involution2d, involution1d, involution2d, involution3d

__version__ = "0.1.0"

__all__ = [
    "Involution1d",
    "Involution2d",
    "Involution3d",
    "dynamic_involution2d",
    "involution1d",
    "involution2d",
    "involution3d",
]

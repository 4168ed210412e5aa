"""Involution as modules."""

from .involution import Involution1d, Involution2d, Involution3d, KernelGenerator

__all__ = ["Involution1d", "Involution2d", "Involution3d", "KernelGenerator"]

"""The involution operator. Imports nothing but torch."""

from . import flops as flops
from . import native
from .functional import dynamic_involution2d, involution1d, involution2d, involution3d
from .triton.register import register

__all__ = ["dynamic_involution2d", "involution1d", "involution2d", "involution3d"]

native.load()
register()

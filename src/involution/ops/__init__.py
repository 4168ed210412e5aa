"""The involution operator. Imports nothing but torch."""

from . import backends, native, plain
from . import flops as flops
from . import sharding as sharding
from .cuda import record as cuda_record
from .functional import dynamic_involution2d, involution1d, involution2d, involution3d
from .triton import record as triton_record

__all__ = ["dynamic_involution2d", "involution1d", "involution2d", "involution3d"]

native.load()
# from the slowest to the fastest
for _backend in (plain.BACKEND, native.BACKEND, triton_record.BACKEND, cuda_record.BACKEND):
    backends.register(_backend)

"""What a process knows about the others that share its job."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# by what a launcher tells a process that it is one of several
_LAUNCHED = ("TORCHELASTIC_RUN_ID", "RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK")


def is_main_process() -> bool:
    """Whether this is the first or only process of a job."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def tell(message: str) -> None:
    """Print to standard error, once for all processes of a job."""
    if is_main_process():
        print(message, file=sys.stderr)


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process shares its work with no others: those of its job have ended, or are about to."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
    # and of SLURM's, by which Lightning would wait for the other tasks
    names = [name for name in os.environ if name in _LAUNCHED or name.startswith("SLURM_")]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)

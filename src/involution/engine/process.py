"""What a process knows about the others that share its job."""

import os
import sys


def is_main_process() -> bool:
    """Whether this is the first or only process of a job."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def tell(message: str) -> None:
    """Print to standard error, once for all processes of a job."""
    if is_main_process():
        print(message, file=sys.stderr)

"""What is wrong with a checkpoint file."""

from involution.plain import CheckpointError as CheckpointError
from involution.plain import WeightsError as WeightsError
from involution.plain import shorten as shorten


def in_one_line(error: BaseException) -> str:
    """What another library's error says, in one line of at most some 200 characters."""
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__

"""What is wrong with a checkpoint file."""

from involution.plain import CheckpointError as CheckpointError
from involution.plain import WeightsError as WeightsError
from involution.plain import shorten as shorten

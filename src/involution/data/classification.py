"""Images with one label each: what the engine opens by."""

from typing import Any

from involution.data.records import DataSet
from involution.data.registry import Options, open_data

ClassificationData = DataSet[Any]


def open_dataset(spec: str, *, split_seed: int = 0, classes: str | None = None) -> ClassificationData:
    """Open a classification data set; see `open_data`."""
    return open_data("classify", spec, Options(split_seed=split_seed, classes=classes))

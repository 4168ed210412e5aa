"""The embedded digits: 1,797 images of 8 x 8 pixels that scikit-learn brings along."""

from __future__ import annotations

from typing import Any

from involution.data.findings import Findings
from involution.data.records import DataSet
from involution.data.registry import Format, Options, register


def _open(spec: str, path: str, options: Options) -> DataSet[Any]:
    from involution.data.arrays import digits_splits
    from involution.data.labelled import classification_data

    train, val, test = digits_splits(options.split_seed)
    parts = {"train": train, "val": val, "test": test}
    return classification_data(spec, [str(i) for i in range(10)], parts, Findings(drawn_by={"split_seed"}), options)


register(Format("digits", "classify", "digits", "built in, 1,797 handwritten digits", _open))

"""The embedded scenes of handwritten digits, with boxes and label maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from involution.data.formats.coco import open_coco_folder
from involution.data.formats.masks import open_masks
from involution.data.records import DataSet
from involution.data.registry import Format, Options, register

_DESCRIPTION = "built in, composed once into data/digit-scenes or PATH"


def _folder(path: str) -> Path:
    from involution.data.scenes import SCENES_FOLDER, make_digit_scenes

    return make_digit_scenes(path or SCENES_FOLDER)


def _boxes(spec: str, path: str, options: Options) -> DataSet[Any]:
    return open_coco_folder(spec, _folder(path), options)


def _label_maps(spec: str, path: str, options: Options) -> DataSet[Any]:
    return open_masks(spec, str(_folder(path)), options)


for _task, _open in (("detect", _boxes), ("segment", _label_maps)):
    register(Format("digit-scenes", _task, "digit-scenes[:PATH]", _DESCRIPTION, _open))

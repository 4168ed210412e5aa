"""Running a written file on real images and comparing it with PyTorch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from involution.data.images import read_image
from involution.engine.predictor import Predictor, find_images, not_found
from involution.export.errors import ExportError
from involution.extras import require

_IMAGES = 8
_ROUNDS, _CALLS, _SECONDS, _PAUSE = 5, 5, 0.2, 0.05


def real_images(predictor: Predictor[Any], sources: Sequence[str] | None, large: bool = False) -> list[Any]:
    """Images to compare on, as PIL images.

    Args:
        predictor: whose network will see them.
        sources: files, folders and glob patterns; by default embedded images of the task.
        large: of the embedded ones photographs, too, which have to be made smaller.

    Raises:
        ExportError: if one of the sources has no images.
        ImageError: if one can't be read.
    """
    if not sources:
        return _embedded(predictor.task) + (_photographs() if large else [])
    files, unmatched = find_images(sources)
    if unmatched:
        raise ExportError("; ".join(map(not_found, unmatched)))
    return [read_image(file, reading=predictor.reading) for file in files[:_IMAGES]]


def _embedded(task: str) -> list[Any]:
    require("sklearn")
    from involution.data.arrays import digits

    found = digits()
    if task == "classify":
        import torchvision.transforms.v2.functional as F

        return [F.to_pil_image(found[place][0]) for place in range(_IMAGES)]
    import numpy as np
    import PIL.Image

    from involution.data.scenes import compose_scene

    glyphs, rng = found.images[:, 0].numpy() / 255, np.random.default_rng(0)
    scenes = [compose_scene(glyphs, found.labels.numpy(), rng)[0] for _ in range(_IMAGES // 2)]
    return [PIL.Image.fromarray(scene) for scene in scenes]


def _photographs() -> list[Any]:
    import PIL.Image
    from sklearn.datasets import load_sample_images

    return [PIL.Image.fromarray(pixels) for pixels in load_sample_images().images]


def milliseconds(*functions: Callable[[], object]) -> list[float]:
    """Median time of a call of each function, in turn and a few calls at a time.

    A runtime's threads go on spinning for a while after a call, so each function waits, and then warms up.
    """
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(_ROUNDS):
        for function, taken in zip(functions, times, strict=True):
            time.sleep(_PAUSE)
            function()
            end = time.perf_counter() + _SECONDS
            for _ in range(_CALLS):
                start = time.perf_counter()
                function()
                taken.append(1e3 * (time.perf_counter() - start))
                if time.perf_counter() > end:
                    break
    return [statistics.median(taken) for taken in times]

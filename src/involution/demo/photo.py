"""The demo's photograph: noise taken from it by a kernel for each pixel, and by convolutions trained for as long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from involution.report.page import embedded

if TYPE_CHECKING:
    from torch import Tensor

    from involution.studies.photo.runs import Plan

SECONDS = 10.0
"""Processor time of each training."""

# what is too large for so short a time, or much like another, is left to the study
_LEFT_OUT = ("residual CNN, as wide", "residual CNN, large")
_ORANGE = (232, 133, 58)


@dataclass(frozen=True)
class PhotoResult:
    """What was measured on the photograph.

    Args:
        plan: What was trained.
        folder: Its records and weights.
        rows: A row for each network, as `involution photo` has them.
    """

    plan: Plan
    folder: Path
    rows: list[dict[str, Any]]


def run_photo(folder: Path, say: Callable[[str], None], jobs: int | None = None) -> PhotoResult:
    """Train networks of the study on one photograph for the same short time, and test it on the other one.

    Args:
        folder: Where records and weights go.
        say: Called with a line about each step.
        jobs: Trainings at once; by default one for each core, up to four.
    """
    from involution.studies import workers
    from involution.studies.photo import runs, table
    from involution.studies.photo.networks import NETWORKS

    chosen = tuple(name for name in NETWORKS if name not in _LEFT_OUT)
    plan = runs.Plan(seconds=SECONDS, seeds=1, comparisons=(runs.TIME,), trains=("china",), networks=chosen)
    runs.TRAININGS.claim(folder)
    say(f"Taking noise from a photograph: {len(plan.runs())} networks, {SECONDS:g} s of one core each")
    found = dict(runs.TRAININGS.do_missing(plan.runs(), folder, jobs or workers.default_jobs()))
    rows = table.rows(plan, found)
    for row in rows:
        say(f"{row['network']}: PSNR {row['psnr_mean']:.2f} dB, {row['parameters']:,} parameters")
    return PhotoResult(plan, folder, rows)


def photo_section(result: PhotoResult) -> dict[str, Any]:
    """Return what the report shows: a sentence, crops side by side with the kernels, and the table."""
    from involution.studies.photo import pictures, runs, table
    from involution.studies.photo.networks import PER_PIXEL

    (train,) = result.plan.trains
    ahead = table.gain(result.rows, runs.TIME, train)
    assert ahead is not None
    gain, best = ahead
    by = {row["network"]: row for row in result.rows}
    trained = {
        name: runs.trained(result.plan.run(runs.TIME, name, train, 0), result.folder) for name in (PER_PIXEL, best)
    }
    crops = pictures.crops(by[best]["test"], trained)
    shown = [
        ("noisy", f"{by[best]['noisy_psnr']:.1f} dB", _colors(crops.noisy)),
        ("kernels made here, every 8th", "stronger: more weight", _weights(crops.weights)),
        (f"by {PER_PIXEL}", f"{by[PER_PIXEL]['psnr_mean']:.1f} dB", _colors(crops.results[PER_PIXEL])),
        (f"by {best}", f"{by[best]['psnr_mean']:.1f} dB", _colors(crops.results[best])),
        ("as it was", "", _colors(crops.clean)),
    ]
    return {
        "gain": f"{abs(gain):.1f} dB {'ahead of' if gain >= 0 else 'behind'}",
        "best": best,
        "seconds": f"{result.plan.seconds:g}",
        "networks": len(result.rows),
        "rates": table.RATES,
        "crops": [{"title": title, "caption": caption, **embedded(image)} for title, caption, image in shown],
        "header": ["network", "parameters", "steps", "PSNR, dB", "SSIM"],
        "rows": [
            [
                row["network"],
                f"{row['parameters']:,}",
                f"{row['steps']:,}",
                f"{row['psnr_mean']:.2f}",
                f"{row['ssim_mean']:.3f}",
            ]
            for row in result.rows
        ],
    }


def _colors(image: Tensor) -> Any:
    """An image `[3, H, W]` as Pillow has it."""
    from torchvision.transforms.v2.functional import to_pil_image

    return to_pil_image((255 * image).round().to(torch.uint8))


def _weights(weights: Tensor) -> Any:
    """Weights `[H, W]` as orange that covers the more the larger they are, so that it does on light and on dark."""
    from PIL import Image

    alpha = (255 * weights.nan_to_num(0).sqrt()).round().to(torch.uint8)
    pixels = torch.cat([torch.tensor(_ORANGE, dtype=torch.uint8).expand(*weights.shape, 3), alpha[..., None]], dim=2)
    return Image.fromarray(pixels.numpy(), "RGBA")

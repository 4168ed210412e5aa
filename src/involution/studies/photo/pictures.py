"""Pictures of the study: crops side by side at true pixels, kernels at their true size, and PSNR against time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from involution.engine.files import atomic_path
from involution.studies.photo.networks import PER_PIXEL, PerPixel
from involution.studies.photo.runs import LONG, TIME, TRAININGS, Plan, trained
from involution.studies.photo.table import gain
from involution.studies.photo.train import denoised, noisy_photo, photo

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = 64
"""Pixels of a side of the crops."""
# top and left of what is shown: petals, and the edge of a roof
_PLACES = {"flower": (92, 226), "china": (78, 250)}
# a kernel every so many pixels, and screen pixels for one of the photograph
_EVERY, _ZOOM = 8, 3


@dataclass(frozen=True)
class Crops:
    """What is shown of a photograph.

    Attributes:
        photo: Its name.
        noisy: As it is given `[3, S, S]`, colours in 0..1.
        weights: Kernels at every eighth pixel, where they are used and of their size `[S, S]`: 0 for no weight, 1 for
            the largest; NaN between them.
        results: What each network makes of it, by name.
        clean: As it was.
    """

    photo: str
    noisy: Tensor
    weights: Tensor
    results: dict[str, Tensor]
    clean: Tensor


def crops(name: str, networks: Mapping[str, nn.Module]) -> Crops:
    """Cut out of a photograph what is shown.

    Args:
        name: Of the photograph.
        networks: By name, trained; the one with `PER_PIXEL` gives the kernels.
    """
    noisy = noisy_photo(name)
    per_pixel = cast(PerPixel, networks[PER_PIXEL])
    results = {key: _cut(denoised(network, noisy), name) for key, network in networks.items()}
    return Crops(name, _cut(noisy.clamp(0, 1), name), kernel_map(per_pixel, name), results, _cut(photo(name), name))


def kernel_map(network: PerPixel, name: str) -> Tensor:
    """Lay kernels out where they are used: each over the window of pixels of which it is the weights.

    Args:
        network: Trained.
        name: Of the photograph that it is given, noisy.

    Returns:
        Weights `[S, S]` relative to the largest; NaN between the windows.
    """
    with torch.inference_mode():
        kernels = _cut(network.kernels(noisy_photo(name)[None])[0, 0], name)
    size, middle = network.kernel_size, _EVERY // 2
    chosen = kernels[:, :, middle::_EVERY, middle::_EVERY]
    tiles = torch.full((chosen.shape[2], _EVERY, chosen.shape[3], _EVERY), torch.nan)
    first = middle - size // 2
    tiles[:, first : first + size, :, first : first + size] = chosen.permute(2, 0, 3, 1)
    return tiles.reshape(SIDE, SIDE) / chosen.max()


def _cut(image: Tensor, name: str) -> Tensor:
    top, left = _PLACES[name]
    return image[..., top : top + SIDE, left : left + SIDE]


def hero(
    shown: Sequence[Crops], titles: Mapping[str, str], captions: Mapping[str, Mapping[str, str]], style: str
) -> Figure:
    """Draw crops side by side, a row for each photograph, each pixel as a square of screen pixels.

    Args:
        shown: A row each.
        titles: Of the columns: ``noisy``, ``weights``, the networks, ``clean``; the columns are in this order.
        captions: By photograph, a line below some of its crops.
        style: ``light`` or ``dark``.
    """
    from matplotlib.figure import Figure

    from involution.explain.style import drawing

    cell, gap, head, foot, edge = SIDE * _ZOOM, 12, 50, 26, 12
    width = 2 * edge + len(titles) * cell + (len(titles) - 1) * gap
    height = head + len(shown) * (cell + foot) + edge
    with drawing(style) as colors:
        figure = Figure(figsize=(width / 100, height / 100), dpi=100)
        for column, (key, title) in enumerate(titles.items()):
            left = edge + column * (cell + gap)
            bold = "bold" if key in (PER_PIXEL, "weights") else "normal"
            figure.text(
                *(left / width, 1 - (head - 6) / height),
                title,
                fontsize=10.5,
                va="bottom",
                fontweight=bold,
                linespacing=1.25,
            )
            for row, crop in enumerate(shown):
                top = head + row * (cell + foot)
                figure.figimage(_pixels(crop, key, colors.paper, colors.ink), left, height - top - cell)
                caption = captions[crop.photo].get(key, "")
                figure.text(
                    left / width, 1 - (top + cell + 5) / height, caption, fontsize=10.5, va="top", color=colors.muted
                )
    return figure


def _pixels(crop: Crops, key: str, paper: str, ink: str) -> Any:
    """A crop as an array `[H, W, 3]` of screen pixels."""
    if key == "weights":
        image = kernel_colors(crop.weights, paper, ink)
    else:
        image = {"noisy": crop.noisy, "clean": crop.clean, **crop.results}[key]
    large = image.repeat_interleave(_ZOOM, 1).repeat_interleave(_ZOOM, 2)
    return large.permute(1, 2, 0).numpy()


def kernel_colors(weights: Tensor, paper: str, ink: str) -> Tensor:
    """Return weights `[H, W]` as colours `[3, H, W]`, from the paper's for none over orange to the ink's."""
    from matplotlib.colors import LinearSegmentedColormap

    ramp = LinearSegmentedColormap.from_list("weights", [paper, "#e8853a", ink])
    # small weights count too: most kernels are much flatter than the steepest
    colors = torch.from_numpy(ramp(weights.nan_to_num(0).sqrt().numpy())[..., :3]).float()
    return colors.permute(2, 0, 1)


def write_heroes(folder: Path, plan: Plan, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write the picture of README and docs, on light and on dark, from the first seed's networks of the longest time.

    Args:
        folder: Of the study.
        plan: What was compared.
        rows: Of `table.rows`.

    Returns:
        The files' names; none where a network of it is not trained yet.
    """
    shown, captions = [], {}
    comparison = LONG if LONG in plan.comparisons else TIME
    for train in plan.trains:
        ahead = gain(rows, comparison, train)
        if not ahead:
            return []
        names = {PER_PIXEL: PER_PIXEL, "other": ahead[1]}
        runs = {key: plan.run(comparison, name, train, 0) for key, name in names.items()}
        found = {key: record for key, run in runs.items() if (record := TRAININGS.read(run, folder)) is not None}
        if len(found) < len(runs):
            return []
        crop = crops(runs[PER_PIXEL].test, {key: trained(run, folder) for key, run in runs.items()})
        shown.append(crop)
        captions[crop.photo] = {
            "noisy": f"{found[PER_PIXEL]['noisy_psnr']:.1f} dB",
            "weights": "stronger: more weight",
            PER_PIXEL: f"{found[PER_PIXEL]['psnr']:.1f} dB",
            "other": f"{found['other']['psnr']:.1f} dB, {names['other']}",
        }
    titles = {
        "noisy": "noisy",
        "weights": "kernels made here,\neach at its true size",
        PER_PIXEL: "averaged by a kernel\nfor each pixel",
        "other": "by convolutions,\ntrained as long",
        "clean": "as it was",
    }
    files = []
    for style in ("light", "dark"):
        figure = hero(shown, titles, captions, style)
        files.append(f"photo-{style}.png")
        with atomic_path(folder / files[-1]) as temporary:
            figure.savefig(temporary, format="png", dpi=100)
    return files

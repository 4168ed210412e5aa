"""A picture to touch in a page: at each position window × kernel = output, of an involution and of a convolution.

Everything is in the page: the numbers as text, `touch.js` and `touch.css` beside this file, and nothing is fetched.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from involution.explain.kernels import involution_layers, kernel_limit
from involution.explain.layer import layer_map
from involution.explain.products import Products, convolution_products, involution_products
from involution.explain.style import STYLES
from involution.explain.subject import View

# positions of a map that is not too fine to be touched, and weights that a page can well hold
_MOST_PLACES, _MOST_WEIGHTS = 1024, 60_000
_STOPS = 11


def touch_script() -> str:
    """The script that a page with `touch_html` needs once."""
    return Path(__file__).with_name("touch.js").read_text(encoding="utf-8")


def touch_style() -> str:
    """The style sheet that a page with `touch_html` needs once."""
    return Path(__file__).with_name("touch.css").read_text(encoding="utf-8")


def touch_html(scenes: Sequence[tuple[str, View, View | None]], layers: Sequence[str], first: str = "") -> str:
    """The element that `touch.js` brings to life, or nothing where no layer can be shown.

    Args:
        scenes: Of each picture its name, the network that sees it, and its twin.
        layers: Names of involutions, in the order of the network; those with very many positions are left out.
        first: The layer that is shown first; by default the second, because a stem's windows are small.
    """
    made: list[dict[str, Any]] = []
    for name, view, twin in scenes:
        found = [layer for one in layers if (layer := _layer(view, one, twin))]
        if found:
            made.append({"name": name, "picture": _picture(view), "size": view.size, "layers": found})
    if not made:
        return ""
    names = [layer["name"] for layer in made[0]["layers"]]
    data = {
        "scenes": made,
        "first": names.index(first) if first in names else min(1, len(names) - 1),
        "stops": _stops(),
    }
    written = escape(json.dumps(data, separators=(",", ":")))
    return f'<div class="touch" data-touch="{written}"><p>This needs JavaScript.</p></div>'


def touch_layers(network: nn.Module) -> list[str]:
    """The last involution of each stage, and of the stem: those worth touching.

    Example:
        >>> from involution.models import rednet_nano
        >>> touch_layers(rednet_nano())
        ['conv1.3', 'layer1.1.conv2', 'layer2.1.conv2', 'layer3.1.conv2']
    """
    last: dict[str, str] = {}
    for name in involution_layers(network):
        parts = name.split(".")
        stage = next((part for part in parts if part.startswith("layer") and part[5:].isdigit()), parts[0])
        last[stage] = name
    return list(last.values())


def _layer(view: View, name: str, twin: View | None) -> dict[str, Any] | None:
    found = layer_map(view, name)
    _, k_h, k_w, rows, columns = found.kernels.shape
    if rows * columns > _MOST_PLACES or rows * columns * k_h * k_w > _MOST_WEIGHTS:
        return None
    sides = [involution_products(view, found)]
    beside = dict(twin.network.named_modules()).get(name) if twin else None
    if twin and isinstance(beside, nn.Conv2d):
        sides.append(convolution_products(twin, beside))
    shown = [_side(side) for side in sides if side.plain]
    return {"name": name, "sides": shown} if sides[0].plain else None


def _side(side: Products) -> dict[str, Any]:
    return {
        "kind": "involution" if side.kernels.ndim == 4 else "convolution",
        "title": side.title,
        "from": f"channel {side.source + 1} of {side.channels}",
        "count": side.parts,
        "given": _numbers(side.given),
        "givenLimit": kernel_limit(side.given),
        "output": _numbers(side.output),
        "kernels": _numbers(side.kernels),
        "limit": kernel_limit(side.kernels),
        "size": list(side.given.shape),
        "places": list(side.output.shape),
        "taps": side.taps,
        "step": side.step,
        "dilation": side.dilation,
        "reach": side.reach,
        "stride": side.stride,
        "pixels": side.pixels,
    }


def _numbers(values: Tensor) -> list[Any]:
    """Values as 16-bit numbers, little end first, in base 64, and what one of them is."""
    unit = max(values.abs().max().item(), 1e-12) / 32767
    whole = (values / unit).round().clamp(-32767, 32767).to(torch.int16)
    return [base64.b64encode(whole.contiguous().numpy().astype("<i2").tobytes()).decode("ascii"), unit]


def _picture(view: View) -> str:
    import PIL.Image

    image = PIL.Image.fromarray((255 * view.picture).round().to(torch.uint8).numpy())
    buffer = io.BytesIO()
    large = max(image.size) > 64
    if large:
        image.convert("RGB").save(buffer, "JPEG", quality=85)
    else:
        image.save(buffer, "PNG")
    return f"data:image/{'jpeg' if large else 'png'};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _stops() -> dict[str, list[list[int]]]:
    """Colours from most negative to most positive, on light and on dark."""
    places = [place / (_STOPS - 1) for place in range(_STOPS)]
    return {
        name: [[round(255 * part) for part in look.signed_colours(place)[:3]] for place in places]
        for name, look in STYLES.items()
    }

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
        first: The layer that is shown first.
    """
    made: list[dict[str, Any]] = []
    for name, view, twin in scenes:
        found = [layer for one in layers if (layer := _layer(view, one, twin))]
        if found:
            made.append({"name": name, "picture": _picture(view), "size": view.size, "layers": found})
    if not made:
        return ""
    names = [layer["name"] for layer in made[0]["layers"]]
    data = {"scenes": made, "first": names.index(first) if first in names else 0, "stops": _stops()}
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
    sides = [_involution(view, name)]
    if sides[0] is None:
        return None
    if twin is not None and (beside := _convolution(twin, name)):
        sides.append(beside)
    return {"name": name, "sides": sides}


def _involution(view: View, name: str) -> dict[str, Any] | None:
    """The channel of an involution whose output changes most over the picture, with its group's kernels."""
    module: Any = view.network.get_submodule(name)
    found = layer_map(view, name)
    groups, k_h, k_w, rows, columns = found.kernels.shape
    small = rows * columns <= _MOST_PLACES and rows * columns * k_h * k_w <= _MOST_WEIGHTS
    # what is applied to the channels themselves, with zeros around them
    plain = module.padding_mode == "zeros" and module.bias is None and module.in_channels == module.channels
    if not (small and plain):
        return None
    given, output = _seen(view, module)
    channel = int(output.flatten(1).std(dim=1).argmax())
    group = channel * groups // len(output)
    kernels = found.kernels[group].permute(2, 3, 0, 1)
    return {
        "kind": "involution",
        "title": view.name,
        "from": f"channel {channel + 1} of {len(given)}",
        "count": 1,
        "given": _numbers(given[channel]),
        "givenLimit": kernel_limit(given[channel]),
        "output": _numbers(output[channel]),
        "kernels": _numbers(kernels),
        "limit": kernel_limit(kernels),
        "size": list(given.shape[1:]),
        "places": [rows, columns],
        "taps": [k_h, k_w],
        "step": list(found.step),
        "dilation": list(found.dilation),
        "reach": list(found.reach),
        "stride": list(found.stride),
        "pixels": list(found.feature_stride),
    }


def _convolution(view: View, name: str) -> dict[str, Any] | None:
    """The output channel of a convolution that changes most, with the input channel that does most of it."""
    try:
        module = view.network.get_submodule(name)
    except AttributeError:
        return None
    if not isinstance(module, nn.Conv2d) or module.groups != 1 or isinstance(module.padding, str):
        return None
    if module.bias is not None or module.padding_mode != "zeros":
        return None
    given, output = _seen(view, module)
    channel = int(output.flatten(1).std(dim=1).argmax())
    weight = module.weight.detach().float().cpu()[channel]
    shape = (module.stride, module.padding, module.dilation)
    parts = nn.functional.conv2d(given[None], weight[:, None], None, *shape, groups=len(given))[0]
    source = int(parts.flatten(1).std(dim=1).argmax())
    rows, columns = output.shape[1:]
    pixels = [side / size for side, size in zip(view.size, given.shape[1:], strict=True)]
    return {
        "kind": "convolution",
        "title": view.name,
        "from": f"channel {source + 1} of {len(given)}",
        "count": len(given),
        "given": _numbers(given[source]),
        "givenLimit": kernel_limit(given[source]),
        "output": _numbers(output[channel]),
        "kernels": _numbers(weight[source]),
        "limit": weight[source].abs().max().item(),
        "size": list(given.shape[1:]),
        "places": [rows, columns],
        "taps": list(module.kernel_size),
        "step": list(module.stride),
        "dilation": list(module.dilation),
        "reach": list(module.padding),
        "stride": [side / size for side, size in zip(view.size, (rows, columns), strict=True)],
        "pixels": pixels,
    }


def _seen(view: View, module: nn.Module) -> tuple[Tensor, Tensor]:
    """What a layer is given and what it makes of it, `[C, H, W]` each."""
    caught: list[tuple[Tensor, Tensor]] = []
    hook = module.register_forward_hook(
        lambda module, args, output: caught.append((args[0][0].float().cpu(), output[0].float().cpu()))
    )
    try:
        with torch.no_grad():
            view.network.eval()(view.input)
    finally:
        hook.remove()
    return caught[0]


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

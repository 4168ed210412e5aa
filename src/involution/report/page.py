"""What every report is made with: the templates, pictures inside the page, and a few words about the machine."""

from __future__ import annotations

import base64
import hashlib
import io
import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from PIL.Image import Image

# pixels of a picture's longer side; below the second number each pixel is shown as a square
_LARGEST, _SMALL = 480, 64


def render(template: str, variables: Mapping[str, Any], package: str = "involution.report") -> str:
    """Fill a template of a package; what is put in is escaped, except for the charts.

    The page may run the one script of this package and fetch nothing.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape
    from markupsafe import Markup

    from involution.explain.touch import touch_script, touch_style

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name, ".") for name in (package, "involution.report")]),
        autoescape=select_autoescape(("j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = touch_script()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    shared = {"script": Markup(script), "script_hash": Markup(f"'sha256-{digest}'"), "style": Markup(touch_style())}
    return environment.get_template(template).render({**shared, **variables})


def embedded(image: Image) -> dict[str, Any]:
    """A picture as the `src` of an <img>, made smaller if it is large, and whether it is tiny."""
    small = max(image.size) <= _SMALL
    if max(image.size) > _LARGEST:
        image = image.copy()
        image.thumbnail((_LARGEST, _LARGEST))
    buffer = io.BytesIO()
    if small:
        image.save(buffer, "PNG")
    else:
        image.convert("RGB").save(buffer, "JPEG", quality=82)
    kind = "png" if small else "jpeg"
    return {"picture": f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}", "small": small}


def device_text() -> str:
    """The machine that the figures were measured on."""
    if torch.accelerator.is_available():
        return f"Measured on an accelerator ({torch.accelerator.current_accelerator()})"
    threads = torch.get_num_threads()
    return f"Measured on {threads} CPU thread{'s' if threads > 1 else ''} ({platform.machine()})"

"""Results and kernels as HTML that wraps on a phone, follows light and dark, and can be read aloud.

Every picture is in the page itself (a data URL): nothing is written to disk, and nothing else is fetched.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from torch import Tensor

from involution.app.networks import Prediction, StageKernels
from involution.data.colours import RGB, hexadecimal
from involution.explain.kernels import kernel_limit
from involution.explain.style import STYLES
from involution.predict import (
    ClassificationResult,
    DetectionResult,
    SegmentationResult,
    draw_detections,
    draw_segmentation,
)

if TYPE_CHECKING:
    from PIL.Image import Image

# small pictures are enlarged to this, pixel by pixel, so that a pixel can be pointed at
_SHOWN_SIDE = 480
_MARK = "#ffd54a"
_MOST_ROWS = 12


def enlargement(image: Image) -> int:
    """How many shown pixels a pixel of the image has in each direction."""
    return max(1, round(_SHOWN_SIDE / max(image.size)))


def picture(image: Image, pixel: tuple[int, int] | None) -> Image:
    """The image as it is shown: small ones enlarged, with a frame around a pixel (row, column)."""
    from PIL import ImageDraw
    from PIL.Image import Resampling

    factor = enlargement(image)
    shown = image.convert("RGB").resize((image.width * factor, image.height * factor), Resampling.NEAREST)
    if pixel is None:
        return shown
    middle = [(place + 0.5) * factor for place in reversed(pixel)]
    reach = max(factor / 2, max(shown.size) / 60)
    draw = ImageDraw.Draw(shown)
    thin = max(2, round(max(shown.size) / 240))
    for grow, colour in ((thin, "#1b1b1b"), (0, _MARK)):
        low, high = [value - reach - grow for value in middle], [value + reach + grow for value in middle]
        draw.rectangle((*low, *high), outline=colour, width=2 * thin if grow else thin)
    return shown


def data_url(image: Image) -> str:
    """An image as PNG in a URL; a large photo as JPEG."""
    buffer = io.BytesIO()
    kind = "JPEG" if image.width * image.height > 700_000 else "PNG"
    image.save(buffer, kind, **({"quality": 88} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def notice(text: str, *, wrong: bool = False) -> str:
    """A line for the user, which a screen reader says when it appears."""
    return f'<p class="note{" wrong" if wrong else ""}" role="{"alert" if wrong else "status"}">{escape(text)}</p>'


def predictions_html(seen: Sequence[tuple[Image, Prediction]]) -> str:
    """What the networks say of the image that each of them saw, side by side."""
    return f'<div class="cards">{"".join(_card(*item) for item in seen)}</div>'


def _card(image: Image, prediction: Prediction) -> str:
    result = prediction.result
    if isinstance(result, ClassificationResult):
        body = _top(result)
    elif isinstance(result, DetectionResult):
        body = _objects(image, result)
    elif isinstance(result, SegmentationResult):
        body = _map(image, result)
    else:
        body = f"<p>{escape(', '.join(result.cells()))}</p>"
    return (
        f'<section class="card"><h2>{escape(prediction.title)}</h2>'
        f"<p class=muted><b>{_milliseconds(result.seconds)}</b> · {prediction.parameters / 1e6:.2f} M "
        f"parameters</p>{notice(prediction.note) if prediction.note else ''}{body}</section>"
    )


def _top(result: ClassificationResult) -> str:
    rows = [_bar(label, score, "") for label, score in zip(result.labels, result.scores, strict=True)]
    return f'<ol class="bars">{"".join(rows)}</ol>'


def _bar(label: str, share: float, swatch: str) -> str:
    return (
        f"<li>{swatch}<span class=name>{escape(label)}</span>"
        f'<span class=track aria-hidden=true><span style="width:{100 * share:.1f}%"></span></span>'
        f"<span class=share>{_percent(share)}</span></li>"
    )


def _objects(image: Image, result: DetectionResult) -> str:
    counts = Counter(result.labels)
    found = ", ".join(f"{count} × {name}" if count > 1 else name for name, count in counts.items()) or "nothing"
    rows = [_bar(label, score, "") for label, score in zip(result.labels, result.scores, strict=True)]
    what = "boxes" if result.masks is None else "boxes and masks"
    drawn = _image(draw_detections(image, result), f"The image with {what}: {found}")
    full = f" – as many as the detector finds at most, {result.most}; others may be missing" if result.full else ""
    return _both(drawn, f"<p>Found: {escape(found)}{full}</p>{_bars(rows, 'with lower scores')}")


def _map(image: Image, result: SegmentationResult) -> str:
    colours = dict(result.legend())
    rows = [_bar(name, share, _swatch(colours[name])) for name, share in result.shares.items()]
    shares = list(result.shares.items())
    found = ", ".join(f"{name} {_percent(share)}" for name, share in shares[:_MOST_ROWS])
    rest = sum(share for _, share in shares[_MOST_ROWS:])
    found += f" and {len(shares) - _MOST_ROWS} more" if len(shares) > _MOST_ROWS else ""
    drawn = _image(draw_segmentation(image, result), f"The image with the classes' colours: {found}")
    return _both(drawn, _bars(rows, f"classes, {_percent(rest)} of the pixels together"))


def _bars(rows: Sequence[str], rest: str) -> str:
    """The first bars, and how many more there are."""
    more = f"<p class=muted>and {len(rows) - _MOST_ROWS} more {escape(rest)}</p>" if len(rows) > _MOST_ROWS else ""
    return f'<ol class="bars">{"".join(rows[:_MOST_ROWS])}</ol>{more}'


def _swatch(colour: RGB | None) -> str:
    return f'<i class=swatch style="background:{hexadecimal(colour)}"></i>' if colour else "<i class=swatch></i>"


def _both(drawn: str, rows: str) -> str:
    return f"<div class=both>{drawn}<div>{rows}</div></div>"


def _image(image: Image, alt: str) -> str:
    return f'<img class=drawn src="{data_url(image)}" alt="{escape(alt)}">'


def kernels_html(title: str, pixel: tuple[int, int], stages: Sequence[StageKernels], twin: str | None) -> str:
    """The generated kernels of each stage at a pixel, and the convolution's fixed filters beside them."""
    fixed = any(stage.fixed is not None for stage in stages)
    rows = "".join(_stage(stage, fixed) for stage in stages)
    beside = (
        f"On the right: filters of {escape(twin or '')}, the same at every pixel."
        if fixed
        else "Choose a convolution network under <i>Compare with</i> to see its fixed filters alongside."
    )
    return (
        f"<section class=kernels><h2>Kernels that {escape(title)} generates at row {pixel[0]}, column {pixel[1]}</h2>"
        f"<p class=muted>Orange weights add, violet ones subtract; the background colour is zero. {beside}</p>"
        f"{rows}</section>"
    )


def _stage(stage: StageKernels, fixed: bool) -> str:
    k_h, k_w = stage.kernels.shape[1:]
    shown = len(stage.kernels)
    of = f"{shown} of {stage.groups} groups" if shown < stage.groups else f"{shown} group{'s' if shown > 1 else ''}"
    row, column = stage.position
    where = f"position {row}, {column} of {stage.size[0]}×{stage.size[1]}"
    made = _tiles(stage.kernels, f"{stage.title}, generated kernel of group {{}}", f"{k_h}×{k_w}, {of}")
    beside = ""
    if fixed and stage.fixed is not None:
        size = "×".join(str(side) for side in stage.fixed.shape[1:])
        beside = _tiles(stage.fixed, f"{stage.title}, fixed filter {{}} of the convolution", f"{size}, fixed", "fixed")
    return (
        f"<div class=stage><h3>{escape(stage.title)} <small>{escape(stage.layer)}, {where}</small></h3>"
        f"<div class=pair>{made}{beside}</div></div>"
    )


def _tiles(kernels: Tensor, alt: str, caption: str, kind: str = "generated") -> str:
    limit = kernel_limit(kernels)
    # both looks are there, the style sheet shows the one that fits the page
    tiles = "".join(
        f'<span class=tile role=img aria-label="{escape(alt.format(number + 1))}">'
        f"{''.join(_tile(kernel, limit, style) for style in STYLES)}</span>"
        for number, kernel in enumerate(kernels)
    )
    return f"<figure class={kind}><div>{tiles}</div><figcaption>{caption}, ±{limit:.2g}</figcaption></figure>"


def _tile(kernel: Tensor, limit: float, style: str) -> str:
    import PIL.Image

    pixels = STYLES[style].signed_colours((kernel.numpy() / limit + 1) / 2, bytes=True)[..., :3]
    return f'<img class=on-{style} src="{data_url(PIL.Image.fromarray(pixels))}" alt="">'


def example_style(images: Iterable[Image]) -> str:
    """The style sheet's rules that put example images on their buttons."""
    return "\n".join(
        f"#examples #example-{number} {{ background-image: url({data_url(image)}); }}"
        for number, image in enumerate(images)
    )


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"

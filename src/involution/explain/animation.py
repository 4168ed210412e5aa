"""An animation of a window sliding over an image: an involution's kernel changes, a convolution's does not."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from .errors import ExplainError
from .figures import chosen_groups
from .kernels import draw_tile, kernel_limit
from .layer import LayerMap, layer_map
from .products import Products, convolution_products, involution_products
from .style import Style, bare, drawing, new_figure, subfigures
from .subject import View

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation

# colours of the tiles, an odd number so that zero has one
_LEVELS = 65


def animate(
    view: View,
    layer: str,
    *,
    twin: View | None = None,
    group: int = 0,
    frames: int = 64,
    milliseconds: int = 120,
    style: str = "light",
) -> FuncAnimation:
    """Slide a layer's window over the image: window × kernel = products, next to those of a convolution.

    Args:
        view: Network and image.
        layer: Name of an involution, see `find_layer`.
        twin: The convolution twin, whose layer of the same name is shown beside; without it, another layer of the same
            network is, and the picture says which.
        group: The group whose kernels are shown, starting at 0; of its channels the one that changes most.
        frames: Number of frames, spread evenly over a path that crosses the map row by row, back and forth.
        milliseconds: Duration of a frame.
        style: light or dark.

    Returns:
        The animation; `save_animation` writes it as GIF or MP4.

    Raises:
        ExplainError: If there is no such layer, group or style, or no convolution to compare with.

    Example:
        >>> from involution.models import rednet_nano
        >>> view = View.of(rednet_nano().eval(), torch.rand(1, 3, 16, 16), name="RedNet-nano", untrained=True)
        >>> save_animation(animate(view, "stage2.1", frames=2), "window.gif")
    """
    from matplotlib.animation import FuncAnimation
    from matplotlib.patches import Rectangle

    found = layer_map(view, layer)
    count, k_h, k_w, _, _ = found.kernels.shape
    chosen_groups([group], found, 1)
    path = sliding_path(found.size, frames)
    fixed, origin = fixed_products(view, found, twin)
    made = involution_products(view, found, group)
    titles = (
        f"involution, {k_h}×{k_w}:\nmade for this position",
        "convolution, {}×{}:\nthe same everywhere".format(*fixed.taps),
    )
    with drawing(style) as look:
        figure = new_figure(
            11.6,
            5.6,
            "Involution makes a kernel for each position; convolution has one",
            f"{view.name}, {found.name}, group {group + 1} of {count}",
            view.untrained or (twin is not None and twin.untrained),
            look,
            [
                *view.notes,
                f"A convolution adds up such sums over its {fixed.parts} input channels; one is shown, {origin}.",
            ],
        )
        left_side, right_side = subfigures(figure, [1, 1.7])
        image = left_side.subplots()
        grid = right_side.subplots(2, 3)
        image.imshow(view.picture.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="none", zorder=1)
        bare(image)
        _room_for_windows(image, view, [made, fixed], found, look)
        windows = [
            Rectangle((0, 0), 1, 1, fill=False, edgecolor=look.mark, linewidth=2.5, zorder=3),
            Rectangle((0, 0), 1, 1, fill=False, edgecolor=look.fixed, linewidth=2.0, linestyle=(0, (3, 2)), zorder=3),
        ]
        for window in windows:
            window.set_clip_on(False)
            image.add_patch(window)
        dot = image.scatter([], [], s=60, color=look.mark, edgecolor="#1b1b1b", linewidth=0.8, zorder=4)
        image.set_title("image, and the windows")
        place = image.set_xlabel(" ", fontsize=12)
        # few enough colours for a GIF to have each of them
        colours = look.signed_colours.resampled(_LEVELS).with_extremes(bad=look.outside)
        rows = [_Row(line, products, colours, look) for line, products in zip(grid, (made, fixed), strict=True)]
        for axes, title, colour in zip(grid[:, 0], titles, (look.mark_text, look.fixed), strict=True):
            axes.set_ylabel(title, fontsize=11.5, color=colour)
        for axes, title in zip(grid[0], ("window", "× kernel", "= products"), strict=True):
            axes.set_title(title)
        # lay out the figure once, so that later frames don't move it
        figure.draw_without_rendering()
        figure.set_layout_engine("none")

    def draw(number: int) -> list[Any]:
        row, column = path[number]
        y, x = found.middle(row, column)
        places = [(row, column), fixed.position(y, x)]
        for window, products, at in zip(windows, (made, fixed), places, strict=True):
            top, left, height, width = products.window(*at)
            window.set_bounds(left, top, width, height)
        dot.set_offsets([(x, y)])
        place.set_text(f"row {row}, column {column}")
        drawn = [artist for line, at in zip(rows, places, strict=True) for artist in line.show(*at)]
        return [*windows, dot, place, *drawn]

    return FuncAnimation(figure, draw, frames=len(path), interval=milliseconds, repeat=True, init_func=lambda: [])


class _Row:
    """Window, kernel and products of one layer, side by side."""

    def __init__(self, line: Any, products: Products, colours: Any, look: Style) -> None:
        self.products = products
        window, kernel, made = products.at(0, 0)
        limits = [
            kernel_limit(values) if values.isfinite().all() else 1.0 for values in (products.given, products.kernels)
        ]
        limits.append(_largest_product(products))
        self.tiles = []
        for axes, values, limit in zip(line, (window, kernel, made), limits, strict=True):
            self.tiles.append(draw_tile(axes, values, limit, colours))
            axes.spines[:].set(visible=True, color=look.muted, linewidth=0.8)
            # room for the sum, which comes below the products
            axes.set_xlabel(f"±{limit:.2g}", fontsize=11, color=look.muted)
        self.sum = line[2].set_xlabel("sum 0.00", fontsize=12, fontweight="bold", color=look.ink)

    def show(self, row: int, column: int) -> list[Any]:
        """Move to a position."""
        values = self.products.at(row, column)
        for tile, shown in zip(self.tiles, values, strict=True):
            tile.set_data(shown.numpy())
        total = values[2].nansum().item()
        self.sum.set_text(f"sum {round(total, 2) + 0.0:.2f}" if self.products.plain else " ")
        return [*self.tiles, self.sum]


def _largest_product(products: Products) -> float:
    """The end of the products' scale: what few of them exceed anywhere."""
    rows, columns = products.output.shape
    some = [
        products.at(row, column)[2]
        for row in range(0, rows, max(1, rows // 8))
        for column in range(0, columns, max(1, columns // 8))
    ]
    finite = torch.stack(some)
    finite = finite[finite.isfinite()]
    return kernel_limit(finite) if len(finite) else 1.0


def sliding_path(size: tuple[int, int], frames: int) -> list[tuple[int, int]]:
    """Positions (row, column) of a window that slides over a map row by row, back and forth.

    Large maps are crossed in fewer rows and larger steps.

    Example:
        >>> sliding_path((2, 3), 6)
        [(0, 0), (0, 1), (0, 2), (1, 2), (1, 1), (1, 0)]
    """
    if frames < 1:
        raise ExplainError(f"wanted 1 frame or more, got {frames}")
    rows, columns = size
    crossed = min(rows, max(1, round(frames**0.5)))
    lines = [round(index * (rows - 1) / max(1, crossed - 1)) for index in range(crossed)]
    whole = [
        (line, column if index % 2 == 0 else columns - 1 - column)
        for index, line in enumerate(lines)
        for column in range(columns)
    ]
    return [whole[round(frame * (len(whole) - 1) / max(1, frames - 1))] for frame in range(frames)]


def fixed_products(view: View, found: LayerMap, twin: View | None = None) -> tuple[Products, str]:
    """A convolution to show next to an involution, and where it is from.

    With a twin it is the layer of the same name. Without one, it is the last convolution before the layer whose kernel
    is larger than 1×1, or else the first one.

    Raises:
        ExplainError: If there is none.
    """
    if twin is not None:
        conv = dict(twin.network.named_modules()).get(found.name)
        if not isinstance(conv, nn.Conv2d):
            raise ExplainError(f"{twin.name} has no convolution {found.name!r}: it is not a twin of {view.name}")
        return _with_origin(convolution_products(twin, conv), f"{twin.name}, {found.name}")
    names = [name for name, _ in view.network.named_modules()]
    convs = {
        name: module
        for name, module in view.network.named_modules()
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1
    }
    before = [name for name in names[: names.index(found.name)] if name in convs]
    if not convs:
        raise ExplainError(f"{view.name} has no convolution larger than 1×1 to compare with; give its twin")
    name = before[-1] if before else next(iter(convs))
    return _with_origin(convolution_products(view, convs[name]), f"{name} of the same network")


def _with_origin(products: Products, name: str) -> tuple[Products, str]:
    return products, f"{name}, channel {products.source + 1} to channel {products.target + 1}"


def _room_for_windows(axes: Any, view: View, sides: Sequence[Products], found: LayerMap, look: Style) -> None:
    """Leave room around the picture for windows that reach out of it, hatched: zeros are read there."""
    from matplotlib.patches import Rectangle

    height, width = view.size
    last = found.middle(found.size[0] - 1, found.size[1] - 1)
    corners = [side.window(0, 0) for side in sides]
    ends = [side.window(*side.position(*last)) for side in sides]
    left, right = min(-0.5, *(box[1] for box in corners)), max(width - 0.5, *(box[1] + box[3] for box in ends))
    top, bottom = min(-0.5, *(box[0] for box in corners)), max(height - 0.5, *(box[0] + box[2] for box in ends))
    axes.add_patch(
        Rectangle(
            (left, top),
            right - left,
            bottom - top,
            facecolor="none",
            edgecolor=look.outside,
            hatch="///",
            lw=0,
            zorder=0,
        )
    )
    # half of a line's width more
    more = (right - left) / 80
    axes.set(xlim=(left - more, right + more), ylim=(bottom + more, top - more))


def exact_palette(frames: Sequence[Any], most: int = 256, exact: int = 208) -> tuple[Any, list[Any]]:
    """Up to 256 colours for pictures, in which those that fill areas are exact, and each picture in these colours.

    Args:
        frames: Pictures `[H, W, 3]` in 8 bits.
        most: Colours of the palette.
        exact: How many of them are taken as they are if there are more than `most`: those with the largest area in one
            picture. Edges of letters and the like share the others.

    Returns:
        The palette `[n, 3]`, and for each picture the places `[H, W]` of its pixels in it.
    """
    from PIL import Image

    def split(codes: Any) -> Any:
        return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1).astype(np.uint8)

    packed = [
        frame[..., 0].astype(np.int64) << 16 | frame[..., 1].astype(np.int64) << 8 | frame[..., 2] for frame in frames
    ]
    counted = [np.unique(codes, return_counts=True) for codes in packed]
    known, back = np.unique(np.concatenate([codes for codes, _ in counted]), return_inverse=True)
    area = np.zeros(len(known), dtype=np.int64)
    np.maximum.at(area, back, np.concatenate([counts for _, counts in counted]))
    ranked = known[np.argsort(-area, kind="stable")]
    if len(ranked) <= most:
        chosen = split(ranked)
    else:
        others = Image.fromarray(split(ranked[exact:])[None])
        few = np.array(others.quantize(most - exact).getpalette()[: 3 * (most - exact)], dtype=np.uint8)  # type: ignore[index]
        chosen = np.concatenate([split(ranked[:exact]), few.reshape(-1, 3)])
    nearest = np.empty(len(known), dtype=np.uint8)
    for start in range(0, len(known), 4096):
        part = split(known[start : start + 4096]).astype(np.int32)
        distance = np.square(part[:, None] - chosen.astype(np.int32)).sum(-1)
        nearest[start : start + 4096] = distance.argmin(1)
    return chosen, [nearest[np.searchsorted(known, codes)] for codes in packed]


def save_animation(
    animation: FuncAnimation, path: str | os.PathLike[str], progress: Callable[[int, int], object] | None = None
) -> None:
    """Write an animation as GIF or MP4 (with ffmpeg), depending on the suffix; the file is never left half written.

    Args:
        animation: From `animate`.
        path: File to write.
        progress: Called with the frame's number and the total number of frames.

    Raises:
        ExplainError: For another suffix, or MP4 without ffmpeg.
        OSError: If it can't be written.
    """
    from matplotlib.animation import FFMpegWriter, PillowWriter

    class _GifWriter(PillowWriter):
        """Frames with one palette and no dithering: areas have their exact colour, and only what moves is stored."""

        def finish(self) -> None:
            from PIL import Image

            pixels = [np.asarray(frame.convert("RGB")) for frame in self._frames]  # type: ignore[attr-defined]
            palette, places = exact_palette(pixels)
            frames = []
            for place in places:
                frames.append(Image.fromarray(place))
                frames[-1].putpalette(palette.tobytes())
            duration = int(1000 / self.fps)
            frames[0].save(self.outfile, save_all=True, append_images=frames[1:], duration=duration, loop=0)

    from involution.engine.files import atomic_path

    suffix = Path(path).suffix.lower()
    if suffix not in (".gif", ".mp4"):
        raise ExplainError(f"wanted a file that ends in .gif or .mp4, got {str(path)!r}")
    if suffix == ".mp4" and not FFMpegWriter.isAvailable():
        raise ExplainError("MP4 needs ffmpeg, which is not installed; write a .gif")
    rate = 1000 / animation._interval  # type: ignore[attr-defined]
    # an even number of pixels, because the video codec halves it
    writer = _GifWriter(fps=rate) if suffix == ".gif" else FFMpegWriter(fps=rate, codec="h264")
    with atomic_path(path) as partial:
        # writers recognise formats by suffix
        named = partial.with_name(partial.name + suffix)
        try:
            animation.save(named, writer=writer, dpi=80, progress_callback=progress)
            os.replace(named, partial)
        finally:
            named.unlink(missing_ok=True)

"""An animation of a window sliding over an image: an involution's kernel changes, a convolution's does not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .errors import ExplainError
from .kernels import draw_tile, kernel_limit
from .layer import LayerMap, layer_map
from .style import bare, colour_bar, drawing, new_figure, subfigures
from .subject import View

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation


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
    """Slide a layer's window over the image, with its generated kernel next to a convolution's fixed one.

    Args:
        view: Network and image.
        layer: Name of an involution, see `find_layer`.
        twin: The convolution twin, whose layer of the same name provides the fixed kernel; without it, the kernel
            comes from another layer of the same network, and the picture says which.
        group: The group whose kernels are shown, starting at 0.
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
    if not 0 <= group < count:
        raise ExplainError(
            f"{found.name} has {count} group{'s' if count > 1 else ''} of kernels; got group {group + 1}"
        )
    path = sliding_path(found.size, frames)
    fixed, origin = fixed_kernel(view, found, group, twin)
    kernels = found.kernels[group]
    with drawing(style) as look:
        figure = new_figure(
            10.6,
            5.0,
            "Involution makes a kernel for each position; convolution has one",
            f"{view.name}, {found.name}, group {group + 1} of {count}",
            view.untrained or (twin is not None and twin.untrained),
            look,
        )
        left_side, right_side = subfigures(figure, [1, 1.55])
        image = left_side.subplots()
        moving, still = right_side.subplots(1, 2)
        image.imshow(view.picture.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="none", zorder=1)
        bare(image)
        _room_for_windows(image, view, found)
        top, left, height, width = found.window(*path[0])
        window = Rectangle((left, top), width, height, fill=False, edgecolor=look.mark, linewidth=2.5, zorder=3)
        image.add_patch(window)
        dot = image.scatter([], [], s=70, color=look.mark, edgecolor="#1b1b1b", linewidth=0.8, zorder=4)
        tile = draw_tile(moving, kernels[:, :, 0, 0], kernel_limit(kernels), look.signed_map)
        constant = draw_tile(still, fixed, kernel_limit(fixed), look.signed_map)
        image.set_title("image, and the window")
        moving.set_title(f"involution: {k_h}×{k_w},\nmade for this position")
        still.set_title(f"convolution: {fixed.shape[0]}×{fixed.shape[1]},\nthe same everywhere")
        still.set_xlabel(origin, fontsize=10, color=look.muted)
        moving.set_xlabel(" ", fontsize=10)
        place = image.set_xlabel(" ", fontsize=12)
        for axes, drawn in ((moving, tile), (still, constant)):
            axes.spines[:].set(visible=True, color=look.muted, linewidth=0.8)
            bar = {"orientation": "horizontal", "shrink": 0.85, "aspect": 22, "pad": 0.02}
            colour_bar(right_side, drawn, axes, "kernel weight", look, **bar)
        # lay out the figure once, so that later frames don't move it
        figure.draw_without_rendering()
        figure.set_layout_engine("none")

    def draw(frame: int) -> list[Any]:
        row, column = path[frame]
        top, left, _, _ = found.window(row, column)
        y, x = found.middle(row, column)
        window.set_xy((left, top))
        dot.set_offsets([(x, y)])
        tile.set_data(kernels[:, :, row, column].numpy())
        place.set_text(f"row {row}, column {column}")
        return [window, dot, tile, place]

    return FuncAnimation(figure, draw, frames=len(path), interval=milliseconds, repeat=True, init_func=lambda: [])


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


def fixed_kernel(view: View, found: LayerMap, group: int, twin: View | None = None) -> tuple[Tensor, str]:
    """A convolution's kernel to show next to a group's generated ones, and a description of its origin.

    With a twin, it comes from the layer of the same name: the slice from the group's first channel to itself. Without
    one, it comes from the last convolution before the layer whose kernel is larger than 1×1, or else the first one.

    Returns:
        `[K_h, K_w]` and the origin.

    Raises:
        ExplainError: If there is none.
    """
    if twin is not None:
        conv = dict(twin.network.named_modules()).get(found.name)
        if not isinstance(conv, nn.Conv2d):
            raise ExplainError(f"{twin.name} has no convolution {found.name!r}: it is not a twin of {view.name}")
        channel = group * conv.out_channels // found.kernels.shape[0]
        into = min(channel, conv.weight.shape[1] - 1)
        origin = f"{twin.name}, {found.name},\nchannel {into + 1} to channel {channel + 1}"
        return conv.weight[channel, into].detach().float().cpu(), origin
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
    conv = convs[name]
    return conv.weight[0, 0].detach().float().cpu(), f"from {name} of the same network,\nchannel 1 to channel 1"


def _room_for_windows(axes: Any, view: View, found: LayerMap) -> None:
    """Leave room around the picture for windows that extend beyond it, where zeros are read."""
    height, width = view.size
    corners = [found.window(0, 0), found.window(found.size[0] - 1, found.size[1] - 1)]
    axes.set(
        xlim=(min(-0.5, corners[0][1]) - 0.5, max(width - 0.5, corners[1][1] + corners[1][3]) + 0.5),
        ylim=(max(height - 0.5, corners[1][0] + corners[1][2]) + 0.5, min(-0.5, corners[0][0]) - 0.5),
    )


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
        """Frames with one palette and no dithering, so that only what moves is stored."""

        def finish(self) -> None:
            from PIL import Image

            frames = [frame.convert("RGB") for frame in self._frames]  # type: ignore[attr-defined]
            sample = Image.new("RGB", (frames[0].width, 3 * frames[0].height))
            for place in range(3):
                sample.paste(frames[place * (len(frames) - 1) // 2], (0, place * frames[0].height))
            palette = sample.quantize(256)
            # the background keeps its colour, which the palette would mix with the edges of letters
            ground: Any = sample.getpixel((0, 0))
            values: Any = palette.getpalette()
            triples = zip(*[iter(values)] * 3, strict=True)
            near = [ground if max(abs(a - b) for a, b in zip(c, ground, strict=True)) <= 6 else c for c in triples]
            palette.putpalette([value for colour in near for value in colour])
            flat = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
            duration = int(1000 / self.fps)
            flat[0].save(self.outfile, save_all=True, append_images=flat[1:], duration=duration, loop=0)

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

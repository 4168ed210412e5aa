"""The page: its parts, and what happens when one of them is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import gradio as gr
from gradio.data_classes import Base64ImageData, FileData, ImageData

from involution.app import limits
from involution.app.checkpoints import Checkpoint, twin_of
from involution.app.errors import AppError
from involution.app.examples import example_images
from involution.app.networks import predict, stage_kernels, to_touch
from involution.app.reader import Upload, read_apart
from involution.app.render import data_url, enlargement, example_style, kernels_html, notice, picture, predictions_html
from involution.explain.touch import touch_style

if TYPE_CHECKING:
    from PIL.Image import Image

    from involution.data.images import Reading

_TITLE = "Involution: a kernel for every pixel"
_HEADING = f"""# {_TITLE}

What a RedNet sees in an image. Drop or choose one, then click a pixel to see the kernels generated there."""
# an image that nobody asked about any more is forgotten, seconds
_FORGET = 900
# one network at a time; reading an upload does not wait for it
_NETWORK: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "network", "api_visibility": "private"}
_READING: dict[str, Any] = {"concurrency_limit": 2, "concurrency_id": "reading", "api_visibility": "private"}
# chosen for no second network
_NOTHING = ""
_Uploads = TypeVar("_Uploads", gr.Image, gr.UploadButton)


def _in_memory(component: _Uploads) -> _Uploads:
    """Let a component give an upload's file as it came, unopened, and show pictures without a file.

    Not a subclass, beside which Gradio would write a file into this package.
    """

    def upload(payload: ImageData | FileData | None) -> Any:
        return Path(payload.path) if payload and payload.path else None

    def show(value: Any) -> Any:
        return None if value is None else Base64ImageData(url=data_url(value))

    component.preprocess, component.postprocess = upload, show  # type: ignore[method-assign,assignment]
    return component


def build_page(offered: Sequence[Checkpoint]) -> tuple[gr.Blocks, str]:
    """Make the page for some checkpoints.

    Args:
        offered: One or more.

    Returns:
        The page and its style sheet.
    """
    # a browser learns of a checkpoint its label alone, and asks for it by a number
    by_key = {str(number): checkpoint for number, checkpoint in enumerate(offered)}
    readings = [checkpoint.reading for checkpoint in offered]
    examples = example_images()
    with gr.Blocks(title=_TITLE, analytics_enabled=False) as page:
        image = gr.State(None, time_to_live=_FORGET)
        gr.Markdown(_HEADING, elem_id="heading")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                shown = _in_memory(
                    gr.Image(
                        label="Image",
                        show_label=False,
                        placeholder="Drop an image here, or click to choose one",
                        alt_text="The chosen image, the chosen pixel framed",
                        sources=["upload"],
                        buttons=[],
                        height=420,
                        elem_id="picture",
                    )
                )
                message = gr.HTML(elem_id="message")
                choose = _in_memory(gr.UploadButton("Choose an image", file_types=["image"], elem_id="choose"))
                with gr.Row(elem_id="examples"):
                    buttons = [
                        gr.Button(name, elem_id=f"example-{number}", size="sm")
                        for number, (_, name, _) in enumerate(examples)
                    ]
                with gr.Row():
                    row = gr.Number(label="Row", value=0, precision=0, min_width=60, elem_id="row")
                    column = gr.Number(label="Column", value=0, precision=0, min_width=60, elem_id="column")
                    look = gr.Button("Show kernels", min_width=130, elem_id="look")
                choices = [(item.label, key) for key, item in by_key.items()]
                first = gr.Dropdown(choices, label="Checkpoint", elem_id="first")
                second = gr.Dropdown(
                    [("nothing", _NOTHING), *choices],
                    value=_twin_key(offered[0], offered),
                    label="Compare with",
                    elem_id="second",
                )
            with gr.Column(scale=3, min_width=300):
                results = gr.HTML(elem_id="results")
                kernels = gr.HTML(elem_id="kernels")
                touch = gr.HTML(elem_id="touch")

        def example(shown_image: Image) -> Upload:
            return Upload(dict.fromkeys(readings, shown_image))

        chosen: list[Any] = [first, second]
        place = [row, column]

        def predictions(upload: Upload | None, *keys: str | None) -> str:
            return _predictions(upload, [by_key[key] for key in keys if key in by_key])

        def at_pixel(upload: Upload | None, row: float, column: float, *keys: str | None) -> tuple[Any, str]:
            return _at_pixel(upload, (row, column), *(by_key.get(key or "") for key in keys))

        def touchable(upload: Upload | None, *keys: str | None) -> str:
            return _touchable(upload, *(by_key.get(key or "") for key in keys))

        def clicked(upload: Upload | None, key: str, event: gr.SelectData) -> tuple[int, int]:
            return _clicked(upload, by_key[key].reading, event)

        def ask(after: Callable[..., Any]) -> None:
            answered = after(predictions, [image, *chosen], results, show_progress="minimal", **_NETWORK)
            seen = answered.then(
                at_pixel, [image, *place, *chosen], [shown, kernels], show_progress="hidden", **_NETWORK
            )
            seen.then(touchable, [image, *chosen], touch, show_progress="hidden", **_NETWORK)

        def everything(trigger: Callable[..., Any], *read: Any) -> None:
            """Show a new image: read it, then ask the networks, then look at its middle."""
            ready = trigger(*read, outputs=[shown, image, row, column, message], show_progress="hidden", **_READING)
            ask(ready.success)

        everything(shown.upload, lambda file: _read(file, readings), [shown])
        everything(choose.upload, lambda file: _read(file, readings), [choose])
        for number, button in enumerate(buttons):
            everything(button.click, lambda number=number: _fresh(example(examples[number][2])), [])
        start = next((number for number, item in enumerate(examples) if offered[0].task in item[0]), 0)
        everything(page.load, lambda: _fresh(example(examples[start][2])), [])
        shown.clear(lambda: (None, "", "", ""), None, [image, results, kernels, touch], **_READING)

        # a click gives the place in the picture as it is shown
        shown.select(
            clicked, [image, first], [row, column], show_progress="hidden", trigger_mode="always_last", **_READING
        ).then(at_pixel, [image, *place, *chosen], [shown, kernels], show_progress="hidden", **_NETWORK)
        for trigger in (look.click, row.submit, column.submit):
            trigger(at_pixel, [image, *place, *chosen], [shown, kernels], show_progress="minimal", **_NETWORK)
        other = first.input(lambda key: _twin_key(by_key[key], offered), first, second, **_READING)
        ask(other.then)
        ask(second.input)
    page.queue(max_size=limits.QUEUE, api_open=False)
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return page, f"{style}\n{touch_style()}\n{example_style(item[2] for item in examples)}"


def _twin_key(first: Checkpoint, offered: Sequence[Checkpoint]) -> str:
    twin = twin_of(first, offered)
    return str(offered.index(twin)) if twin else _NOTHING


def _fresh(upload: Upload) -> tuple[Any, ...]:
    """A new image: shown, kept, its middle chosen."""
    image = next(view for view in upload.views.values() if not isinstance(view, str))
    row, column = image.height // 2, image.width // 2
    return picture(image, (row, column)), upload, row, column, notice(upload.note) if upload.note else ""


def _read(file: Path | None, readings: Sequence[Reading]) -> tuple[Any, ...]:
    """Take an upload into memory and delete its file; what can't be used is told, and nothing is shown."""
    if file is None:
        return None, None, 0, 0, ""
    try:
        return _fresh(read_apart(file, readings))
    except AppError as error:
        return None, None, 0, 0, notice(str(error), wrong=True)
    finally:
        file.unlink(missing_ok=True)
        with suppress(OSError):
            # the folder's name is a hash of the file; two users may have uploaded the same
            file.parent.rmdir()


def _clicked(upload: Upload | None, reading: Reading, event: gr.SelectData) -> tuple[int, int]:
    image = None if upload is None else upload.views[reading]
    if image is None or isinstance(image, str):
        return 0, 0
    factor = enlargement(image)
    column, row = (int(value / factor) for value in event.index)
    return min(max(row, 0), image.height - 1), min(max(column, 0), image.width - 1)


def _predictions(upload: Upload | None, chosen: Sequence[Checkpoint]) -> str:
    if upload is None:
        return ""
    try:
        with limits.time_limit(limits.SECONDS):
            return predictions_html(
                [(upload.seen(checkpoint.reading), predict(checkpoint, upload)) for checkpoint in chosen]
            )
    except ValueError as error:
        return _told(error, chosen)


def _at_pixel(
    upload: Upload | None, pixel: tuple[float, float], first: Checkpoint | None, second: Checkpoint | None
) -> tuple[Any, str]:
    if upload is None or first is None:
        return None, ""
    image = upload.views[first.reading]
    if isinstance(image, str):
        # the predictions tell why
        return None, ""
    # an empty field is 0; what is no number is in no picture
    given = [value or 0 for value in pixel]
    if not (0 <= given[0] < image.height and 0 <= given[1] < image.width):
        wanted = f"wanted a row from 0 to {image.height - 1} and a column from 0 to {image.width - 1}"
        return picture(image, None), notice(f"{wanted}; got {given[0]:g} and {given[1]:g}", wrong=True)
    row, column = map(int, given)
    try:
        with limits.time_limit(limits.SECONDS):
            title, stages = stage_kernels(first, second, upload, (row, column))
        twin = next((item.title for item in (first, second) if item and item.title != title), None)
        html = kernels_html(title, (row, column), stages, twin)
    except ValueError as error:
        html = _told(error, (first, second))
    return picture(image, (row, column)), html


def _touchable(upload: Upload | None, first: Checkpoint | None, second: Checkpoint | None) -> str:
    if upload is None or first is None:
        return ""
    try:
        with limits.time_limit(limits.SECONDS):
            made = to_touch(first, second, upload)
    except ValueError as error:
        _told(error, (first, second))
        # the kernels tell why
        return ""
    return f"<section class=kernels><h2>Touch it: window × kernel = output</h2>{made}</section>" if made else ""


def _told(error: ValueError, chosen: Sequence[Checkpoint | None]) -> str:
    """Errors of this package's own classes are for the user; anything else is a bug."""
    if not type(error).__module__.startswith("involution."):
        raise error
    reason = str(error)
    for checkpoint in filter(None, chosen):
        # where the files of this machine are is no matter of the page's users
        reason = reason.replace(str(checkpoint.path), checkpoint.label)
    return notice(reason, wrong=True)

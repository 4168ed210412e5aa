"""The table of costs: what networks count, what they take on this machine, and what was published of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from involution.engine.settings import LARGEST_SIDE
from involution.studies.cost import authors_cost, authors_pass, multiply_adds
from involution.studies.errors import StudyError
from involution.studies.harness import interleaved, out_of_memory, peak_memory, percentiles
from involution.studies.origin import kernels
from involution.studies.published import CLASSIFIERS, DETECTORS, PUBLISHED, SEGMENTERS
from involution.studies.tables import Table, document, spread

SMALLEST = 32
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

CONVENTIONS = (
    "MACs: multiply-adds of convolutions, linear layers and involutions, by PyTorch's FlopCounterMode (which counts "
    "two operations for each). An involution of kernel size K has K² for each element of its output, beside those of "
    "the 1×1 convolutions that generate its kernels.",
    "Authors' FLOPs: as the published figures were counted. The same multiply-adds, plus one for each output of a "
    "convolution's bias, two for each element of a batch norm, one for each of a ReLU and of a pooling; without the "
    "classifier, and with the 7×7 stem of the published detectors: RedNet-50 so has 2.71 G at 224×224, as published.",
    "A twin (rednet50_conv) has its RedNet's layout with 3×3 convolutions, and the stem of three convolutions. The "
    "ResNets published beside RedNet have, by their FLOPs, one 7×7 convolution as stem, and with it about 0.24 G less.",
)
DETECTION = (
    "Detectors and segmenters are counted as the authors' tool does it: 1000 proposals, 100 masks, by default at "
    "1280×800 and at 1024×2048. Published parameters leave out the frozen stem and first stage of the detectors "
    "(0.14 M); some published FLOPs leave out batch norms and the mask head's last layers (involution.studies.cost)."
)


def known_models() -> list[str]:
    """Return the names that `count` knows: RedNets and twins, torchvision's ResNet-50, the published recipes."""
    from involution.models.layouts import VARIANTS

    return [*VARIANTS, "resnet50", *DETECTORS, *SEGMENTERS]


def check_models(names: Iterable[str]) -> None:
    """Raise `StudyError` for a name that `known_models` has not."""
    from involution.data.errors import nearest

    known = known_models()
    for name in names:
        if name not in known:
            raise StudyError(f"no model named {name!r}{nearest(name, known)} (there are {', '.join(known)})")


def image_size(name: str, size: Sequence[int] | None) -> tuple[int, int]:
    """Return height and width of a model's image.

    Args:
        name: Of the model.
        size: One number for a square, two for height and width, or None for the model's own.

    Raises:
        StudyError: If ``size`` is something else.
    """
    if size is None:
        if name in DETECTORS:
            return 1280, 800
        if name in SEGMENTERS:
            return 1024, 2048
        return (32, 32) if name.startswith(("rednet_nano", "rednet_micro")) else (224, 224)
    if len(size) not in (1, 2) or not SMALLEST <= min(size) <= max(size) <= LARGEST_SIDE:
        given = " ".join(map(str, size))
        raise StudyError(f"wanted one size, or height and width, from {SMALLEST} to {LARGEST_SIDE} pixels, got {given}")
    return size[0], size[-1]


def build(name: str) -> nn.Module:
    """Return an untrained model of a name, in evaluation mode, on torch's default device."""
    import timm
    import torchvision

    from involution import models  # noqa: F401, registers RedNet with timm

    model: nn.Module
    if name == "resnet50":
        model = torchvision.models.resnet50()
    elif name in DETECTORS:
        from involution.engine.tasks.detect.config import DetectConfig
        from involution.engine.tasks.detect.network import create_detector

        model = create_detector(DetectConfig.load(name), 80, False)
    elif name in SEGMENTERS:
        from involution.engine.tasks.segment.config import SegmentConfig
        from involution.engine.tasks.segment.network import create_segmenter

        model = create_segmenter(SegmentConfig.load(name), 19, False)
    else:
        model = timm.create_model(name)
    return model.eval()


def count(name: str, size: Sequence[int] | None = None) -> dict[str, Any]:
    """Count a model's parameters and operations for one image, without memory or time for either.

    Args:
        name: One of `known_models`.
        size: As in `image_size`.

    Returns:
        A row: parameters, multiply-adds (``macs``), the authors' count (``authors_flops``; with the 7×7 stem and
        without the classifier), and what was published, each where it is known.

    Raises:
        StudyError: For an unknown name or a wrong size.
    """
    check_models([name])
    height, width = image_size(name, size)
    with torch.device("meta"):
        image, model = torch.empty(1, 3, height, width), build(name)
        if name in DETECTORS or name in SEGMENTERS:
            run = authors_pass(model, image)
            macs, authors = multiply_adds(run), authors_cost(model, run)
        else:
            macs, authors = multiply_adds(lambda: model(image)), _without_classifier(name, image)
    row: dict[str, Any] = {
        "model": name,
        "height": height,
        "width": width,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "macs": macs,
        "authors_flops": authors.total,
    }
    if name in PUBLISHED:
        published = PUBLISHED[name]
        row |= {"published_parameters_m": published.parameters, "published_flops_g": published.flops}
        row |= {f"published_{measure}": score for measure, score in published.scores.items()}
        row["published_in"] = published.source
    return row


def _without_classifier(name: str, image: torch.Tensor) -> Any:
    if name == "resnet50":
        network: Any = build(name)
        network.avgpool = network.fc = nn.Identity()
        return authors_cost(network, lambda: network(image))
    stem7 = f"{name}_stem7"
    network = build(stem7 if stem7 in known_models() else name)
    return authors_cost(network, lambda: network.forward_features(image))


def measure(
    names: Sequence[str],
    batch: int,
    size: Sequence[int] | None = None,
    *,
    seconds: float = 2.0,
    dtype: str = "float32",
    folded: bool = False,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, Any]]:
    """Measure the inference of classifiers on the GPU where there is one, else on the CPU, all in turn.

    Args:
        names: Of classifiers.
        batch: Images in a batch.
        size: As in `image_size`.
        seconds: Time for each model; each is timed seven times at least.
        dtype: One of `DTYPES`, of weights and images.
        folded: Fold the batch norms away first.
        tick: Called after each round of all models.

    Returns:
        For each model the columns that `count` has not: milliseconds of a batch (p20, p50, p80), images per second,
        bytes of the weights and the most that a call holds beyond them; for a RedNet whose twin is there, too, the
        ratio to the twin's time in the same round (p20, p50, p80). A model without room has a note.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    setting = {"batch": batch, "dtype": dtype, "folded": folded, "kernels": kernels()}
    rows: dict[str, dict[str, Any]] = {}
    calls: dict[str, Callable[[], Any]] = {}
    for name in names:
        try:
            calls[name], rows[name] = _prepare(name, batch, image_size(name, size), DTYPES[dtype], folded, device)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            rows[name] = {"note": "no memory for it"}
        rows[name] = setting | rows[name]
        tick()
    # the progress is a candidate like any other: shown between the models' calls, and its time left out
    samples = interleaved({"": tick, **calls}, seconds=seconds * max(len(calls), 1))
    for name in calls:
        rows[name] |= percentiles(samples[name], "ms", 3)
        rows[name]["images_per_s"] = round(1e3 * batch / rows[name]["p50_ms"], 2)
        if (twin := f"{name.removesuffix('_stem7')}_conv") in calls:
            ratios = [one / other for one, other in zip(samples[name], samples[twin], strict=True)]
            rows[name] |= percentiles(ratios, "of_twin", 3)
    return rows


def _prepare(
    name: str, batch: int, size: tuple[int, int], dtype: torch.dtype, folded: bool, device: str
) -> tuple[Callable[[], Any], dict[str, Any]]:
    from involution.models import fuse

    torch.manual_seed(0)
    model = build(name)
    if folded:
        fuse(model)
    model.to(device, dtype).to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, *size).to(device, dtype, memory_format=torch.channels_last)

    def call() -> Any:
        with torch.inference_mode():
            return model(images)

    # the first call also sets the libraries up
    call()
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    return call, {"weight_bytes": weights, "peak_bytes": peak_memory(call)}


_SCORES = {"top1": "top-1", "box_ap": "box AP", "miou": "mIoU"}


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return what a reader wants to see of the rows, figures beside the published ones."""
    measured = any("p50_ms" in row or "note" in row for row in rows)
    scores = [name for name in _SCORES if any(f"published_{name}" in row for row in rows)]
    header = ["model", "parameters, M", "published", "MACs, G", "authors' FLOPs, G", "published"]
    header += [f"published {_SCORES[name]}, %" for name in scores]
    if measured:
        header += ["batch", "ms (p20–p80)", "images/s", "÷ twin (p20–p80)", "activations, MB"]
    cells = [
        [
            row["model"],
            f"{row['parameters'] / 1e6:.2f}",
            _known(row, "published_parameters_m", "g"),
            f"{row['macs'] / 1e9:.2f}",
            f"{row['authors_flops'] / 1e9:.2f}",
            _known(row, "published_flops_g", "g"),
            *(_known(row, f"published_{name}", ".2f" if name == "top1" else ".1f") for name in scores),
            *(_measured_cells(row) if measured else ()),
        ]
        for row in rows
    ]
    sizes = dict.fromkeys(f"{row['height']}×{row['width']}" for row in rows)
    return Table(f"Cost of one image of {', '.join(sizes)} pixels", header, cells)


def _known(row: Mapping[str, Any], key: str, form: str) -> str:
    return format(row[key], form) if key in row else ""


def _measured_cells(row: Mapping[str, Any]) -> list[str]:
    if "p50_ms" not in row:
        return [str(row.get("batch", "")), row.get("note", ""), "", "", ""]
    return [
        str(row["batch"]),
        spread(row, "ms", ".1f"),
        f"{row['images_per_s']:.1f}",
        spread(row, "of_twin", ".2f"),
        f"{row['peak_bytes'] / 1e6:.1f}",
    ]


def notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what must be known to read the table: how it was counted, measured and published."""
    lines = list(CONVENTIONS)
    if any(row["model"] in DETECTORS or row["model"] in SEGMENTERS for row in rows):
        lines.append(DETECTION)
    sources = dict.fromkeys(row["published_in"] for row in rows if "published_in" in row)
    if sources:
        lines.append(f"Published: {'; '.join(sources)}.")
    if any("p50_ms" in row for row in rows):
        row = next(row for row in rows if "p50_ms" in row)
        form = "batch norms folded" if row["folded"] else "batch norms not folded"
        lines.append(
            f"Measured: inference, {row['dtype']}, channels_last, {form}, untrained weights, kernels {row['kernels']}; "
            "median, 20th and 80th percentile of a batch's time, all models in turn in one process; ÷ twin: ratio to "
            "its convolution twin's time in the same round; activations: the most that a call holds beyond weights and "
            "images."
        )
    return lines


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of `all_rows` and its notes in Markdown."""
    return document([table(rows)], notes(rows), "cost")


def default_models() -> list[str]:
    """Return RedNet-26 to 152, each with its twin, and torchvision's ResNet-50."""
    return list(CLASSIFIERS)


def is_measurable(name: str) -> bool:
    """Say whether a model is timed: classifiers are; `make bench-detection` times detectors."""
    return name not in DETECTORS and name not in SEGMENTERS


def all_rows(
    names: Sequence[str],
    batches: Sequence[int],
    size: Sequence[int] | None,
    *,
    seconds: float,
    dtype: str,
    folded: bool,
    tick: Callable[[str], None] = lambda what: None,
) -> list[dict[str, Any]]:
    """Count models, and measure those that `is_measurable`, at each batch size.

    Args:
        names: Of `known_models`.
        batches: Batch sizes; none: only count.
        size: As in `image_size`.
        seconds: As in `measure`; dtype and folded, too.
        dtype: See there.
        folded: See there.
        tick: Called with what is being done.

    Returns:
        For each batch size a row for each model; models that are only counted have one row.
    """
    check_models(names)
    counts = {}
    for name in names:
        tick(f"counting {name}")
        counts[name] = count(name, size)
    timed = [name for name in names if is_measurable(name)]
    rows = [] if batches and timed else list(counts.values())
    for batch in batches if timed else ():
        step = partial(tick, f"measuring, batch {batch}")
        found = measure(timed, batch, size, seconds=seconds, dtype=dtype, folded=folded, tick=step)
        rows += [{**counts[name], **found.get(name, {})} for name in names if name in found or batch == batches[0]]
    return rows

"""Checkpoints: which network a file is of, whether it is whole, and converting it to safetensors."""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import timm
import torch

from involution.models.errors import CheckpointError
from involution.models.keys import MappedState, Source, to_timm_layout
from involution.models.layouts import VARIANTS
from involution.models.readers import CHECKSUM, Weights, checksum, read_weights
from involution.models.rednet import RedNet
from involution.plain import plain, shown

__all__ = ["CheckpointReport", "check_entries", "convert_checkpoint", "identify"]


@dataclass(frozen=True)
class CheckpointReport:
    """What was found in a checkpoint file.

    Attributes:
        model: Name of the network in timm's registry.
        stem_kernel: Kernel size of the stem's involution; None without one.
        in_chans: Channels of its input images.
        num_classes: Classes of its classifier, 0 without one.
        source: Layout of the file.
        entries: State dict entries used.
        left_out: Entries of the file that were not taken.
        untouched: Entries of the model that were left as they were.
        notes: What a reader should know besides: a moving average was taken, a convolution adapted.
        classes: Class names in the file, None without any.
    """

    model: str
    stem_kernel: int | None
    in_chans: int
    num_classes: int
    source: Source
    entries: int
    left_out: list[str] = field(default_factory=list)
    untouched: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    classes: list[str] | None = None


def identify(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the registered name of the model to which a state dict in this package's layout belongs.

    Args:
        tensors: Entries by the model's names.

    Raises:
        CheckpointError: No registered model has its number of blocks, widths and stem.
    """
    blocks: dict[int, set[int]] = {}
    widths: dict[int, int] = {}
    for name, tensor in tensors.items():
        if match := re.match(r"layer(\d)\.(\d+)\.(.*)", name):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
            if match[3] == "conv1.weight" and tensor.dim() == 4:
                widths[int(match[1])] = tensor.shape[0]
    layers = tuple(max(blocks[stage]) + 1 for stage in sorted(blocks))
    channels = tuple(widths[stage] for stage in sorted(widths))
    kernel = _stem_kernel(tensors)
    involution = kernel is not None or any(".generator." in name for name in tensors)
    for name, (model_cls, args) in VARIANTS.items():
        wanted = args.get("channels", (64, 128, 256, 512))
        if (
            layers == args["layers"]
            # a width whose entry is missing is reported with the missing entries
            and set(channels) <= set(wanted)
            and involution == (model_cls is RedNet)
            and (not kernel or kernel == args.get("stem_kernel", 3))
        ):
            return name
    raise CheckpointError(
        f"no registered model has {layers} blocks per stage of widths {channels}, "
        f"{f'stem kernel {kernel}' if involution else 'convolutions'}; known are {', '.join(VARIANTS)}"
    )


def convert_checkpoint(
    src: str | Path, dst: str | Path, *, overwrite: bool = False, metadata: Mapping[str, str] | None = None
) -> CheckpointReport:
    """Convert a RedNet checkpoint to safetensors in this package's layout.

    The file that is written loads with ``timm.create_model(report.model, num_classes=report.num_classes,
    checkpoint_path=dst)`` and bears the report as metadata. A detector's or segmenter's backbone is converted
    alone.

    Args:
        src: File in the authors', PaddlePaddle's or this package's layout.
        dst: File to write, ending in ``.safetensors``.
        overwrite: Replace ``dst`` where it exists.
        metadata: Further words for the metadata of ``dst``, by name.

    Returns:
        What was found and converted.

    Raises:
        FileNotFoundError: No folder to write to.
        FileExistsError: ``dst`` exists and ``overwrite`` is not set.
        CheckpointError: The file is missing, can't be read safely, is not a whole RedNet, or ``dst`` does not end in
            ``.safetensors``.
        OSError: The file can't be written.

    Example:
        >>> from involution.models import rednet_nano
        >>> torch.save({"state_dict": rednet_nano().state_dict()}, "nano.pth")
        >>> report = convert_checkpoint("nano.pth", "nano.safetensors")
        >>> report.model, report.num_classes
        ('rednet_nano', 10)
    """
    from safetensors.torch import save

    dst = Path(os.path.realpath(check_target(src, dst, ".safetensors", overwrite)))
    state, report, weights = _read(src)
    model_cls, args = VARIANTS[report.model]
    twin = model_cls(**args, num_classes=report.num_classes, in_chans=report.in_chans, device="meta")
    check_entries(state.tensors, twin.state_dict(), f"{src} is not a whole {report.model}")

    temporary = dst.with_name(f".{dst.name}.{os.getpid()}.tmp")
    try:
        contiguous = {name: value.contiguous() for name, value in state.tensors.items()}
        told = {**_metadata(report, weights), **(metadata or {})}
        # safetensors' own writer lets nobody else read the file
        temporary.write_bytes(save(contiguous, metadata={**told, CHECKSUM: checksum(contiguous, told)}))
        os.replace(temporary, dst)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(dst)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return report


def check_target(src: str | Path, dst: str | Path, suffix: str, overwrite: bool) -> Path:
    """Return the file to write, if its name ends so, its folder exists and it may be overwritten where it exists."""
    src, dst = Path(src), Path(dst)
    if dst.suffix != suffix:
        raise CheckpointError(f"wanted an output file that ends in {suffix}, got {dst}")
    if dst.exists() and src.exists() and dst.samefile(src):
        raise CheckpointError(f"{dst} is the file to convert: choose another name for the output")
    if dst.is_dir():
        raise CheckpointError(f"{dst} is a folder; wanted the name of a file")
    if dst.exists() and not overwrite:
        raise FileExistsError(f"{dst} exists: choose another name, or overwrite it (overwrite=True, --force)")
    if not dst.parent.is_dir():
        raise FileNotFoundError(f"no folder {dst.parent} to write {dst.name} to")
    if not os.access(dst.parent, os.W_OK):
        raise PermissionError(f"can't write to the folder {dst.parent}")
    return dst


def _read(path: str | Path) -> tuple[MappedState, CheckpointReport, Weights]:
    weights = read_weights(path)
    try:
        state = to_timm_layout(weights.tensors)
        model = identify(state.tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    classes = [len(value) for name, value in state.tensors.items() if name.startswith("fc.") and value.dim()]
    stem = state.tensors.get("conv1.0.weight")
    model_cls, args = VARIANTS[model]
    report = CheckpointReport(
        model=model,
        stem_kernel=args.get("stem_kernel", 3) if model_cls is RedNet else None,
        in_chans=stem.shape[1] if stem is not None and stem.dim() == 4 else 3,
        num_classes=classes[0] if classes else 0,
        source=state.source,
        entries=len(state.tensors),
        left_out=state.left_out,
        notes=[*notes_of(weights), *_unfit_names(weights, classes[0] if classes else 0)],
    )
    return state, report, weights


def notes_of(weights: Weights) -> list[str]:
    """Return what a reader should know of how a file was read."""
    notes = [weights.doubt] if weights.doubt else []
    if weights.images:
        notes.append(f"how its training prepared images is not read: {weights.images}")
    if weights.average:
        notes.append(f"used the moving average of the weights ({weights.entry}), not the plain ones next to it")
    if weights.unused:
        notes.append(f"used the weights under {weights.entry}, not those under {', '.join(map(shown, weights.unused))}")
    return notes


def _unfit_names(weights: Weights, num_classes: int) -> list[str]:
    # those of a detector are not its backbone's
    if not weights.classes or len(weights.classes) == num_classes or not num_classes:
        return []
    return [f"the class names in the file are not used: {len(weights.classes)} for {num_classes} classes"]


def _stem_kernel(tensors: Mapping[str, torch.Tensor]) -> int | None:
    """Return the stem's kernel size by the kernels that its generator puts out, None where there is none."""
    span, conv = tensors.get("conv1.3.generator.span.weight"), tensors.get("conv1.0.weight")
    if span is None or conv is None or span.dim() != 4 or conv.dim() != 4:
        return None
    return math.isqrt(span.shape[0] // max(1, conv.shape[0] // 16))


def check_entries(
    tensors: Mapping[str, torch.Tensor],
    wanted: Mapping[str, torch.Tensor],
    message: str,
    *,
    strange: Sequence[str] = (),
) -> None:
    """Raise `CheckpointError` with ``message`` and every missing, unexpected and misshapen entry, if there is one.

    Args:
        tensors: What there is.
        wanted: What has to be there.
        message: How the report begins.
        strange: Entries that are unexpected besides.
    """
    missing = [name for name in wanted if name not in tensors]
    unexpected = [*(name for name in tensors if name not in wanted), *strange]
    mismatched = [
        f"{name} {_describe(wanted[name])} wanted, got {_describe(tensors[name])}"
        for name in wanted
        if name in tensors and not fits(tensors[name], wanted[name])
    ]
    if missing or unexpected or mismatched:
        raise CheckpointError(message, missing=missing, unexpected=unexpected, mismatched=mismatched)


def fits(given: torch.Tensor | None, wanted: torch.Tensor) -> bool:
    """Whether an entry can take the place of another: its shape and kind of number."""
    # precision may differ, the kind of number may not
    return given is not None and given.shape == wanted.shape and given.is_floating_point() == wanted.is_floating_point()


def _describe(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} {'float' if tensor.is_floating_point() else 'integer'}"


def _metadata(report: CheckpointReport, weights: Weights) -> dict[str, str]:
    told = {}
    card = weights.card or {}
    if weights.classes and len(weights.classes) == report.num_classes:
        # of a detector they are not the backbone's
        told["classes"] = json.dumps(weights.classes)
    if card.get("task") == "classify" and not plain(card):
        # its state of training is not in the new file
        told["card"] = json.dumps({key: value for key, value in card.items() if key != "position"})
    from involution import __version__

    return {
        "format": "pt",
        "model": report.model,
        "stem_kernel": str(report.stem_kernel or ""),
        "in_chans": str(report.in_chans),
        "num_classes": str(report.num_classes),
        "source_format": report.source,
        "involution_version": __version__,
        "torch_version": torch.__version__,
        "timm_version": timm.__version__,
        **told,
    }

"""RedNet checkpoints: read the authors', PaddlePaddle's and our own files, convert them to safetensors."""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from involution.models.layouts import CheckpointError, MappedState, Source, to_timm_layout
from involution.models.readers import read_state_dict
from involution.models.rednet import RedNet
from involution.models.variants import VARIANTS

__all__ = ["CheckpointError", "CheckpointReport", "convert_checkpoint", "identify", "load_checkpoint"]


@dataclass(frozen=True)
class CheckpointReport:
    """What a checkpoint file was found to hold.

    Attributes:
        model: Registered name of the model.
        stem_kernel: Kernel size of the stem's involution; None in a convolution twin.
        in_chans: Channels of its input images.
        num_classes: Classes of its classifier, 0 without one.
        source: Layout of the file.
        entries: State dict entries taken.
        left_out: Entries of the file that were not taken.
    """

    model: str
    stem_kernel: int | None
    in_chans: int
    num_classes: int
    source: Source
    entries: int
    left_out: list[str] = field(default_factory=list)


def identify(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the registered name of the model that a state dict in this package's layout belongs to.

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


def load_checkpoint(model: nn.Module, path: str | Path, *, ignore_head: bool = False) -> CheckpointReport:
    """Load a checkpoint file into ``model``, whole or not at all.

    Args:
        model: A model of this package. Without a classifier (``num_classes=0``, ``features_only=True``), the
            file's is left out.
        path: File in the authors', PaddlePaddle's or this package's layout.
        ignore_head: Leave the file's classifier out and the model's as it is, to train on other classes.

    Returns:
        What the file holds and what of it was left out.

    Raises:
        FileNotFoundError: No such file.
        CheckpointError: The file can't be read safely, or entries are missing, unexpected or of the wrong
            shape: all of them in one report. The model is unchanged.

    Example:
        >>> from involution.models import rednet_nano
        >>> torch.save(rednet_nano().state_dict(), "nano.pth")
        >>> load_checkpoint(rednet_nano(num_classes=4), "nano.pth", ignore_head=True).left_out
        ['fc.weight', 'fc.bias']
    """
    state, report = _read(path)
    wanted = model.state_dict()
    if ignore_head or not any(name.startswith("fc.") for name in wanted):
        head = [name for name in state.tensors if name.startswith("fc.")]
        tensors = {name: value for name, value in state.tensors.items() if name not in head}
        wanted = {name: value for name, value in wanted.items() if not name.startswith("fc.")}
        report = replace(report, entries=len(tensors), left_out=[*report.left_out, *head])
    else:
        tensors = state.tensors
    check_entries(tensors, wanted, f"{path} ({report.model}) does not fit the model")
    model.load_state_dict(tensors, strict=not ignore_head)
    return report


def convert_checkpoint(src: str | Path, dst: str | Path, *, overwrite: bool = False) -> CheckpointReport:
    """Convert a RedNet checkpoint to safetensors in this package's layout.

    The file that is written loads with ``timm.create_model(report.model, num_classes=report.num_classes,
    checkpoint_path=dst)`` and bears the report as metadata. A detector's or segmenter's backbone is converted
    alone.

    Args:
        src: File in the authors', PaddlePaddle's or this package's layout.
        dst: File to write, ending in ``.safetensors``.
        overwrite: Replace ``dst`` where it exists.

    Returns:
        What was found and converted.

    Raises:
        FileNotFoundError: No such file, or no folder to write to.
        FileExistsError: ``dst`` exists and ``overwrite`` is not set.
        CheckpointError: The file can't be read safely, is not a whole RedNet, or ``dst`` does not end in
            ``.safetensors``.
        OSError: The file can't be written.

    Example:
        >>> from involution.models import rednet_nano
        >>> torch.save({"state_dict": rednet_nano().state_dict()}, "nano.pth")
        >>> report = convert_checkpoint("nano.pth", "nano.safetensors")
        >>> report.model, report.num_classes
        ('rednet_nano', 10)
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    dst = check_target(dst, ".safetensors", overwrite)
    state, report = _read(src)
    model_cls, args = VARIANTS[report.model]
    twin = model_cls(**args, num_classes=report.num_classes, in_chans=report.in_chans, device="meta")
    check_entries(state.tensors, twin.state_dict(), f"{src} is not a whole {report.model}")

    temporary = dst.with_name(f".{dst.name}.{os.getpid()}.tmp")
    try:
        contiguous = {name: value.contiguous() for name, value in state.tensors.items()}
        save_file(contiguous, temporary, metadata=_metadata(report))
        os.replace(temporary, dst)
    except SafetensorError as error:
        raise OSError(f"can't write {dst}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return report


def check_target(dst: str | Path, suffix: str, overwrite: bool) -> Path:
    """Return the file to write, if its name ends so, its folder exists and it may be overwritten where it exists."""
    dst = Path(dst)
    if dst.suffix != suffix:
        raise CheckpointError(f"wanted an output file that ends in {suffix}, got {dst}")
    if dst.exists() and not overwrite:
        raise FileExistsError(f"{dst} exists: choose another name, or overwrite it (overwrite=True, --force)")
    if not dst.parent.is_dir():
        raise FileNotFoundError(f"no folder {dst.parent} to write {dst.name} to")
    return dst


def _read(path: str | Path) -> tuple[MappedState, CheckpointReport]:
    tensors = read_state_dict(path)
    try:
        state = to_timm_layout(tensors)
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
    )
    return state, report


def _stem_kernel(tensors: Mapping[str, torch.Tensor]) -> int | None:
    """Return the stem's kernel size by the kernels that its generator puts out, None where there is none."""
    span, conv = tensors.get("conv1.3.generator.span.weight"), tensors.get("conv1.0.weight")
    if span is None or conv is None or span.dim() != 4 or conv.dim() != 4:
        return None
    return math.isqrt(span.shape[0] // max(1, conv.shape[0] // 16))


def check_entries(tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], message: str) -> None:
    """Raise `CheckpointError` with ``message`` and every missing, unexpected and misshapen entry, if there is one."""
    missing = [name for name in wanted if name not in tensors]
    unexpected = [name for name in tensors if name not in wanted]
    mismatched = [
        f"{name} {_describe(wanted[name])} wanted, got {_describe(tensors[name])}"
        for name in wanted
        if name in tensors and _describe(wanted[name]) != _describe(tensors[name])
    ]
    if missing or unexpected or mismatched:
        raise CheckpointError(message, missing=missing, unexpected=unexpected, mismatched=mismatched)


def _describe(tensor: torch.Tensor) -> str:
    # precision may differ, the kind of number may not
    return f"{tuple(tensor.shape)} {'float' if tensor.is_floating_point() else 'integer'}"


def _metadata(report: CheckpointReport) -> dict[str, str]:
    import timm

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
    }

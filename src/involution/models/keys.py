"""Key layouts of RedNet checkpoints: the authors', PaddlePaddle's, and this package's (timm's ResNet)."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from involution.models.errors import CheckpointError, shorten

Source = Literal["authors", "paddle", "timm"]

# any block's 1×1 convolutions tell the prefix of the backbone, whatever else is missing
_BLOCK = re.compile(r"^((?:.*\.)?)layer\d\.\d+\.conv[13]\.weight$")
_STEM = {
    "stem.0.conv.": "conv1.0.",
    "stem.0.bn.": "conv1.1.",
    "stem.1.": "conv1.3.",
    "stem.2.": "conv1.4.",
    "stem.4.conv.": "conv1.6.",
    "stem.4.bn.": "bn1.",
}
_GENERATOR = {"conv1.conv.": "reduce.", "conv1.bn.": "norm.", "conv2.conv.": "span."}
_GENERATOR_KEY = re.compile(r"^(conv1\.3|layer\d\.\d+\.conv2)\.(conv1\.conv\.|conv1\.bn\.|conv2\.conv\.)")


@dataclass(frozen=True)
class MappedState:
    """A checkpoint's entries under this package's names.

    Attributes:
        tensors: Entries by the model's state dict keys.
        source: Layout they came in.
        left_out: The file's entries that are no part of the network (a detector's neck and heads).
    """

    tensors: dict[str, torch.Tensor]
    source: Source
    left_out: list[str] = field(default_factory=list)


def timm_name(name: str) -> str:
    """Return this package's name for an entry in the authors' layout, without prefixes.

    Example:
        >>> timm_name("layer1.0.conv2.conv1.conv.weight")
        'layer1.0.conv2.generator.reduce.weight'
    """
    for old, new in _STEM.items():
        if name.startswith(old):
            name = new + name.removeprefix(old)
            break
    return _GENERATOR_KEY.sub(lambda match: f"{match[1]}.generator.{_GENERATOR[match[2]]}", name)


def is_foreign(keys: Iterable[str]) -> bool:
    """Whether a RedNet's entries are named as the authors or PaddlePaddle name them, under whatever prefix."""
    return any(key.endswith("._mean") or ".conv2.conv1." in key for key in keys)


def to_timm_layout(state_dict: Mapping[str, torch.Tensor]) -> MappedState:
    """Return ``state_dict`` under this package's names.

    The layout is recognised by its keys, under any prefix (``backbone.``, ``module.``, ``model.backbone.``).
    What lies outside the backbone's prefix is left out, save the authors' classifier ``head.fc``.

    Args:
        state_dict: Entries in the authors', PaddlePaddle's or this package's layout.

    Raises:
        CheckpointError: No RedNet in it, or several.
    """
    prefix = _backbone_prefix(state_dict)
    head = prefix.removesuffix("backbone.") + "head."
    inner: dict[str, torch.Tensor] = {}
    left_out: list[str] = []
    for key, value in state_dict.items():
        if key.startswith(head + "fc."):
            inner[key.removeprefix(head)] = value
        elif key.startswith(prefix):
            inner[key.removeprefix(prefix)] = value
        else:
            left_out.append(key)

    if any(key.endswith("._mean") for key in inner):
        return MappedState(_from_paddle(inner), "paddle", left_out)
    if any(key.startswith("stem.") or ".conv2.conv1." in key for key in inner):
        return MappedState({timm_name(key): value for key, value in inner.items()}, "authors", left_out)
    return MappedState(inner, "timm", left_out)


def _backbone_prefix(keys: Iterable[str]) -> str:
    keys = list(keys)
    prefixes = sorted({match[1] for key in keys if (match := _BLOCK.match(key))})
    if not prefixes:
        raise CheckpointError(
            "no RedNet in this file: wanted entries like backbone.layer1.0.conv1.weight (authors), "
            f"layer1.0.conv1.weight (PaddlePaddle, involution), got {shorten(keys, 5) or 'none'}"
        )
    if len(prefixes) > 1:
        raise CheckpointError(
            f"several networks in this file, under {', '.join(map(repr, prefixes))}: save only one of them"
        )
    return prefixes[0]


def _from_paddle(entries: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for key, value in entries.items():
        name = timm_name(re.sub(r"\._(mean|var)(iance)?$", r".running_\1", key))
        # a linear layer of PaddlePaddle is [in, out]
        tensors[name] = value.t().contiguous() if name == "fc.weight" and value.dim() == 2 else value
        if name.endswith(".running_mean"):
            counter = name.removesuffix("running_mean") + "num_batches_tracked"
            tensors[counter] = torch.tensor(0, dtype=torch.int64)
    return tensors

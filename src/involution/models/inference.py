"""Networks for inference without a compiler: folded, with sums and ReLUs in the convolutions before them.

PyTorch's convolutions on a CPU bring their weights into oneDNN's order at every call, and the sum and the ReLU that
follow pass through memory once more each. oneDNN does all of this in one operation, which PyTorch uses for networks
that its compiler has frozen. Here modules call it one by one, so that the network stays an ``nn.Module``.
"""

from __future__ import annotations

import platform
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import timm.layers
import torch
from timm.models import resnet
from timm.models._features import FeatureListNet
from torch import Tensor, nn

from involution.models.fuse import FuseReport, fuse
from involution.models.rednet import InvolutionBottleneck
from involution.nn import Involution2d, KernelGenerator
from involution.nn.fusion import is_observed, is_touched
from involution.ops.autograd import needs_derivative

# what does nothing in inference
_NOTHING = (nn.Identity, nn.Dropout, timm.layers.DropPath, timm.layers.DropBlock2d)


class _Packed(NamedTuple):
    source: Tensor
    version: int
    dtype: torch.dtype
    shape: torch.Size
    weight: Tensor


class FusedConv2d(nn.Conv2d):
    """A convolution for inference: ``relu(conv(x) + other)``, one operation where oneDNN runs it.

    Elsewhere the operations run one by one: on other devices and in float64, under `torch.compile` and `torch.export`,
    where derivatives are wanted, and where somebody counts operations. Its parameters are the convolution's. A copy in
    oneDNN's order is made by the first call, and again after ``load_state_dict`` or another change that PyTorch counts;
    changes of ``weight.data`` in place are not.

    Attributes:
        relu: Whether a ReLU follows.

    Example:
        >>> conv = torch.nn.Conv2d(8, 16, 3, padding=1)
        >>> fused = FusedConv2d.of(conv, relu=True)
        >>> x, other = torch.randn(1, 8, 5, 5), torch.randn(1, 16, 5, 5)
        >>> with torch.no_grad():
        ...     torch.allclose(fused(x, other), (conv(x) + other).relu(), atol=1e-5)
        True
    """

    relu: bool
    _packed: _Packed | None
    _last: torch.Size | None

    @classmethod
    def of(cls, conv: nn.Conv2d, *, relu: bool = False) -> FusedConv2d:
        """Return one with a convolution's own parameters.

        Args:
            conv: A convolution that pads with zeros, by numbers.
            relu: Whether a ReLU follows.
        """
        made = cls.__new__(cls)
        made.__dict__.update(conv.__dict__, relu=relu, _packed=None, _last=None)
        return made

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Convolve ``x [N, C, H, W]``, and add ``other [N, C_out, H_o, W_o]`` if there is one."""
        weight, bias = self.weight, self.bias
        dtype = _onednn_dtype(x, other, weight, bias)
        if dtype is None:
            x = self._conv_forward(x, weight, bias)
            x = x if other is None else x + other
            return x.relu() if self.relu else x
        if dtype != x.dtype:
            x, other, bias = (t if t is None else t.to(dtype) for t in (x, other, bias))  # type: ignore[assignment]
        x = x.contiguous(memory_format=torch.channels_last)
        packed = self._packed_weight(x.shape, dtype)
        how = (self.padding, self.stride, self.dilation, self.groups)
        operators = torch.ops.mkldnn._convolution_pointwise
        found: Tensor
        if other is None:
            found = operators.default(x, packed, bias, *how, "relu" if self.relu else "none", [], "")
        else:
            other = other.contiguous(memory_format=torch.channels_last)
            relu = "relu" if self.relu else None
            found = operators.binary(x, other, packed, bias, *how, "add", None, relu, [], None)
        return found

    def _packed_weight(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        weight, packed = self.weight, self._packed
        # the best order depends on the input's size; one that comes only once is not worth another copy
        if (
            packed is None
            or (packed.version, packed.dtype) != (weight._version, dtype)
            or packed.source.data_ptr() != weight.data_ptr()
            or (packed.shape != shape and self._last == shape)
        ):
            source = weight.detach()
            how = (self.padding, self.stride, self.dilation, self.groups)
            made = torch.ops.mkldnn._reorder_convolution_weight(source.to(dtype), *how, list(shape))
            packed = self._packed = _Packed(source, weight._version, dtype, shape, made)
        self._last = shape
        return packed.weight

    def __getstate__(self) -> dict[str, Any]:
        # copies and files need the weights alone
        return {**self.__dict__, "_packed": None, "_last": None}

    def extra_repr(self) -> str:
        """Return the convolution's settings, and whether a ReLU follows."""
        return super().extra_repr() + (", followed by relu" if self.relu else "")


def _onednn_dtype(x: Any, *others: Tensor | None) -> torch.dtype | None:
    """Return in which dtype oneDNN convolves x with weights and all, None where it does not."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) is not Tensor:
        return None
    dtype = given = x.dtype
    casts = torch.is_autocast_enabled("cpu")
    if casts and given != torch.float64:
        dtype = torch.get_autocast_dtype("cpu")
    if not _onednn_has(dtype) or not x.is_cpu or x.dim() != 4 or not x.numel() or not torch.backends.mkldnn.enabled:
        return None
    for t in others:
        # subclasses have their own ideas
        if t is not None and (
            type(t) not in (Tensor, nn.Parameter) or not t.is_cpu or (t.dtype != given and not casts)
        ):
            return None
    weight = others[1]
    # versions of weights that were made in inference mode are not counted
    if weight is None or weight.is_inference() or torch._C._are_functorch_transforms_active():
        return None
    return None if needs_derivative(x, *others) or is_observed() else dtype


@cache
def _onednn_has(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available() or platform.machine() not in ("x86_64", "AMD64"):
        return False
    operators = torch.ops.mkldnn
    if not hasattr(operators, "_convolution_pointwise") or not hasattr(operators, "_reorder_convolution_weight"):
        return False
    if dtype == torch.bfloat16:
        return bool(operators._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(operators._is_mkldnn_fp16_supported())
    return dtype == torch.float32


class FusedResidual(nn.Module):
    """A residual block for inference: its convolutions and involutions in turn, the last one with the shortcut's sum.

    Attributes:
        conv1, conv2, conv3: The block's layers, each with its ReLU; the last, a `FusedConv2d`, adds the shortcut.
        downsample: The shortcut's projection, or None.
    """

    downsample: nn.Module | None

    def __init__(self, layers: dict[str, nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.layers = tuple(layers)
        self.downsample = downsample
        self.train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``x [N, C, H, W]``."""
        shortcut = x if self.downsample is None else self.downsample(x)
        *first, last = (self._modules[name] for name in self.layers)
        for layer in first:
            x = layer(x)  # type: ignore[misc]
        return last(x, shortcut)  # type: ignore[misc]


@dataclass
class InferenceReport:
    """What `optimize_for_inference` did, by module names.

    Attributes:
        fused: What `fuse` did.
        convolutions: Convolutions whose weights stay in oneDNN's order.
        relus: Those of them that do the ReLU after them.
        blocks: Residual blocks whose last convolution adds the shortcut.

    Example:
        >>> print(InferenceReport(FuseReport(convolutions=["conv1"]), convolutions=["conv1"], relus=["conv1"]))
        folded norms into 1 convolutions, 0 kernel generators and 0 involutions
        1 convolutions by oneDNN, 1 of them with their ReLU; 0 residual blocks with their sum
    """

    fused: FuseReport
    convolutions: list[str] = field(default_factory=list)
    relus: list[str] = field(default_factory=list)
    blocks: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return what `fuse` did, and one line with the counts."""
        return (
            f"{self.fused}\n{len(self.convolutions)} convolutions by oneDNN, {len(self.relus)} of them with their ReLU;"
            f" {len(self.blocks)} residual blocks with their sum"
        )


def optimize_for_inference(model: nn.Module) -> InferenceReport:
    """Fold a network's batch norms, then let its convolutions do the ReLUs and sums that follow, in place.

    Each convolution keeps a copy of its weights in the order that oneDNN, PyTorch's library for CPUs, wants, and does
    in one operation what follows it: a ReLU, or in timm's, torchvision's and RedNet's residual blocks the sum with the
    shortcut. That is what PyTorch's compiler does when it freezes a network, without the compiling. Outputs differ by
    rounding. Where oneDNN can't run a convolution, such as on a GPU or for derivatives, the operations run one by one.
    Parameters keep their names, and no longer require gradients.

    Args:
        model: A model in evaluation mode.

    Returns:
        What was changed.

    Raises:
        ValueError: If the model is in training mode.

    Example:
        >>> import timm
        >>> print(optimize_for_inference(timm.create_model("rednet26").eval()))
        folded norms into 22 convolutions, 9 kernel generators and 9 involutions
        31 convolutions by oneDNN, 27 of them with their ReLU; 8 residual blocks with their sum
    """
    report = InferenceReport(fuse(model))
    modules = list(model.named_modules())
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    alone = {key for key, count in places.items() if count == 1}
    paths: dict[int, str] = {}
    for prefix, parent in modules:
        for name, layer in parent._modules.items():
            # the fused operator takes the span's parameters itself
            span = isinstance(parent, KernelGenerator) and name == "span"
            if id(layer) in alone and not span and _convertible(layer):
                made = parent._modules[name] = FusedConv2d.of(layer)
                paths[id(made)] = f"{prefix}.{name}" if prefix else name
    report.convolutions += paths.values()
    for prefix, parent in modules:
        for layer, act in _followed(parent):
            if type(layer) is FusedConv2d and id(parent._modules[act]) in alone and _is_relu(parent._modules[act]):
                layer.relu = True
                parent._modules[act] = nn.Identity()
        for name, block in parent._modules.items():
            residual = _residual(block) if id(block) in alone else None
            if residual is not None:
                parent._modules[name] = residual
                report.blocks.append(f"{prefix}.{name}" if prefix else name)
    report.relus += (paths[id(m)] for m in model.modules() if isinstance(m, FusedConv2d) and m.relu and id(m) in paths)
    model.requires_grad_(False)
    return report


def _convertible(layer: nn.Module | None) -> bool:
    # exactly: parametrised, quantised and adapted convolutions are of other classes
    if type(layer) is not nn.Conv2d or is_touched(layer):
        return False
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _is_relu(module: nn.Module | None) -> bool:
    return type(module) is nn.ReLU and not is_touched(module)


def _does_nothing(module: nn.Module | None) -> bool:
    return module is None or (type(module) in _NOTHING and not is_touched(module))


def _followed(parent: nn.Module) -> Iterator[tuple[nn.Module | None, str]]:
    """Yield layers and the names in ``parent`` of what follows them at once, where that is known."""
    modules = parent._modules
    if isinstance(parent, nn.Sequential) and type(parent).forward is nn.Sequential.forward:
        last = None
        for name, module in modules.items():
            if last is not None and not _does_nothing(module):
                yield last, name
            last = last if _does_nothing(module) else module
    elif isinstance(parent, KernelGenerator):
        if _does_nothing(parent.norm):
            yield parent.reduce, "act"
    elif isinstance(parent, _stems()) and "conv1" in modules and _does_nothing(modules.get("bn1")):
        stem = modules["conv1"]
        layer = stem[-1] if type(stem) is nn.Sequential and len(stem) else stem
        yield from ((layer, act) for act in ("act1", "relu") if act in modules)


def _torchvision() -> Any:
    # nobody has its networks who has not imported it
    return sys.modules.get("torchvision.models.resnet")


def _stems() -> tuple[type[nn.Module], ...]:
    theirs = (_torchvision().ResNet,) if _torchvision() else ()
    return (resnet.ResNet, FeatureListNet, *theirs)


def _blocks() -> dict[type[nn.Module], int]:
    """Return classes of residual blocks and how many layers each has."""
    ours = {InvolutionBottleneck: 3, resnet.Bottleneck: 3, resnet.BasicBlock: 2}
    return ours | ({_torchvision().Bottleneck: 3, _torchvision().BasicBlock: 2} if _torchvision() else {})


def _residual(block: nn.Module | None) -> FusedResidual | None:
    """Return what takes a block's place, None if its layers are others than those that are known."""
    number = _blocks().get(type(block))  # type: ignore[arg-type]
    if block is None or number is None or is_touched(block):
        return None
    modules = block._modules
    layers = {f"conv{i}": modules[f"conv{i}"] for i in range(1, number + 1)}
    acts = [modules.get(f"act{i}", modules.get("relu")) for i in range(1, number + 1)]
    others = {*modules} - {*layers, "act1", "act2", "act3", "relu", "downsample"}
    if not all(_does_nothing(modules[name]) for name in others) or not _is_relu(acts[-1]):
        return None
    *first, last = layers.values()
    if type(last) is not FusedConv2d:
        return None
    for layer, act in zip(first, acts, strict=False):
        # of those that have done their ReLU themselves the activation is gone
        absorbed = _does_nothing(act) and getattr(layer, "relu", False)
        if type(layer) not in (FusedConv2d, Involution2d) or not (_is_relu(act) or absorbed):
            return None
    for layer in layers.values():
        layer.relu = True  # type: ignore[union-attr]
    return FusedResidual(layers, modules.get("downsample"))  # type: ignore[arg-type]

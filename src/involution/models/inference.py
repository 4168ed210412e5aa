"""Networks for inference without a compiler: folded, with sums and ReLUs in the convolutions before them.

PyTorch's convolutions on a CPU bring their weights into oneDNN's order at every call, and the sum and the ReLU that
follow pass through memory once more each. On a GPU, so does the bias. oneDNN and cuDNN do all of this in one operation,
which PyTorch uses for networks that its compiler has frozen. Here modules call it one by one, so that the network stays
an ``nn.Module``.
"""

from __future__ import annotations

import math
import platform
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import timm.layers
import torch
import torch.nn.functional as F
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
    sources: tuple[Tensor | None, ...]
    versions: tuple[int | None, ...]
    dtype: torch.dtype
    shape: torch.Size
    weight: Tensor
    bias: Tensor | None


class FusedConv2d(nn.Conv2d):
    """A convolution for inference: ``relu(conv(x) + other)``, one operation where oneDNN or cuDNN runs it.

    Elsewhere the operations run one by one: on other devices and in float64, under `torch.compile` and `torch.export`,
    where derivatives are wanted, and where somebody counts operations. Its parameters are the convolution's. A copy in
    the library's order and autocast's dtype is made by the first call, and again after ``load_state_dict`` or another
    change that PyTorch counts; changes of ``weight.data`` in place are not. A CUDA graph stays with the copy of its
    capture.

    Attributes:
        relu: Whether a ReLU follows.
        averages: Size of the windows whose mean a 1×1 convolution is given instead of each pixel, or None.

    Example:
        >>> conv = torch.nn.Conv2d(8, 16, 3, padding=1)
        >>> fused = FusedConv2d.of(conv, relu=True)
        >>> x, other = torch.randn(1, 8, 5, 5), torch.randn(1, 16, 5, 5)
        >>> with torch.no_grad():
        ...     torch.allclose(fused(x, other), (conv(x) + other).relu(), atol=1e-5)
        True
    """

    relu: bool
    averages: tuple[int, ...] | None
    _packed: _Packed | None
    _last: torch.Size | None
    _captured: list[_Packed]

    @classmethod
    def of(cls, conv: nn.Conv2d, *, relu: bool = False) -> FusedConv2d:
        """Return one with a convolution's own parameters.

        Args:
            conv: A convolution that pads with zeros, by numbers.
            relu: Whether a ReLU follows.
        """
        made = cls.__new__(cls)
        made.__dict__.update(conv.__dict__, relu=relu, averages=None, _packed=None, _last=None, _captured=[])
        return made

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Convolve ``x [N, C, H, W]``, and add ``other [N, C_out, H_o, W_o]`` if there is one."""
        weight, bias = self.weight, self.bias
        dtype = _fused_dtype(x, other, weight, bias)
        if self.averages is not None and not (dtype is not None and x.is_cuda and self._in_cudnn(other)):
            x = F.avg_pool2d(x, self.averages)
        if dtype is None or (x.is_cuda and not self._in_cudnn(other)):
            x = self._conv_forward(x, weight, bias)
            x = x if other is None else x + other
            return x.relu() if self.relu else x
        if dtype != x.dtype:
            x, other = (t if t is None else t.to(dtype) for t in (x, other))  # type: ignore[assignment]
        x = x.contiguous(memory_format=torch.channels_last)
        packed, bias = self._packed_parameters(x, dtype)
        other = None if other is None else other.contiguous(memory_format=torch.channels_last)
        return (self._by_cudnn if x.is_cuda else self._by_onednn)(x, packed, bias, other)

    def _by_onednn(self, x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor | None) -> Tensor:
        how = (self.padding, self.stride, self.dilation, self.groups)
        operators = torch.ops.mkldnn._convolution_pointwise
        found: Tensor
        if other is None:
            found = operators.default(x, weight, bias, *how, "relu" if self.relu else "none", [], "")
        else:
            relu = "relu" if self.relu else None
            found = operators.binary(x, other, weight, bias, *how, "add", None, relu, [], None)
        return found

    def _in_cudnn(self, other: Tensor | None) -> bool:
        # a sum without a ReLU is not
        return self.groups == 1 and (self.relu or (other is None and self._is_pointwise()))

    def is_product(self) -> bool:
        """Return whether it is a matrix product at each pixel."""
        return self._is_pointwise() and self.stride == (1, 1) and self.groups == 1

    def _is_pointwise(self) -> bool:
        return (self.kernel_size, self.padding) == ((1, 1), (0, 0))

    def _by_cudnn(self, x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor | None) -> Tensor:
        # the mean is part of the weights
        how: Any = (self.averages or self.stride, self.padding, self.dilation, self.groups)
        if other is not None:
            return torch.cudnn_convolution_add_relu(x, weight, other, 1.0, bias, *how)
        if self.relu:
            return torch.cudnn_convolution_relu(x, weight, bias, *how)
        if self.averages is not None:
            return F.conv2d(x, weight, bias, *how)
        # a matrix product, which adds the bias as it goes
        if self.stride != (1, 1):
            x = x[:, :, :: self.stride[0], :: self.stride[1]].contiguous(memory_format=torch.channels_last)
        return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)

    def _packed_parameters(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        capturing = x.is_cuda and torch.cuda.is_current_stream_capturing()
        packed, shape, parameters = self._packed, x.shape, (self.weight, self.bias)
        versions = tuple(None if p is None else p._version for p in parameters)
        # on a CPU the best order depends on the input's size; one that comes only once is not worth another copy
        if (
            packed is None
            or (packed.versions, packed.dtype, packed.weight.device) != (versions, dtype, x.device)
            or any(_address(p) != _address(q) for p, q in zip(packed.sources, parameters, strict=True))
            or (not x.is_cuda and packed.shape != shape and self._last == shape)
        ):
            if capturing:
                # memory that a graph allocates is its own
                return self._pack(x, dtype)
            sources = tuple(None if p is None else p.detach() for p in parameters)
            packed = self._packed = _Packed(sources, versions, dtype, shape, *self._pack(x, dtype))
        if capturing and not any(packed is one for one in self._captured):
            # the graph goes on reading this copy, also when there is another
            self._captured.append(packed)
        self._last = shape
        return packed.weight, packed.bias

    def _pack(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        weight, bias = self.weight.detach(), None if self.bias is None else self.bias.detach().to(dtype)
        if self.averages is not None and x.is_cuda:
            weight = (weight / math.prod(self.averages)).expand(-1, -1, *self.averages)
        if x.is_cuda:
            return weight.to(dtype, memory_format=torch.channels_last), bias
        how = (self.padding, self.stride, self.dilation, self.groups)
        return torch.ops.mkldnn._reorder_convolution_weight(weight.to(dtype), *how, list(x.shape)), bias

    def __getstate__(self) -> dict[str, Any]:
        # copies and files need the weights alone
        return {**self.__dict__, "_packed": None, "_last": None, "_captured": []}

    def extra_repr(self) -> str:
        """Return the convolution's settings, and whether a ReLU follows."""
        return super().extra_repr() + (", followed by relu" if self.relu else "")


def _address(parameter: Tensor | None) -> int | None:
    return None if parameter is None else parameter.data_ptr()


def _fused_dtype(x: Any, *others: Tensor | None) -> torch.dtype | None:
    """Return in which dtype oneDNN or cuDNN convolves x with weights and all, None where neither does."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) is not Tensor:
        return None
    dtype, device = x.dtype, x.device
    if device.type not in ("cpu", "cuda") or x.dim() != 4 or not x.numel():
        return None
    given = dtype
    casts = torch.is_autocast_enabled(device.type)
    if casts and given != torch.float64:
        dtype = torch.get_autocast_dtype(device.type)
    library = torch.backends.mkldnn if x.is_cpu else torch.backends.cudnn
    if not (_onednn_has if x.is_cpu else _cudnn_has)(dtype) or not library.enabled:
        return None
    for t in others:
        # subclasses have their own ideas
        if t is not None and (
            type(t) not in (Tensor, nn.Parameter) or t.device != device or (t.dtype != given and not casts)
        ):
            return None
    weight = others[1]
    # versions of weights that were made in inference mode are not counted
    if weight is None or any(t is not None and t.is_inference() for t in others[1:]):
        return None
    if torch._C._are_functorch_transforms_active():
        return None
    return None if needs_derivative(x, *others) or is_observed() else dtype


@cache
def _cudnn_has(dtype: torch.dtype) -> bool:
    if torch.version.hip is not None or not torch.backends.cudnn.is_available():
        return False
    return dtype in (torch.float32, torch.float16, torch.bfloat16)


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
        convolutions: Convolutions that oneDNN or cuDNN does with what follows.
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

    Each convolution keeps a copy of its weights in the order that oneDNN or cuDNN, PyTorch's libraries for CPUs and
    NVIDIA GPUs, wants, and does in one operation what follows it: a ReLU, or in timm's, torchvision's and RedNet's
    residual blocks the sum with the shortcut. That is what PyTorch's compiler does when it freezes a network, without
    the compiling. Outputs differ by rounding. Where neither can run a convolution, such as for derivatives, the
    operations run one by one. Parameters keep their names, and no longer require gradients.

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
                if isinstance(parent, KernelGenerator) and any(s > 1 for s in parent.stride) and made.is_product():
                    made.averages = parent.stride
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

"""The modules: a kernel generator and the operator that applies what it generates."""

from collections.abc import Callable
from typing import Any, ClassVar, TypeGuard

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from involution.nn.fusion import may_fuse
from involution.ops import dynamic_involution2d, involution1d, involution2d, involution3d
from involution.ops.checks import IntOrTuple, Padding, is_exporting, is_whole, output_size, per_dimension, per_side
from involution.ops.dynamic import affine

# torch.fx records these calls as one node, like the operators, because their checks of sizes can't be traced
torch.fx.wrap("_pool_windows")
torch.fx.wrap("_pad_input")

Layer = Callable[..., nn.Module]

_CONV: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORM: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_AVG_POOL: dict[int, Callable] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
_DEFAULT: Any = object()


class NotScriptableError(TypeError):
    """The modules were given to torch.jit.script."""


def foldable(norm: nn.Module | None) -> TypeGuard[nn.BatchNorm2d]:
    """Return whether a norm is a batch norm with fixed statistics, an affine map of each channel."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    return type(norm) in kinds and not norm.training and norm.running_var is not None  # type: ignore[union-attr]


class KernelGenerator(nn.Module):
    """Generate the kernel map from features: one kernel for each output position and group (paper, section 3.2).

    With a stride, the features of each ``stride``-sized cell are averaged first. Then a 1×1 convolution reduces the
    channels, followed by norm and activation, and a second one, with bias, expands them to the kernels; there is no
    softmax. With ``reduction_ratio=None`` a single 1×1 convolution does both (the paper's linear form).

    Attributes:
        reduce, norm, act: The reduction (identities in the linear form).
        span: The 1×1 convolution to ``G·K_h·K_w`` channels; the channel of a weight is ``(g·K_h + u)·K_w + v``.

    Example:
        >>> generator = Involution2d(32, 7).generator
        >>> generator.features(torch.randn(2, 32, 14, 14)).shape
        torch.Size([2, 8, 14, 14])
        >>> generator(torch.randn(2, 32, 14, 14)).shape
        torch.Size([2, 2, 7, 7, 14, 14])
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        kernel_size: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[tuple[int, int | None], ...],
        dilation: tuple[int, ...],
        reduction_ratio: int | None,
        norm_layer: Layer | None,
        act_layer: Layer | None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        conv = _CONV[len(kernel_size)]
        self.reduce: nn.Module
        self.norm: nn.Module
        self.act: nn.Module
        self.groups, self.kernel_size, self.stride = groups, kernel_size, stride
        self.padding, self.dilation = padding, dilation
        taps = groups
        for k in kernel_size:
            taps *= k
        if reduction_ratio is None:
            self.reduce, self.norm, self.act = nn.Identity(), nn.Identity(), nn.Identity()
            reduced = channels
        else:
            reduced = max(1, channels // reduction_ratio)
            self.reduce = conv(channels, reduced, 1, bias=False, device=device, dtype=dtype)
            self.norm = nn.Identity() if norm_layer is None else norm_layer(reduced)
            if device is not None or dtype is not None:
                self.norm.to(device=device, dtype=dtype)
            self.act = nn.Identity() if act_layer is None else act_layer()
        self.span = conv(reduced, taps, 1, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Initialise as RedNet does: kaiming normal (fan out, relu) for both convolutions, bias 0, norm reset."""
        for module in (self.reduce, self.span):
            if not isinstance(module, nn.Identity):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")  # type: ignore[arg-type]
        nn.init.zeros_(self.span.bias)  # type: ignore[arg-type]
        reset_norm = getattr(self.norm, "reset_parameters", None)
        if reset_norm is not None:
            reset_norm()

    def features(self, x: Tensor) -> Tensor:
        """Return the reduced features ``[N, R, *output spatial]`` of ``x [N, C, *spatial]``."""
        # a convolution for inference takes the mean itself
        pool = getattr(self.reduce, "averages", None) is None
        x = _pool_windows(x, self.kernel_size, self.stride, self.padding, self.dilation, pool)
        return self.act(self.norm(self.reduce(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the kernel map ``[N, G, *kernel_size, *output spatial]`` of ``x [N, C, *spatial]``."""
        return self.span(self.features(x)).unflatten(1, (self.groups, *self.kernel_size))


class _Involution(nn.Module):
    # shared by all dimensions
    dims: ClassVar[int]

    def __init__(
        self,
        channels: int,
        kernel_size: IntOrTuple,
        stride: IntOrTuple = 1,
        padding: Padding = "same",
        dilation: IntOrTuple = 1,
        *,
        groups: int | None = None,
        group_channels: int = 16,
        reduction_ratio: int | None = 4,
        out_channels: int | None = None,
        bias: bool = False,
        norm_layer: Layer | None = _DEFAULT,
        act_layer: Layer | None = nn.ReLU,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dims = self.dims
        self.in_channels = channels
        self.channels = channels if out_channels is None else out_channels
        counts = {
            "channels": channels,
            "out_channels": self.channels,
            "groups": groups,
            "reduction_ratio": reduction_ratio,
        }
        for name, count in counts.items():
            if count is not None and not is_whole(count):
                raise TypeError(f"{name} must be an int; got {count!r}")
        for name, value in (("channels", channels), ("out_channels", self.channels)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}")
        if reduction_ratio is not None and reduction_ratio < 1:
            raise ValueError(f"reduction_ratio must be at least 1, or None for one linear layer; got {reduction_ratio}")
        if padding_mode not in _PADDING_MODES:
            raise ValueError(f"padding_mode must be one of {', '.join(_PADDING_MODES)}; got {padding_mode!r}")
        self.kernel_size = per_dimension("kernel_size", kernel_size, dims)
        self.stride = per_dimension("stride", stride, dims)
        self.dilation = per_dimension("dilation", dilation, dims)
        sides = per_side(padding, dims, self.kernel_size, self.dilation)
        self.padding = "same" if isinstance(padding, str) else sides
        self.padding_mode = padding_mode
        self.groups = _group_count(self.channels, groups, group_channels)
        self.reduction_ratio = reduction_ratio
        factory = {"device": device, "dtype": dtype}
        project = self.channels != channels
        self.proj = _CONV[dims](channels, self.channels, 1, bias=False, **factory) if project else nn.Identity()
        self.generator = KernelGenerator(
            self.channels,
            self.groups,
            self.kernel_size,
            self.stride,
            sides,
            self.dilation,
            reduction_ratio,
            _NORM[dims] if norm_layer is _DEFAULT else norm_layer,
            act_layer,
            **factory,
        )
        self.bias = nn.Parameter(torch.empty(self.channels, **factory)) if bias else None
        # set by `fuse_norm`
        self.scale: Tensor | None
        self.shift: Tensor | None
        self.register_buffer("scale", None)
        self.register_buffer("shift", None)
        self.relu = False
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise projection and generator by kaiming normal (fan out, relu), biases by 0."""
        if isinstance(self.proj, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(self.proj.weight, mode="fan_out", nonlinearity="relu")
        self.generator.reset_parameters()
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x [N, C, *spatial]`` the kernels generated from it; returns ``[N, C_out, *output spatial]``."""
        x = self.proj(x)
        if self.dims == 2 and self.padding_mode == "zeros" and may_fuse(self.generator, KernelGenerator, x):
            return self._generate_and_apply(x)
        weight = self.generator(x)
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            g = self.generator
            x = _pad_input(x, g.kernel_size, g.stride, g.padding, g.dilation, self.padding_mode)
            padding = 0
        return affine(self._apply_kernels(x, weight, padding), self.scale, self.shift, self.relu)

    @torch.no_grad()
    def fuse_norm(self, norm: nn.Module, relu: bool = False) -> None:
        """Absorb the batch norm that follows, and the ReLU after it, for inference.

        From then on the module computes ``relu(norm(involution(x)))``, in one pass if it runs fused. The buffers
        ``scale`` and ``shift [C_out]`` are added to its state_dict. A bias becomes part of the shift.

        Args:
            norm: A BatchNorm in evaluation mode with running statistics of ``C_out`` channels.
            relu: Whether a ReLU follows it.

        Raises:
            ValueError: If the norm is of another kind, or the module has already absorbed one.

        Example:
            >>> involution, norm = Involution2d(16, 7).eval(), torch.nn.BatchNorm2d(16).eval()
            >>> x = torch.randn(1, 16, 9, 9)
            >>> expected = norm(involution(x)).relu()
            >>> involution.fuse_norm(norm, relu=True)
            >>> torch.allclose(involution(x), expected, atol=1e-5)
            True
        """
        if self.scale is not None:
            raise ValueError("this module has already absorbed a norm; it can't absorb another")
        if not foldable(norm) or norm.num_features != self.channels:
            raise ValueError(
                f"norm must be a BatchNorm of {self.channels} channels in eval mode with running statistics; got {norm}"
            )
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        deviation = (variance.double() + norm.eps).sqrt()
        scale = deviation.reciprocal() if norm.weight is None else norm.weight.double() / deviation
        shift = -mean.double() * scale
        if norm.bias is not None:
            shift += norm.bias.double()
        if self.bias is not None:
            shift += self.bias.double() * scale
            self.bias = None
        self.scale, self.shift, self.relu = scale.to(variance.dtype), shift.to(variance.dtype), relu

    def _generate_and_apply(self, x: Tensor) -> Tensor:
        g = self.generator
        span: Any = g.span
        shape = (g.groups, *g.kernel_size)
        span_bias = None if span.bias is None else span.bias.view(shape)
        geometry: Any = (self.stride, self.padding, self.dilation)
        shift = self.shift if self.bias is None else self.bias
        return dynamic_involution2d(
            x,
            g.features(x),
            span.weight.view(*shape, -1),
            span_bias,
            *geometry,
            scale=self.scale,
            shift=shift,
            relu=self.relu,
        )

    def _apply_kernels(self, x: Tensor, weight: Tensor, padding: Any) -> Tensor:
        raise NotImplementedError

    def __prepare_scriptable__(self) -> Any:
        # what torch.jit.script calls on every module of a network before it compiles anything
        raise NotScriptableError(
            f"{type(self).__name__} can't be compiled by torch.jit.script, which PyTorch has deprecated;"
            " use torch.export.export or torch.compile, or torch.jit.trace for a TorchScript program"
        )

    def extra_repr(self) -> str:
        """Return the geometry and every option that differs from its default."""
        parts = [f"{self.in_channels}", f"kernel_size={self.kernel_size}"]
        if self.channels != self.in_channels:
            parts.append(f"out_channels={self.channels}")
        if any(s != 1 for s in self.stride):
            parts.append(f"stride={self.stride}")
        parts.append(f"groups={self.groups}")
        if self.reduction_ratio != 4:
            parts.append(f"reduction_ratio={self.reduction_ratio}")
        if self.padding != "same":
            parts.append(f"padding={self.padding}")
        if any(d != 1 for d in self.dilation):
            parts.append(f"dilation={self.dilation}")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode}")
        if self.bias is not None:
            parts.append("bias=True")
        if self.scale is not None:
            parts.append("followed by norm and relu" if self.relu else "followed by norm")
        return ", ".join(parts)


class Involution1d(_Involution):
    """Involution over sequences: `Involution2d` in one dimension.

    ``padding=(left, right)`` pads the sides separately. With ``(dilation·(K − 1), 0)`` it is causal: the kernel of a
    position is generated at the centre of its window, which then lies in the past as well (with a stride, as long as
    ``stride − 1 ≤ dilation·(K − 1) / 2``, because the mean over ``stride`` samples starts there).

    Shape:
        - Input: ``[N, C, L]``
        - Output: ``[N, C_out, L_o]``

    Example:
        >>> Involution1d(32, 9, stride=2)(torch.randn(2, 32, 101)).shape
        torch.Size([2, 32, 51])
    """

    dims = 1

    def _apply_kernels(self, x: Tensor, weight: Tensor, padding: Any) -> Tensor:
        return involution1d(x, weight, self.bias, self.stride, padding, self.dilation)


class Involution2d(_Involution):
    """Involution over images (arXiv 2103.06255): replaces a k×k convolution in any network.

    From the feature at the centre of each output window, a small generator computes the kernel of that window, shared
    by the channels of a group; then the kernels are applied. Parameters are initialised as in RedNet: kaiming normal
    (fan out, relu) for the generator's convolutions, 0 for biases, 1 and 0 for the norm.

    Args:
        channels: Channels C of the input.
        kernel_size: Size K of the generated kernels, an int or (vertical, horizontal); odd, even, asymmetric.
        stride: Step of the window.
        padding: ``"same"`` (``ceil(size / stride)`` outputs; even kernels get the extra padding on the right), an int,
            or one item per dimension, each an int or a (leading, trailing) pair.
        dilation: Distance between taps.
        groups: Number of kernels G generated per position; a divisor of the channels. By default see `group_channels`.
        group_channels: Channels that share one kernel, if `groups` is not given; fewer channels form one group.
        reduction_ratio: The generator's hidden width is ``C / reduction_ratio``; None for one linear layer.
        out_channels: If it differs from `channels`, a 1×1 convolution (no bias) projects the input first.
        bias: Add a learned bias to the output.
        norm_layer: Norm after the reduction, called with its width; a batch norm by default, None for none.
        act_layer: Activation after it; None for none.
        padding_mode: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Shape:
        - Input: ``[N, C, H, W]``
        - Output: ``[N, C_out, H_o, W_o]``

    Raises:
        ValueError: If the channels are not divisible into groups (the message lists the divisors), or an option is out
            of range.

    Example:
        >>> involution = Involution2d(64, kernel_size=7, stride=2)
        >>> involution(torch.randn(2, 64, 55, 55)).shape
        torch.Size([2, 64, 28, 28])
        >>> involution.generator(torch.randn(2, 64, 55, 55)).shape
        torch.Size([2, 4, 7, 7, 28, 28])
    """

    dims = 2

    def _apply_kernels(self, x: Tensor, weight: Tensor, padding: Any) -> Tensor:
        return involution2d(x, weight, self.bias, self.stride, padding, self.dilation)


class Involution3d(_Involution):
    """Involution over volumes or clips: `Involution2d` in three dimensions.

    Shape:
        - Input: ``[N, C, D, H, W]``
        - Output: ``[N, C_out, D_o, H_o, W_o]``

    Example:
        >>> Involution3d(16, (3, 5, 5))(torch.randn(1, 16, 4, 9, 9)).shape
        torch.Size([1, 16, 4, 9, 9])
    """

    dims = 3

    def _apply_kernels(self, x: Tensor, weight: Tensor, padding: Any) -> Tensor:
        return involution3d(x, weight, self.bias, self.stride, padding, self.dilation)


def _group_count(channels: int, groups: int | None, group_channels: int) -> int:
    if groups is None:
        size = min(group_channels, channels)
        asked = f"group_channels={group_channels}"
        if size >= 1 and channels % size == 0:
            return channels // size
    else:
        asked = f"groups={groups}"
        if groups >= 1 and channels % groups == 0:
            return groups
    divisors = [d for d in range(1, channels + 1) if channels % d == 0]
    raise ValueError(f"{channels} channels can't be divided by {asked}; choose one of {divisors}")


def _pool_windows(
    x: Tensor, kernel_size: tuple, stride: tuple, padding: tuple, dilation: tuple, pool: bool = True
) -> Tensor:
    """Return the mean feature of the ``stride``-sized cell at the centre of each output window.

    Cells that extend beyond the image see its border repeated, so odd sizes with a stride give ``ceil(size / stride)``
    cells; where sizes divide evenly this is plain average pooling. Without ``pool`` what the mean is taken of.
    """
    dims = len(stride)
    if x.dim() != dims + 2:
        raise ValueError(f"Involution{dims}d: input must be [N, C] and {dims} spatial sizes; got {list(x.shape)}")
    # check that the window fits, before pooling fails with its own message
    output_size(x.shape[2:], kernel_size, stride, padding, dilation)
    pads: list[int] = []
    for size, k, s, (leading, trailing), d in zip(x.shape[2:], kernel_size, stride, padding, dilation, strict=True):
        reach = d * (k - 1)
        first = reach // 2 - leading
        if trailing is None:
            # in this form torch.export proves the sizes equal to a strided convolution's, stage after stage
            last = ((size - 1) // s + 1) * s - size if s > 1 else 0
        elif s == 1:
            last = leading + trailing - reach + first
        else:
            last = ((size + leading + trailing - reach - 1) // s + 1) * s + first - size
        pads = [-first, last, *pads]
    # a symbolic size stays in the program, for sizes it has not seen
    if any(not isinstance(pad, int) or pad != 0 for pad in pads):
        compiling = torch.compiler.is_compiling() and not is_exporting()
        x = _replicate(x, pads) if compiling else F.pad(x, pads, mode="replicate")
    if pool and any(s > 1 for s in stride):
        x = _AVG_POOL[dims](x, stride)
    return x


def _replicate(x: Tensor, pads: list[int]) -> Tensor:
    # padding by indices: compiled, replication_pad2d's backward fails on channels_last gradients (seen in torch 2.14)
    for i in range(len(pads) // 2):
        dim, size = -1 - i, x.shape[-1 - i]
        index = torch.arange(-pads[2 * i], size + pads[2 * i + 1], device=x.device).clamp(0, size - 1)
        x = x.index_select(dim, index)
    return x


def _pad_input(x: Tensor, kernel_size: tuple, stride: tuple, padding: tuple, dilation: tuple, mode: str) -> Tensor:
    pads: list[int] = []
    sizes = output_size(x.shape[2:], kernel_size, stride, padding, dilation)
    for size, out, k, s, (leading, trailing), d in zip(
        x.shape[2:], sizes, kernel_size, stride, padding, dilation, strict=True
    ):
        if trailing is None:
            trailing = max(0, (out - 1) * s + d * (k - 1) + 1 - leading - size)
        pads = [leading, trailing, *pads]
    return F.pad(x, pads, mode=mode)

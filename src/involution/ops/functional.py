"""The public functions: documentation, checks, the call."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from .autograd import call
from .checks import IntOrTuple, Padding, dynamic_arguments, involution_arguments
from .dynamic import affine_call, dynamic_call

P = ParamSpec("P")


def _overridable(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    # like torch's own functions: torch.fx records the call as one node, and a tensor subclass can override it
    @wraps(function)
    def public(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        values = (*args, *kwargs.values())
        if has_torch_function(values):
            return handle_torch_function(public, values, *args, **kwargs)
        return function(*args, **kwargs)

    return public


@_overridable
def involution2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
) -> Tensor:
    """Apply a separate kernel at every position, shared by the channels of a group (arXiv 2103.06255, section 3).

    ``out[n, c, i, j] = Σ_{u,v} weight[n, g, u, v, i, j] · input[n, c, i·s − p + u·d, j·s − p + v·d]`` with
    ``g = c // (C/G)``; reads outside the input are zero. Compared with `torch.nn.functional.conv2d`, the
    kernel depends on the position instead of the channel.

    Args:
        input: ``[N, C, H, W]`` in float16, bfloat16, float32 or float64, with any strides. Half types are accumulated
            in float32.
        weight: Kernel map ``[N, G, K_h, K_w, H_o, W_o]``, G any divisor of C, any kernel size.
        bias: ``[C]``, added to the output.
        stride: Step of the window, an int or (vertical, horizontal).
        padding: Zeros around the input: an int, a pair of (vertical, horizontal) items, each an int or a (leading,
            trailing) pair, or ``"same"`` for ``ceil(H / stride) × ceil(W / stride)`` outputs.
        dilation: Distance between taps, an int or (vertical, horizontal).

    Returns:
        ``[N, C, H_o, W_o]`` in the input's memory format, ``H_o = (H + 2p − d(K_h − 1) − 1) // s + 1``.

    Raises:
        TypeError: If an argument has the wrong type, or dtypes differ.
        ValueError: If sizes or devices don't match; the message names the expected and given ones.

    Example:
        >>> x = torch.randn(2, 32, 14, 14)
        >>> kernels = torch.randn(2, 2, 7, 7, 14, 14)
        >>> involution2d(x, kernels, padding=3).shape
        torch.Size([2, 32, 14, 14])
    """
    geometry = involution_arguments(2, input, weight, bias, stride, padding, dilation)
    return _with_bias(call("", input, weight, *geometry), bias)


@_overridable
def involution1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
) -> Tensor:
    """Apply involution to sequences: `involution2d` in one dimension.

    Args:
        input: ``[N, C, L]``.
        weight: Kernel map ``[N, G, K, L_o]``.
        bias: ``[C]``.
        stride: Step of the window.
        padding: An int, a (left, right) pair, or ``"same"``. ``(dilation·(K − 1), 0)`` makes it causal.
        dilation: Distance between taps.

    Returns:
        ``[N, C, L_o]``.

    Raises:
        TypeError: If an argument has the wrong type, or dtypes differ.
        ValueError: If sizes or devices don't match.

    Example:
        >>> x = torch.randn(2, 8, 100)
        >>> involution1d(x, torch.randn(2, 1, 5, 100), padding=(4, 0)).shape
        torch.Size([2, 8, 100])
    """
    (s,), (p,), (d,) = involution_arguments(1, input, weight, bias, stride, padding, dilation)
    # a sequence is an image with one row
    output = call("", input.unsqueeze(2), weight.unsqueeze(2).unsqueeze(4), (1, s), (0, p), (1, d))
    return _with_bias(output.squeeze(2), bias)


@_overridable
def involution3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
) -> Tensor:
    """Apply involution to volumes: `involution2d` in three dimensions.

    Args:
        input: ``[N, C, D, H, W]``.
        weight: Kernel map ``[N, G, K_d, K_h, K_w, D_o, H_o, W_o]``.
        bias: ``[C]``.
        stride: An int or one per dimension.
        padding: An int, three items, each an int or a (leading, trailing) pair, or ``"same"``.
        dilation: An int or one per dimension.

    Returns:
        ``[N, C, D_o, H_o, W_o]``.

    Raises:
        TypeError: If an argument has the wrong type, or dtypes differ.
        ValueError: If sizes or devices don't match.

    Example:
        >>> x = torch.randn(1, 16, 4, 8, 8)
        >>> involution3d(x, torch.randn(1, 1, 3, 3, 3, 4, 8, 8), padding="same").shape
        torch.Size([1, 16, 4, 8, 8])
    """
    geometry = involution_arguments(3, input, weight, bias, stride, padding, dilation)
    return _with_bias(call("", input, weight, *geometry), bias)


@_overridable
def dynamic_involution2d(
    input: Tensor,
    reduced: Tensor,
    span_weight: Tensor,
    span_bias: Tensor | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Generate the kernels and apply them in one pass, so that the whole kernel map need never be in memory.

    The map is ``weight[n, g, u, v, i, j] = Σ_r span_weight[g, u, v, r] · reduced[n, r, i, j] + span_bias[g, u, v]``;
    the rest is `involution2d`. Only the input and the reduced features are saved for backward, with ``relu`` the output
    as well; the map is computed again.

    Args:
        input: ``[N, C, H, W]``.
        reduced: ``[N, R, H_o, W_o]``, the output of the generator's reduction: one feature vector per output position.
        span_weight: ``[G, K_h, K_w, R]``.
        span_bias: ``[G, K_h, K_w]`` or None.
        stride: As in `involution2d`, like padding and dilation.
        padding: Zeros around the input.
        dilation: Distance between taps.
        scale: ``[C]`` or None; multiplies the output's channels, as the scale of a folded norm does.
        shift: ``[C]`` or None; added after that.
        relu: Set negative outputs to 0 at the end. These three cost almost nothing if a kernel runs the operator;
            otherwise, and in forward-mode differentiation, they are separate operations.

    Returns:
        ``[N, C, H_o, W_o]``.

    Raises:
        TypeError: If an argument has the wrong type, or dtypes differ.
        ValueError: If sizes or devices don't match.

    Example:
        >>> x, reduced = torch.randn(2, 32, 14, 14), torch.randn(2, 8, 14, 14)
        >>> dynamic_involution2d(x, reduced, torch.randn(2, 7, 7, 8), padding=3).shape
        torch.Size([2, 32, 14, 14])
    """
    geometry = dynamic_arguments(input, reduced, span_weight, span_bias, stride, padding, dilation, scale, shift)
    if scale is None and shift is None and not relu:
        return dynamic_call(input, reduced, span_weight, span_bias, *geometry)
    return affine_call(input, reduced, span_weight, span_bias, *geometry, scale, shift, bool(relu))


def _with_bias(output: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return output
    return output + bias.to(output.dtype).view(-1, *[1] * (output.dim() - 2))

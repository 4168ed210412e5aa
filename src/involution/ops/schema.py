"""The operators' schemas, which every kernel registers against; csrc/register.cpp repeats them for C++ programs.

Three operators per dimension, each linear in both of its tensors (geometry = ``stride, padding, dilation``)::

    involution2d(input, weight, *geometry)                            -> output
    involution2d_grad_input(grad, weight, input_size, *geometry)      -> gradient of input
    involution2d_grad_weight(grad, input, groups, kernel_size, *geometry) -> gradient of weight

with ``input [N, C, H, W]``, ``weight [N, G, K_h, K_w, H_o, W_o]``, ``grad`` and output ``[N, C, H_o, W_o]``. The output
size is that of the map, and ``padding`` is the leading one (top, left): reads outside the input are zero, so trailing
padding needs no argument. 3-D is the same with depth in front. The geometry consists of plain integers, like the
stride and dilation of a convolution, because torch.jit.trace can't record lists of symbolic ones.

The fused pair generates the map from the reduced features and applies it::

    dynamic_involution2d(input, reduced, span_weight, span_bias, *geometry) -> output
    dynamic_involution2d_backward(grad, input, reduced, span_weight, span_bias, *geometry, output_mask)
        -> gradients of input, reduced, span_weight, span_bias (an empty tensor where the mask is False)

and, for inference, with the norm and activation that follow it (``scale`` and ``shift [C]``)::

    dynamic_involution2d_affine(input, reduced, span_weight, span_bias, *geometry, scale, shift, relu) -> output

with ``reduced [N, R, H_o, W_o]``, ``span_weight [G, K_h, K_w, R]``, ``span_bias [G, K_h, K_w]``.

Every kernel allocates its outputs alike (`output_format`): activations in the memory format of the given activation,
the gradient of a map with its taps innermost if that activation is channels_last, and contiguous otherwise.
"""

import torch

# The C++ library defines the operators itself, without tags, if it is loaded before this package.
if hasattr(torch.ops.involution, "_release_definitions"):
    torch.ops.involution._release_definitions()
    # what was looked up there
    vars(torch.ops).pop("involution")

LIBRARY = torch.library.Library("involution", "FRAGMENT")
_names: list[str] = []


def _define(schema: str) -> None:
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _names.append(schema.partition("(")[0])


for _d in (2, 3):
    _geometry = f"int[{_d}] stride, int[{_d}] padding, int[{_d}] dilation"
    _define(f"involution{_d}d(Tensor input, Tensor weight, {_geometry}) -> Tensor")
    _define(f"involution{_d}d_grad_input(Tensor grad, Tensor weight, SymInt[{_d}] input_size, {_geometry}) -> Tensor")
    _define(
        f"involution{_d}d_grad_weight(Tensor grad, Tensor input, SymInt groups, SymInt[{_d}] kernel_size, {_geometry})"
        " -> Tensor"
    )

_dynamic = (
    "Tensor input, Tensor reduced, Tensor span_weight, Tensor? span_bias,"
    " int[2] stride, int[2] padding, int[2] dilation"
)
_define(f"dynamic_involution2d({_dynamic}) -> Tensor")
_define(f"dynamic_involution2d_affine({_dynamic}, Tensor? scale, Tensor? shift, bool relu) -> Tensor")
_define(
    f"dynamic_involution2d_backward(Tensor grad, {_dynamic}, bool[4] output_mask) -> (Tensor, Tensor, Tensor, Tensor)"
)
OPERATORS = tuple(_names)
"""The names of the operators, without the namespace."""


def output_format(activation: torch.Tensor) -> torch.memory_format:
    """Return the memory format in which kernels write, given an activation ``[N, C, ...]`` with any strides."""
    if activation.shape[1] > 1 and activation.stride(1) == 1 and activation.stride(-1) != 1:
        return torch.channels_last if activation.dim() == 4 else torch.channels_last_3d
    return torch.contiguous_format

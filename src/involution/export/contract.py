"""The nodes that stand for involution in an ONNX or OpenVINO file, and what they mean.

Writers of files produce these nodes, the libraries of `involution.export.libraries` compute them, and the decomposition
into standard operators replaces them. Names, inputs, attributes and layouts are those of torch's operators
(``involution/ops/schema.py``), with two differences: an attribute may be left out, and the memory order is one of them,
because tensors of these runtimes have no strides.

==================  ==============================  ==============================
tensor        channels_last = 0               channels_last = 1
============  ==============================  ==============================
input         ``[N, C, H, W]``                ``[N, H, W, C]``
weight        ``[N, G, K_h, K_w, H_o, W_o]``  ``[N, H_o, W_o, G, K_h, K_w]``
reduced       ``[N, R, H_o, W_o]``            ``[N, H_o, W_o, R]``
span_weight   ``[G, K_h, K_w, R]``            the same
span_bias     ``[G, K_h, K_w]``               the same
scale, shift  ``[C]``                         the same
output        ``[N, C, H_o, W_o]``            ``[N, H_o, W_o, C]``
============  ==============================  ==============================

- The output has N and C of the input and H_o and W_o of the map (weight or reduced), whatever the stride. Reads outside
  the input are zero, so trailing padding needs no attribute. G divides C; C and the batch may be anything else, and all
  of N, H, W, H_o and W_o may be dynamic.
- ``span_bias``, ``scale`` and ``shift`` may be absent, each on its own: in ONNX an empty name, or left out at the end;
  in OpenVINO, which has no absent inputs, left out at the end or a constant of shape ``[0]``.
- All tensors of a node have one type: float32, float16, bfloat16 or float64. Half types are accumulated in float32.

===============  =======  =========  =====================================================================
attribute        ONNX     default    meaning
===============  =======  =========  =====================================================================
stride           INTS 2   1, 1       s_h, s_w: 1 to 2³¹ − 1
padding          INTS 2   0, 0       p_h, p_w, the leading sides (top, left): 0 to 2³¹ − 1. Not ONNX's ``pads``
dilation         INTS 2   1, 1       d_h, d_w: 1 to 2³¹ − 1
channels_last    INT      0          memory order, see the table: 0 or 1
relu             INT      0          DynamicInvolution2d alone: 0 or 1
===============  =======  =========  =====================================================================

An ONNX file imports the domain with `VERSION`; an OpenVINO IR names the nodes by type, in the operator set `DOMAIN`.
"""

DOMAIN = "involution"
"""The nodes' domain in ONNX and their operator set in OpenVINO."""

VERSION = 1
"""The domain's version in ONNX's ``opset_import``. It changes when a node's meaning does."""

INVOLUTION = "Involution2d"
"""Applies a kernel map that the graph has computed."""

DYNAMIC_INVOLUTION = "DynamicInvolution2d"
"""Generates the kernel map and applies it, with the norm and ReLU that follow."""

QUANTISED_INVOLUTION = "QuantisedInvolution2d"
"""DynamicInvolution2d in 8 bits, by libraries alone: all its inputs, then ``span_scale`` of ``[G, K_h, K_w]``.

Input, reduced features and output are unsigned bytes, the span weights signed ones, and all else is float32:
``map[tap] = span_scale[tap] · Σ_r span_weight[tap, r] · reduced[r] + span_bias[tap]`` is applied to ``input - zero``,
and ``scale · … + shift`` is rounded to the nearest of 0 to 255, to the even one of two. Reads outside of the input are
``zero``, an attribute of 0 to 255. There is no ``relu``: the lowest level is what does it.
"""

INPUTS = {
    INVOLUTION: ("input", "weight"),
    DYNAMIC_INVOLUTION: ("input", "reduced", "span_weight", "span_bias", "scale", "shift"),
}
"""The inputs of each node, in order."""

OPTIONAL = ("span_bias", "scale", "shift")
"""Those that may be absent."""

QUANTISED_INPUTS = (*INPUTS[DYNAMIC_INVOLUTION], "span_scale")
"""The inputs of the node in 8 bits, none of which may be absent."""

OUTPUT = "output"

_GEOMETRY: dict[str, tuple[int, int] | int] = {
    "stride": (1, 1),
    "padding": (0, 0),
    "dilation": (1, 1),
    "channels_last": 0,
}

ATTRIBUTES = {
    INVOLUTION: _GEOMETRY,
    DYNAMIC_INVOLUTION: {**_GEOMETRY, "relu": 0},
}
"""The attributes of each node with their defaults: a pair is ONNX's ``INTS``, a number its ``INT``."""

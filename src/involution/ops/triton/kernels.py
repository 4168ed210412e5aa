"""The GPU kernels: only `triton.jit` functions. Their launch parameters are in launch.py.

A program computes a tile of pixels × groups × channels of a group, a few taps at a time. Tensors are passed with their
strides, so any memory order is read and written in place. All sums are in float32 and in a fixed order: results
are deterministic.

The taps are a tile's first axis: Triton distributes a tensor's last axes among the threads first, so a thread holds all
taps of what it computes, keeps their loads in flight together, and sums without communicating with other threads.

The fused kernels generate a tile's kernels by `tl.dot` for a few taps at a time, TAPS × GROUPS columns of the span,
which never leave registers. Names of axes in comments: T taps, P pixels, G groups, C channels of a group.
"""

import triton
import triton.language as tl


@triton.jit
def _wide(index, WIDE: tl.constexpr):
    """Return an index with as many bits as its product with a stride needs."""
    return index.to(tl.int64) if WIDE else index


@triton.jit
def _place(
    pixel_blocks,
    group_blocks,
    channel_blocks,
    PIXELS: tl.constexpr,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Return image, pixels, groups and channels of a group that this program computes."""
    program = tl.program_id(0)
    channel = program % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)
    program = program // channel_blocks
    group = program % group_blocks * GROUPS + tl.arange(0, GROUPS)
    program = program // group_blocks
    pixel = program % pixel_blocks * PIXELS + tl.arange(0, PIXELS)
    image = (program // pixel_blocks).to(tl.int64)
    return image, _wide(pixel, WIDE), _wide(group, WIDE), _wide(channel, WIDE)


@triton.jit
def _read(
    row,
    column,
    tap,
    stride_h: tl.constexpr,
    stride_w: tl.constexpr,
    padding_h,
    padding_w,
    dilation_h,
    dilation_w,
    K_W: tl.constexpr,
):
    """Return the input pixel that an output pixel reads through a tap; it may lie outside."""
    y = row * stride_h - padding_h + tap // K_W * dilation_h
    x = column * stride_w - padding_w + tap % K_W * dilation_w
    return y, x


@triton.jit
def _reader(
    row,
    column,
    tap,
    out_height,
    out_width,
    stride_h: tl.constexpr,
    stride_w: tl.constexpr,
    padding_h,
    padding_w,
    dilation_h,
    dilation_w,
    K_W: tl.constexpr,
):
    """Return the output pixel that reads an input pixel through a tap, and whether there is one."""
    y = row + padding_h - tap // K_W * dilation_h
    x = column + padding_w - tap % K_W * dilation_w
    # strides are constants, for divisions by them
    there = (y >= 0) & (x >= 0) & (y % stride_h == 0) & (x % stride_w == 0)
    y = y // stride_h
    x = x // stride_w
    return y, x, there & (y < out_height) & (x < out_width)


# one line per kind of argument: pointers, sizes, tiles, each tensor's strides, geometry
# fmt: off


@triton.jit
def forward(
    x, w, out,
    height, width, out_height, out_width, groups, group_width,
    pixel_blocks, group_blocks, channel_blocks,
    x_n, x_c, x_h, x_w,
    w_n, w_g, w_u, w_v, w_h, w_w,
    o_n, o_c, o_h, o_w,
    stride_h: tl.constexpr, stride_w: tl.constexpr, padding_h, padding_w, dilation_h, dilation_w,
    K_H: tl.constexpr, K_W: tl.constexpr,
    TAPS: tl.constexpr, PIXELS: tl.constexpr, GROUPS: tl.constexpr, CHANNELS: tl.constexpr, WIDE: tl.constexpr,
):
    """Write ``out[n, c, i, j] = Σ w[n, g, u, v, i, j] · x[n, c, i·s − p + u·d, …]``; x outside the image is zero."""
    n, pixel, group, channel = _place(pixel_blocks, group_blocks, channel_blocks, PIXELS, GROUPS, CHANNELS, WIDE)
    row = pixel // out_width
    column = pixel % out_width
    mine = pixel < out_height * out_width
    of_group = (group < groups)[:, None] & (channel < group_width)[None, :]
    c = group[:, None] * group_width + channel[None, :]
    source = x + n * x_n + c * x_c
    weights = w + n * w_n + (row * w_h + column * w_w)[:, None] + (group * w_g)[None, :]
    total = tl.zeros([PIXELS, GROUPS, CHANNELS], tl.float32)
    for first_tap in range(0, K_H * K_W, TAPS):
        tap = _wide(first_tap + tl.arange(0, TAPS), WIDE)
        y, z = _read(
            row[None, :], column[None, :], tap[:, None],
            stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, K_W,
        )
        inside = mine[None, :] & (tap < K_H * K_W)[:, None] & (y >= 0) & (y < height) & (z >= 0) & (z < width)
        # [T, P, G] and [T, P, G, C]
        weight = tl.load(
            weights[None, :, :] + (tap // K_W * w_u + tap % K_W * w_v)[:, None, None],
            inside[:, :, None] & (group < groups)[None, None, :],
            0.0,
        )
        value = tl.load(
            source[None, None, :, :] + (y * x_h + z * x_w)[:, :, None, None],
            inside[:, :, None, None] & of_group[None, None, :, :],
            0.0,
        )
        total += tl.sum(weight.to(tl.float32)[:, :, :, None] * value.to(tl.float32), axis=0)
    target = out + n * o_n + (row * o_h + column * o_w)[:, None, None] + (c * o_c)[None, :, :]
    tl.store(target, total.to(out.dtype.element_ty), mine[:, None, None] & of_group[None, :, :])


@triton.jit
def grad_input(
    dy, w, dx,
    height, width, out_height, out_width, groups, group_width,
    pixel_blocks, group_blocks, channel_blocks,
    y_n, y_c, y_h, y_w,
    w_n, w_g, w_u, w_v, w_h, w_w,
    x_n, x_c, x_h, x_w,
    stride_h: tl.constexpr, stride_w: tl.constexpr, padding_h, padding_w, dilation_h, dilation_w,
    K_H: tl.constexpr, K_W: tl.constexpr,
    TAPS: tl.constexpr, PIXELS: tl.constexpr, GROUPS: tl.constexpr, CHANNELS: tl.constexpr, WIDE: tl.constexpr,
):
    """Write the input's gradient: each input pixel gathers from the output pixels that read it."""
    n, pixel, group, channel = _place(pixel_blocks, group_blocks, channel_blocks, PIXELS, GROUPS, CHANNELS, WIDE)
    row = pixel // width
    column = pixel % width
    mine = pixel < height * width
    of_group = (group < groups)[:, None] & (channel < group_width)[None, :]
    c = group[:, None] * group_width + channel[None, :]
    source = dy + n * y_n + c * y_c
    weights = w + n * w_n + group * w_g
    total = tl.zeros([PIXELS, GROUPS, CHANNELS], tl.float32)
    for first_tap in range(0, K_H * K_W, TAPS):
        tap = _wide(first_tap + tl.arange(0, TAPS), WIDE)
        y, z, there = _reader(
            row[None, :], column[None, :], tap[:, None], out_height, out_width,
            stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, K_W,
        )
        there = there & mine[None, :] & (tap < K_H * K_W)[:, None]
        weight = tl.load(
            weights[None, None, :]
            + ((tap // K_W * w_u + tap % K_W * w_v)[:, None] + (y * w_h + z * w_w))[:, :, None],
            there[:, :, None] & (group < groups)[None, None, :],
            0.0,
        )
        value = tl.load(
            source[None, None, :, :] + (y * y_h + z * y_w)[:, :, None, None],
            there[:, :, None, None] & of_group[None, None, :, :],
            0.0,
        )
        total += tl.sum(weight.to(tl.float32)[:, :, :, None] * value.to(tl.float32), axis=0)
    target = dx + n * x_n + (row * x_h + column * x_w)[:, None, None] + (c * x_c)[None, :, :]
    tl.store(target, total.to(dx.dtype.element_ty), mine[:, None, None] & of_group[None, :, :])


@triton.jit
def _map_gradient(
    dy, x, n, row, column, mine, group, tap,
    height, width, groups, group_width, channel_blocks,
    y_n, y_c, y_h, y_w,
    x_n, x_c, x_h, x_w,
    stride_h: tl.constexpr, stride_w: tl.constexpr, padding_h, padding_w, dilation_h, dilation_w,
    K_H: tl.constexpr, K_W: tl.constexpr,
    TAPS: tl.constexpr, PIXELS: tl.constexpr, GROUPS: tl.constexpr, CHANNELS: tl.constexpr, WIDE: tl.constexpr,
):
    """Return the gradient ``[TAPS, PIXELS, GROUPS]`` of a tile of the map: dy · shifted x, summed over channels."""
    y, z = _read(
        row[None, :], column[None, :], tap[:, None],
        stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, K_W,
    )
    inside = mine[None, :] & (tap < K_H * K_W)[:, None] & (y >= 0) & (y < height) & (z >= 0) & (z < width)
    total = tl.zeros([TAPS, PIXELS, GROUPS], tl.float32)
    for block in range(channel_blocks):
        channel = _wide(block * CHANNELS + tl.arange(0, CHANNELS), WIDE)
        c = group[:, None] * group_width + channel[None, :]
        of_group = (group < groups)[:, None] & (channel < group_width)[None, :]
        gradient = tl.load(
            dy + n * y_n + (row * y_h + column * y_w)[:, None, None] + (c * y_c)[None, :, :],
            mine[:, None, None] & of_group[None, :, :],
            0.0,
        )
        value = tl.load(
            x + n * x_n + (y * x_h + z * x_w)[:, :, None, None] + (c * x_c)[None, None, :, :],
            inside[:, :, None, None] & of_group[None, None, :, :],
            0.0,
        )
        total += tl.sum(gradient.to(tl.float32)[None, :, :, :] * value.to(tl.float32), axis=3)
    # an infinite gradient times the zero outside the image would be NaN
    return tl.where(inside[:, :, None], total, 0.0)


@triton.jit
def grad_weight(
    dy, x, dw,
    height, width, out_height, out_width, groups, group_width,
    pixel_blocks, group_blocks, channel_blocks,
    y_n, y_c, y_h, y_w,
    x_n, x_c, x_h, x_w,
    w_n, w_g, w_u, w_v, w_h, w_w,
    stride_h: tl.constexpr, stride_w: tl.constexpr, padding_h, padding_w, dilation_h, dilation_w,
    K_H: tl.constexpr, K_W: tl.constexpr,
    TAPS: tl.constexpr, PIXELS: tl.constexpr, GROUPS: tl.constexpr, CHANNELS: tl.constexpr, WIDE: tl.constexpr,
):
    """Write the map's gradient."""
    n, pixel, group, _ = _place(pixel_blocks, group_blocks, 1, PIXELS, GROUPS, CHANNELS, WIDE)
    row = pixel // out_width
    column = pixel % out_width
    mine = pixel < out_height * out_width
    target = dw + n * w_n + (row * w_h + column * w_w)[:, None] + (group * w_g)[None, :]
    wanted = mine[:, None] & (group < groups)[None, :]
    for first_tap in range(0, K_H * K_W, TAPS):
        tap = _wide(first_tap + tl.arange(0, TAPS), WIDE)
        total = _map_gradient(
            dy, x, n, row, column, mine, group, tap,
            height, width, groups, group_width, channel_blocks,
            y_n, y_c, y_h, y_w,
            x_n, x_c, x_h, x_w,
            stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w,
            K_H, K_W, TAPS, PIXELS, GROUPS, CHANNELS, WIDE,
        )
        tl.store(
            target[None, :, :] + (tap // K_W * w_u + tap % K_W * w_v)[:, None, None],
            total.to(dw.dtype.element_ty),
            wanted[None, :, :] & (tap < K_H * K_W)[:, None, None],
        )


# fmt: on


@triton.jit
def _product(a, b, PRECISION: tl.constexpr):
    """Multiply matrices, summing in float32."""
    if PRECISION == "float32":
        # the interpreter would treat the bits of bfloat16 as integers
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    else:
        return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def _span_columns(
    span,
    group_block,
    first_tap,
    groups,
    features,
    TAP_COUNT: tl.constexpr,
    TAPS: tl.constexpr,
    GROUPS: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """Return ``[FEATURES, TAPS · GROUPS]`` of the span's weights ``[G, taps, R]``, and the columns' index and mask."""
    column = tl.arange(0, TAPS * GROUPS)
    tap = first_tap + column // GROUPS
    group = group_block * GROUPS + column % GROUPS
    there = (tap < TAP_COUNT) & (group < groups)
    index = group * TAP_COUNT + tap
    feature = tl.arange(0, FEATURES)
    weights = tl.load(
        span + index[None, :] * features + feature[:, None], there[None, :] & (feature < features)[:, None], 0.0
    )
    return weights, index, there


# fmt: off


@triton.jit
def dynamic_forward(
    x, r, span, bias, scale, shift, out,
    height, width, out_height, out_width, groups, group_width, features,
    pixel_blocks, group_blocks, channel_blocks,
    x_n, x_c, x_h, x_w,
    r_n, r_c, r_h, r_w,
    o_n, o_c, o_h, o_w,
    stride_h: tl.constexpr, stride_w: tl.constexpr, padding_h, padding_w, dilation_h, dilation_w,
    K_H: tl.constexpr, K_W: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_SHIFT: tl.constexpr, RELU: tl.constexpr,
    FEATURES: tl.constexpr, PRECISION: tl.constexpr,
    TAPS: tl.constexpr, PIXELS: tl.constexpr, GROUPS: tl.constexpr, CHANNELS: tl.constexpr, WIDE: tl.constexpr,
):
    """Generate a tile's kernels from r and apply them; then optionally scale, shift and apply ReLU."""
    n, pixel, group, channel = _place(pixel_blocks, group_blocks, channel_blocks, PIXELS, GROUPS, CHANNELS, WIDE)
    group_block = tl.program_id(0) // channel_blocks % group_blocks
    row = pixel // out_width
    column = pixel % out_width
    mine = pixel < out_height * out_width
    of_group = (group < groups)[:, None] & (channel < group_width)[None, :]
    feature = _wide(tl.arange(0, FEATURES), WIDE)
    reduced = tl.load(
        r + n * r_n + (row * r_h + column * r_w)[:, None] + (feature * r_c)[None, :],
        mine[:, None] & (feature < features)[None, :],
        0.0,
    )
    c = group[:, None] * group_width + channel[None, :]
    source = x + n * x_n + c * x_c
    total = tl.zeros([PIXELS, GROUPS, CHANNELS], tl.float32)
    for first_tap in range(0, K_H * K_W, TAPS):
        weights, index, there = _span_columns(
            span, group_block, first_tap, groups, features, K_H * K_W, TAPS, GROUPS, FEATURES
        )
        generated = _product(reduced, weights, PRECISION)
        if HAS_BIAS:
            generated += tl.load(bias + index, there, 0.0).to(tl.float32)[None, :]
        tap = first_tap + tl.arange(0, TAPS)
        y, z = _read(
            row[None, :], column[None, :], tap[:, None],
            stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, K_W,
        )
        inside = mine[None, :] & (tap < K_H * K_W)[:, None] & (y >= 0) & (y < height) & (z >= 0) & (z < width)
        value = tl.load(
            source[None, None, :, :] + (y * x_h + z * x_w)[:, :, None, None],
            inside[:, :, None, None] & of_group[None, None, :, :],
            0.0,
        )
        generated = tl.permute(tl.reshape(generated, [PIXELS, TAPS, GROUPS]), [1, 0, 2])
        generated = tl.where(inside[:, :, None], generated, 0.0)
        total += tl.sum(generated[:, :, :, None] * value.to(tl.float32), axis=0)
    if HAS_SCALE:
        total *= tl.load(scale + c, of_group, 0.0).to(tl.float32)[None, :, :]
    if HAS_SHIFT:
        total += tl.load(shift + c, of_group, 0.0).to(tl.float32)[None, :, :]
    if RELU:
        # NaN stays NaN
        total = tl.where(total < 0, 0.0, total)
    target = out + n * o_n + (row * o_h + column * o_w)[:, None, None] + (c * o_c)[None, :, :]
    tl.store(target, total.to(out.dtype.element_ty), mine[:, None, None] & of_group[None, :, :])


@triton.jit
def dynamic_grad_input(
    dy, r, span, bias, dx,
    height, width, out_height, out_width, groups, group_width, features,
    pixel_blocks, group_blocks, channel_blocks,
    y_n, y_c, y_h, y_w,
    r_n, r_c, r_h, r_w,
    x_n, x_c, x_h, x_w,
    stride_h: tl.constexpr, stride_w: tl.constexpr, padding_h, padding_w, dilation_h, dilation_w,
    K_H: tl.constexpr, K_W: tl.constexpr,
    HAS_BIAS: tl.constexpr, FEATURES: tl.constexpr, PRECISION: tl.constexpr,
    PIXELS: tl.constexpr, GROUPS: tl.constexpr, CHANNELS: tl.constexpr, WIDE: tl.constexpr,
):
    """Write the input's gradient, generating the kernels again at the output pixels that read it."""
    n, pixel, group, channel = _place(pixel_blocks, group_blocks, channel_blocks, PIXELS, GROUPS, CHANNELS, WIDE)
    group_block = tl.program_id(0) // channel_blocks % group_blocks
    row = pixel // width
    column = pixel % width
    mine = pixel < height * width
    of_group = (group < groups)[None, :, None] & (channel < group_width)[None, None, :]
    feature = _wide(tl.arange(0, FEATURES), WIDE)
    c = group[:, None] * group_width + channel[None, :]
    source = dy + n * y_n + (c * y_c)[None, :, :]
    total = tl.zeros([PIXELS, GROUPS, CHANNELS], tl.float32)
    for tap in range(K_H * K_W):
        y, z, there = _reader(
            row, column, tap, out_height, out_width,
            stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, K_W,
        )
        there = there & mine
        # each tap reaches another output pixel, and that pixel's features: one tap at a time
        reduced = tl.load(
            r + n * r_n + (y * r_h + z * r_w)[:, None] + (feature * r_c)[None, :],
            there[:, None] & (feature < features)[None, :],
            0.0,
        )
        weights, index, known = _span_columns(span, group_block, tap, groups, features, K_H * K_W, 1, GROUPS, FEATURES)
        generated = _product(reduced, weights, PRECISION)
        if HAS_BIAS:
            generated += tl.load(bias + index, known, 0.0).to(tl.float32)[None, :]
        generated = tl.where(there[:, None], generated, 0.0)
        value = tl.load(source + (y * y_h + z * y_w)[:, None, None], there[:, None, None] & of_group, 0.0)
        total += generated[:, :, None] * value.to(tl.float32)
    target = dx + n * x_n + (row * x_h + column * x_w)[:, None, None] + (c * x_c)[None, :, :]
    tl.store(target, total.to(dx.dtype.element_ty), mine[:, None, None] & of_group)


@triton.jit
def dynamic_grad_reduced(
    dy, x, span, dr,
    height, width, out_height, out_width, groups, group_width, features,
    pixel_blocks, group_blocks, channel_blocks,
    y_n, y_c, y_h, y_w,
    x_n, x_c, x_h, x_w,
    r_n, r_c, r_h, r_w,
    stride_h: tl.constexpr, stride_w: tl.constexpr, padding_h, padding_w, dilation_h, dilation_w,
    K_H: tl.constexpr, K_W: tl.constexpr,
    FEATURES: tl.constexpr, PRECISION: tl.constexpr,
    TAPS: tl.constexpr, PIXELS: tl.constexpr, GROUPS: tl.constexpr, CHANNELS: tl.constexpr, WIDE: tl.constexpr,
):
    """Write the gradient of the reduced features: the map's gradient times the span, summed over the taps."""
    program = tl.program_id(0)
    pixel = _wide(program % pixel_blocks * PIXELS + tl.arange(0, PIXELS), WIDE)
    n = (program // pixel_blocks).to(tl.int64)
    row = pixel // out_width
    column = pixel % out_width
    mine = pixel < out_height * out_width
    total = tl.zeros([PIXELS, FEATURES], tl.float32)
    for group_block in range(group_blocks):
        group = _wide(group_block * GROUPS + tl.arange(0, GROUPS), WIDE)
        for first_tap in range(0, K_H * K_W, TAPS):
            gradient = _map_gradient(
                dy, x, n, row, column, mine, group, first_tap + tl.arange(0, TAPS),
                height, width, groups, group_width, channel_blocks,
                y_n, y_c, y_h, y_w,
                x_n, x_c, x_h, x_w,
                stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w,
                K_H, K_W, TAPS, PIXELS, GROUPS, CHANNELS, WIDE,
            )
            gradient = tl.reshape(tl.permute(gradient, [1, 0, 2]), [PIXELS, TAPS * GROUPS])
            weights, _, _ = _span_columns(
                span, group_block, first_tap, groups, features, K_H * K_W, TAPS, GROUPS, FEATURES
            )
            total += _product(gradient.to(weights.dtype), tl.trans(weights), PRECISION)
    feature = _wide(tl.arange(0, FEATURES), WIDE)
    target = dr + n * r_n + (row * r_h + column * r_w)[:, None] + (feature * r_c)[None, :]
    tl.store(target, total.to(dr.dtype.element_ty), mine[:, None] & (feature < features)[None, :])


@triton.jit
def dynamic_grad_span(
    dy, x, r, dspan, dbias,
    height, width, out_height, out_width, groups, group_width, features,
    pixel_blocks, group_blocks, channel_blocks, tiles, tiles_of_split,
    y_n, y_c, y_h, y_w,
    x_n, x_c, x_h, x_w,
    r_n, r_c, r_h, r_w,
    stride_h: tl.constexpr, stride_w: tl.constexpr, padding_h, padding_w, dilation_h, dilation_w,
    K_H: tl.constexpr, K_W: tl.constexpr,
    FEATURES: tl.constexpr, PRECISION: tl.constexpr,
    TAPS: tl.constexpr, PIXELS: tl.constexpr, GROUPS: tl.constexpr, CHANNELS: tl.constexpr, WIDE: tl.constexpr,
):
    """Write each split's part of the gradients of span and bias."""
    # the splits are summed afterwards, always in the same order
    tap_blocks = (K_H * K_W + TAPS - 1) // TAPS
    program = tl.program_id(0)
    first_tap = program % tap_blocks * TAPS
    program = program // tap_blocks
    group_block = program % group_blocks
    split = program // group_blocks
    group = _wide(group_block * GROUPS + tl.arange(0, GROUPS), WIDE)
    feature = _wide(tl.arange(0, FEATURES), WIDE)
    total = tl.zeros([TAPS * GROUPS, FEATURES], tl.float32)
    total_bias = tl.zeros([TAPS * GROUPS], tl.float32)
    for tile in range(split * tiles_of_split, tl.minimum((split + 1) * tiles_of_split, tiles)):
        pixel = _wide(tile % pixel_blocks * PIXELS + tl.arange(0, PIXELS), WIDE)
        n = (tile // pixel_blocks).to(tl.int64)
        row = pixel // out_width
        column = pixel % out_width
        mine = pixel < out_height * out_width
        gradient = _map_gradient(
            dy, x, n, row, column, mine, group, first_tap + tl.arange(0, TAPS),
            height, width, groups, group_width, channel_blocks,
            y_n, y_c, y_h, y_w,
            x_n, x_c, x_h, x_w,
            stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w,
            K_H, K_W, TAPS, PIXELS, GROUPS, CHANNELS, WIDE,
        )
        gradient = tl.reshape(tl.permute(gradient, [0, 2, 1]), [TAPS * GROUPS, PIXELS])
        reduced = tl.load(
            r + n * r_n + (row * r_h + column * r_w)[:, None] + (feature * r_c)[None, :],
            mine[:, None] & (feature < features)[None, :],
            0.0,
        )
        total += _product(gradient.to(reduced.dtype), reduced, PRECISION)
        total_bias += tl.sum(gradient, axis=1)
    column = tl.arange(0, TAPS * GROUPS)
    tap = first_tap + column // GROUPS
    group = group_block * GROUPS + column % GROUPS
    there = (tap < K_H * K_W) & (group < groups)
    index = (split * groups + group).to(tl.int64) * (K_H * K_W) + tap
    tl.store(
        dspan + index[:, None] * features + feature[None, :], total, there[:, None] & (feature < features)[None, :]
    )
    tl.store(dbias + index, total_bias, there)

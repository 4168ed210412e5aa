// The fused operator by tensor cores: generates the kernels of a few pixels and applies them, for half types. Compiled
// at run time, once for each set of the constants below (compiler.py).
//
// A block has a tile of one image after the other and a few groups in shared memory, and the weights of the span for
// these groups. A warp takes 2 rows × 8 columns of one group in turn. It multiplies their features with the span, which
// gives their kernels, and writes these as bands: for each kernel row a matrix of input columns × 8 pixels, in which the
// taps of a pixel are shifted by its column and all else is zero. The band's product with channels × input columns is the
// output. So both steps are matrix products, and the map never leaves the processor.
//
// A zero of the band times an infinite or undefined input would be NaN, where that tap must add nothing. What comes out
// infinite or NaN is therefore computed once more, tap by tap.
//
// Constants: as in kernels.cu, and FEATURES, TILE_H (even) and TILE_W (a multiple of 8), BLOCK_GROUPS, SCALE,
// SHIFT and RELU (what follows), NARROW_AFFINE (whether scale and shift are half types). WIDTH is a multiple of 16.
// THREADS are whole warps.

#include "common.h"

#ifndef __CUDACC_RTC__
#include "warps.h"
#endif

constexpr int WARPS = THREADS / 32;
constexpr int DEPTH = (FEATURES + 15) / 16 * 16, SPAN_PITCH = DEPTH + 8;
constexpr int TAPS = KH * 8;  // of a group, each kernel row padded to 8
constexpr int STEPS = (7 * SW + (KW - 1) * DW) / 16 + 1;  // products for a kernel row, of 16 input columns each
constexpr int BAND = KH * STEPS * 256;
constexpr int X_ROWS = (TILE_H - 1) * SH + (KH - 1) * DH + 1, X_COLUMNS = (TILE_W - 8) * SW + 16 * STEPS;
constexpr int BLOCK_CHANNELS = BLOCK_GROUPS * WIDTH, PITCH = BLOCK_CHANNELS + 8;
constexpr int ROW = X_COLUMNS * PITCH;

#ifdef __CUDACC_RTC__
extern __shared__ uint4 shared_memory[];

// an address in shared memory
typedef unsigned Shared;

DEVICE Shared shared(const T* of) { return (unsigned)__cvta_generic_to_shared(of); }

DEVICE Shared further(Shared from, int elements) { return from + elements * 2; }

// 8 elements, or zeros
DEVICE void copy8(Shared to, const T* from, bool wanted) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(wanted ? 16 : 0));
}

DEVICE void await_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

DEVICE void sync_block() { __syncthreads(); }

DEVICE void sync_warp() { __syncwarp(); }

// 8×8 matrices, each lane giving the address of a row: lanes 0–7 those of the first matrix, and so on
DEVICE void load2(unsigned (&to)[2], Shared row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(to[0]), "=r"(to[1])
                 : "r"(row)
                 : "memory");
}

DEVICE void load4(unsigned (&to)[4], Shared row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(row)
                 : "memory");
}

DEVICE void load4_transposed(unsigned (&to)[4], Shared row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(row)
                 : "memory");
}

DEVICE unsigned transpose(unsigned fragment) {
    unsigned found;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(found) : "r"(fragment));
    return found;
}

#if DTYPE == 1
#define ELEMENT "f16"
#else
#define ELEMENT "bf16"
#endif

// total [16, 8] += a [16, 16] · b [16, 8]
DEVICE void multiply(float (&total)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32." ELEMENT "." ELEMENT ".f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(total[0]), "+f"(total[1]), "+f"(total[2]), "+f"(total[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

// where a band has the tap that reads a pixel's input column
DEVICE int in_band(int pixel, int column) {
    return column / 16 * 256 + column / 8 % 2 * 64 + pixel * 8 + column % 8;
}

DEVICE bool is_finite(float value) { return (as_bits(value) & 0x7f800000u) != 0x7f800000u; }

// one output tap by tap; row and column are those of its window in the image, which may begin outside of it
#ifdef __CUDACC_RTC__
__device__ __noinline__
#else
static
#endif
float exact(const Args& a, const T* x, const T* band, int pixel, int row, int column) {
    float total = 0;
    for (int u = 0; u < KH; u++)
        for (int v = 0; v < KW; v++)
            if (inside(row + u * DH, a.height) && inside(column + v * DW, a.width))
                total += widen(band[u * STEPS * 256 + in_band(pixel, pixel * SW + v * DW)], 0) *
                    widen(x[u * DH * ROW + v * DW * PITCH], 0);
    return total;
}

// an element of scale or shift
DEVICE float parameter(const float* of, int channel) {
#if NARROW_AFFINE
    return widen(reinterpret_cast<const T*>(of)[channel], 0);
#else
    return of[channel];
#endif
}

struct Lane {
    int number, quad, pair;  // its pixel or row of a product, and its first column
};

// of 2 × 8 pixels, a row of them above and one below; null is zero
typedef unsigned Features[DEPTH / 16][4];

DEVICE void load_features(const Lane& lane, Features& features, const T* above, const T* below) {
#pragma unroll
    for (int k = 0; k < DEPTH / 16; k++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int r = k * 16 + i / 2 * 8;
            const T* from = i % 2 ? below : above;
            features[k][i] = from && r < FEATURES ? *reinterpret_cast<const unsigned*>(from + r + lane.pair) : 0;
        }
}

// the kernels of their pixels as bands
DEVICE void generate(const Lane& lane, T* band, Shared span, const float* bias, const Features& features) {
    float kernels[KH][4];
    const Shared rows = further(span, lane.number % 8 * SPAN_PITCH + lane.number / 8 * 8);
    const Shared last = further(span, lane.number % 8 * SPAN_PITCH + lane.number / 8 % 2 * 8 + DEPTH - 16);
    // all are computed before the first is stored: a load from shared memory may not overtake a store
#pragma unroll
    for (int u = 0; u < KH; u++) {
        kernels[u][0] = kernels[u][2] = bias[u * 8 + lane.pair];
        kernels[u][1] = kernels[u][3] = bias[u * 8 + lane.pair + 1];
#pragma unroll
        for (int k = 0; k + 2 <= DEPTH / 16; k += 2) {
            unsigned b[4];
            load4(b, further(rows, u * 8 * SPAN_PITCH + k * 16));
            multiply(kernels[u], features[k], b[0], b[1]);
            multiply(kernels[u], features[k + 1], b[2], b[3]);
        }
        if (DEPTH / 16 % 2) {
            unsigned b[2];
            load2(b, further(last, u * 8 * SPAN_PITCH));
            multiply(kernels[u], features[DEPTH / 16 - 1], b[0], b[1]);
        }
    }
    const int first = in_band(lane.quad, lane.quad * SW + lane.pair * DW);
    const int second = in_band(lane.quad, lane.quad * SW + (lane.pair + 1) * DW);
#pragma unroll
    for (int u = 0; u < KH; u++)
#pragma unroll
        for (int row = 0; row < 2; row++) {
            const unsigned both = narrow(kernels[u][row * 2], kernels[u][row * 2 + 1]);
            T* to = band + u * STEPS * 256 + row * 128;
            if (lane.pair < KW) to[first] = (T)both;
            if (lane.pair + 1 < KW) to[second] = (T)(both >> 16);
        }
}

// 2 rows × 8 columns of a group, in a block's tile
struct Unit {
    int number, group, row, column;
};

constexpr int UNITS = TILE_H / 2 * (TILE_W / 8) * BLOCK_GROUPS;

// of a warp's units from one on, the first that has pixels of the image
DEVICE Unit next_unit(const Args& a, int number, int row, int column) {
    Unit u = {number, 0, 0, 0};
    for (; u.number < UNITS; u.number += WARPS) {
        u.group = u.number % BLOCK_GROUPS;
        u.column = u.number / BLOCK_GROUPS % (TILE_W / 8) * 8;
        u.row = u.number / BLOCK_GROUPS / (TILE_W / 8) * 2;
        if (row + u.row < a.out_height && column + u.column < a.out_width) break;
    }
    return u;
}

// relu(scale · (x applied to the kernels) + shift)
KERNEL fused(const Args a) {
#ifdef __CUDACC_RTC__
    T* const span = reinterpret_cast<T*>(shared_memory);
#else
    T* const span = reinterpret_cast<T*>(shared_memory());
#endif
    T* const image = span + BLOCK_GROUPS * TAPS * SPAN_PITCH;
    T* const bands = image + X_ROWS * ROW;
    float* const bias = reinterpret_cast<float*>(bands + WARPS * BAND);
    const int thread = threadIdx.x, warp = thread / 32;
    const Lane lane = {thread % 32, thread % 32 / 4, thread % 4 * 2};
    unsigned block = blockIdx.x;
    const int group = block % (GROUPS / BLOCK_GROUPS) * BLOCK_GROUPS;
    block /= GROUPS / BLOCK_GROUPS;
    const int column = block % a.tiles * TILE_W;
    block /= a.tiles;
    const int row = block % a.bands * TILE_H;
    block /= a.bands;

    for (int i = thread; i < BLOCK_GROUPS * TAPS * (DEPTH / 8); i += THREADS) {
        const int r = i % (DEPTH / 8) * 8, tap = i / (DEPTH / 8), v = tap % 8;
        const bool wanted = v < KW && r < FEATURES;
        const T* from = a.span + (long long)((group * KH + tap / 8) * KW + v) * FEATURES + r;
        copy8(shared(span + tap * SPAN_PITCH + r), wanted ? from : a.span, wanted);
    }
    for (int i = thread; i < BLOCK_GROUPS * TAPS; i += THREADS)
        bias[i] = a.bias && i % 8 < KW ? widen(a.bias[(group * KH + i / 8) * KW + i % 8], 0) : 0;
    for (int i = thread; i < WARPS * BAND / 2; i += THREADS) reinterpret_cast<unsigned*>(bands)[i] = 0;

    T* const band = bands + warp * BAND;
    const Shared shared_span = shared(span), shared_image = shared(image);
    const Shared shared_band = further(shared(band), lane.number * 8);
    const int last = min((int)(block + 1) * a.each, a.images);
    for (int number = block * a.each; number < last; number++) {
        const T* x = a.x + number * a.x_n + group * WIDTH;
        for (int i = warp; i < X_ROWS; i += WARPS) {
            const int x_row = row * SH - PH + i;
            const T* line = x + (long long)x_row * a.x_h + (column * SW - PW) * CHANNELS;
            for (int j = lane.number; j < X_COLUMNS * (BLOCK_CHANNELS / 8); j += 32) {
                const int channel = j % (BLOCK_CHANNELS / 8) * 8, x_column = j / (BLOCK_CHANNELS / 8);
                const bool wanted = inside(x_row, a.height) && inside(column * SW - PW + x_column, a.width);
                const Shared to = further(shared_image, (i * X_COLUMNS + x_column) * PITCH + channel);
                copy8(to, wanted ? line + (x_column * CHANNELS + channel) : a.x, wanted);
            }
        }
        // offsets within an image fit into an int
        const T* reduced = a.w + number * a.w_n + row * a.w_h + (column + lane.quad) * FEATURES;
        T* output = a.out + number * a.out_n + row * a.out_h + (column + lane.quad) * CHANNELS + lane.pair;
        const auto load_unit = [&](const Unit& u, Features& features) {
            const T* above = reduced + (u.row * a.w_h + u.column * FEATURES);
            const bool there = column + u.column + lane.quad < a.out_width;
            const bool below = there && row + u.row + 1 < a.out_height;
            load_features(lane, features, there ? above : nullptr, below ? above + a.w_h : nullptr);
        };
        Features features;
        Unit next = next_unit(a, warp, row, column);
        if (next.number < UNITS) load_unit(next, features);
        await_copies();
        sync_block();
        while (next.number < UNITS) {
            const int g = next.group, y = next.row, c = next.column;
            const bool there = column + c + lane.quad < a.out_width;
            generate(lane, band, further(shared_span, g * TAPS * SPAN_PITCH), bias + g * TAPS, features);
            // on their way while these are applied
            next = next_unit(a, next.number + WARPS, row, column);
            if (next.number < UNITS) load_unit(next, features);
            sync_warp();

            float total[2][WIDTH / 16][4] = {};
            const T* window = image + y * SH * ROW + c * SW * PITCH + g * WIDTH;
            const int of_lane = (lane.number / 16 * 8 + lane.number % 8) * PITCH + lane.number / 8 % 2 * 8;
            const Shared inputs_of_lane = further(shared_image, (int)(window - image) + of_lane);
#pragma unroll
            for (int u = 0; u < KH; u++)
#pragma unroll
                for (int step = 0; step < STEPS; step++) {
                    unsigned weights[4];
                    load4(weights, further(shared_band, (u * STEPS + step) * 256));
#pragma unroll
                    for (int t = 0; t < 2; t++)
#pragma unroll
                        for (int m = 0; m < WIDTH / 16; m++) {
                            unsigned inputs[4];
                            const Shared from = further(inputs_of_lane, (t * SH + u * DH) * ROW);
                            load4_transposed(inputs, further(from, step * 16 * PITCH + m * 16));
                            multiply(total[t][m], inputs, weights[2 * t], weights[2 * t + 1]);
                        }
                }
#pragma unroll
            for (int t = 0; t < 2; t++) {
                if (row + y + t >= a.out_height) continue;
                T* out = output + ((y + t) * a.out_h + c * CHANNELS + (group + g) * WIDTH);
#pragma unroll
                for (int m = 0; m < WIDTH / 16; m++) {
                    float(&values)[4] = total[t][m];
                    const int channel = m * 16 + lane.quad;
                    if (!is_finite(values[0] + values[1] + values[2] + values[3])) {
                        const int x_row = (row + y + t) * SH - PH, x_column = (column + c + lane.pair) * SW - PW;
#pragma unroll
                        for (int i = 0; i < 4; i++) {
                            if (is_finite(values[i])) continue;
                            const int pixel = lane.pair + i % 2;
                            const T* from = window + t * SH * ROW + pixel * SW * PITCH + channel + i / 2 * 8;
                            values[i] = exact(a, from, band + t * 128, pixel, x_row, x_column + i % 2 * SW);
                        }
                    }
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        const int all = (group + g) * WIDTH + channel + i / 2 * 8;
                        if (SCALE) values[i] *= parameter(a.scale, all);
                        if (SHIFT) values[i] += parameter(a.shift, all);
                        // NaN stays NaN
                        if (RELU) values[i] = values[i] < 0 ? 0 : values[i];
                    }
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        const unsigned both = transpose(narrow(values[half * 2], values[half * 2 + 1]));
                        if (there) *reinterpret_cast<unsigned*>(out + m * 16 + half * 8) = both;
                    }
                }
            }
            sync_warp();
        }
        sync_block();
    }
}

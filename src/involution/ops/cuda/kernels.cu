// The CUDA kernels of involution2d. Compiled at run time, once for each set of the constants below (compiler.py).
//
// A thread computes TILE neighbouring pixels of a row for a few channels of one group. It reads each column of a kernel
// row once and adds it into every pixel that it reaches, so a value is widened to float once for up to KW products.
// Threads share nothing but the caches: there is no shared memory, no barrier, no atomic, and the sums have a fixed
// order. That also lets a C++ compiler build this file to run one thread after the other, which is how it is tested
// where there is no GPU.
//
// Activations have their channels innermost. A map is either any strided [N, G, KH, KW, H, W], or "rows":
// [N · H · W, KH, G, KP], where KP is KW rounded up so that a row of a kernel is read by one wide load.
//
// Constants: KERNEL_NUMBER (0 forward, 1 grad_input, 2 grad_weight, 3 pack), DTYPE (0 float, 1 half, 2 bfloat16), KH KW,
// SH SW (stride), PH PW (padding), DH DW (dilation), GROUPS and their WIDTH, ROWS (whether the map is in rows);
// TILE, VEC (channels a thread computes together), RING (columns in flight), THREADS, BLOCKS (of a processor, at least).

#include "common.h"

#define KP ((KW + 3) / 4 * 4)
#define KP_STORE (KP % 8 == 0 && DTYPE != 0 ? 8 : 4)

// N neighbouring elements, read and written together
template <int N>
struct alignas(at_most_16(N * sizeof(T))) Pack {
    static constexpr int WORDS = N * sizeof(T) / 4;
    unsigned word[WORDS];

    MEMBER float operator[](int i) const { return sizeof(T) == 4 ? widen(word[i], 0) : widen(word[i / 2], i % 2); }
};

// what is not wanted is not read, and must not be used
template <int N>
DEVICE Pack<N> load(const T* from, bool wanted) {
    Pack<N> pack;
    if (wanted) pack = *reinterpret_cast<const Pack<N>*>(from);
    return pack;
}

template <int N>
DEVICE void store(T* to, const float* values) {
    Pack<N> pack;
#pragma unroll
    for (int i = 0; i < Pack<N>::WORDS; i++)
        pack.word[i] = sizeof(T) == 4 ? as_bits(values[i]) : narrow(values[2 * i], values[2 * i + 1]);
    *reinterpret_cast<Pack<N>*>(to) = pack;
}

// a kernel row of one pixel
#if ROWS
typedef Pack<KP> Row;
#else
struct Row {
    T element[KW];
    MEMBER float operator[](int i) const { return sizeof(T) == 4 ? float(element[i]) : widen(element[i], 0); }
};
#endif

struct Place {
    int vector, row, column;
    long long image;
};

// neighbouring threads: vectors of channels, then rows of a band, so that a block reads few rows and columns
DEVICE bool place(const Args& a, int vectors, int rows, Place& p) {
    unsigned i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= a.threads) return false;
    p.vector = i % vectors;
    i /= vectors;
    p.row = i % a.band;
    i /= a.band;
    p.column = i % a.tiles * TILE;
    i /= a.tiles;
    p.row += i % a.bands * a.band;
    p.image = i / a.bands;
    return p.row < rows;
}

// a kernel row of an image's map, at a pixel
DEVICE const T* row_of_map(const Args& a, const T* image, long long stride_h, int u, int group, int row, int column) {
#if ROWS
    return image + ((long long)(row * a.out_width + column) * KH + u) * (GROUPS * KP) + group * KP;
#else
    return image + row * stride_h + (long long)column * a.map_w + (long long)group * a.map_g + (long long)u * a.map_u;
#endif
}

// the same kernel row some pixels further
DEVICE Row load_row(const Args& a, const T* from, int pixels, bool wanted) {
#if ROWS
    return load<KP>(from + pixels * (KH * GROUPS * KP), wanted);
#else
    Row kernel;
#pragma unroll
    for (int v = 0; v < KW; v++)
        if (wanted) kernel.element[v] = from[(long long)pixels * a.map_w + (long long)v * a.map_v];
    return kernel;
#endif
}

constexpr int SPAN = (TILE - 1) * SW + (KW - 1) * DW + 1;  // columns that a tile reads

#if KERNEL_NUMBER == 0

// ALL: every column lies inside the image; otherwise each is asked, since one outside adds nothing, not even an
// infinite weight times zero
template <bool ALL>
DEVICE void add_row(float (&total)[TILE][VEC], const Row (&kernel)[TILE], const T* line, int first, int width) {
    // columns are read RING ahead of their use
    Pack<VEC> ring[RING];
#pragma unroll
    for (int j = 0; j < RING; j++) ring[j] = load<VEC>(line + j * CHANNELS, ALL || inside(first + j, width));
#pragma unroll
    for (int j = 0; j < SPAN; j++) {
        const Pack<VEC> value = ring[j % RING];
        if (j + RING < SPAN)
            ring[j % RING] = load<VEC>(line + (j + RING) * CHANNELS, ALL || inside(first + j + RING, width));
        if (ALL || inside(first + j, width)) {
#pragma unroll
            for (int t = 0; t < TILE; t++) {
                const int v = (j - t * SW) / DW;
                if (j >= t * SW && (j - t * SW) % DW == 0 && v < KW) {
                    const float weight = kernel[t][v];
#pragma unroll
                    for (int c = 0; c < VEC; c++) total[t][c] += weight * value[c];
                }
            }
        }
    }
}

// out[i, j, c] = Σ w[i, j, u, v] · x[i·s − p + u·d, j·s − p + v·d, c], then scale, shift, ReLU
KERNEL forward(const Args a) {
    Place p;
    if (!place(a, CHANNELS / VEC, a.out_height, p)) return;
    const int channel = p.vector * VEC, group = channel / WIDTH;
    const int first = p.column * SW - PW;
    const T* x = a.x + p.image * a.x_n + (long long)first * CHANNELS + channel;
    const T* w = a.w + p.image * a.w_n;
    float total[TILE][VEC];
#pragma unroll
    for (int t = 0; t < TILE; t++)
#pragma unroll
        for (int c = 0; c < VEC; c++) total[t][c] = 0;
    const bool all = first >= 0 && first + SPAN <= a.width && p.column + TILE <= a.out_width;
#pragma unroll 1
    for (int u = 0; u < KH; u++) {
        const int y = p.row * SH - PH + u * DH;
        if (!inside(y, a.height)) continue;
        const T* line = x + (long long)y * a.x_h;
        const T* from = row_of_map(a, w, a.w_h, u, group, p.row, p.column);
        Row kernel[TILE];
#pragma unroll
        for (int t = 0; t < TILE; t++) kernel[t] = load_row(a, from, t, all || p.column + t < a.out_width);
        if (all)
            add_row<true>(total, kernel, line, first, a.width);
        else
            add_row<false>(total, kernel, line, first, a.width);
    }
    if (a.scale) {
#pragma unroll
        for (int c = 0; c < VEC; c++)
#pragma unroll
            for (int t = 0; t < TILE; t++) total[t][c] *= a.scale[channel + c];
    }
    if (a.shift) {
#pragma unroll
        for (int c = 0; c < VEC; c++)
#pragma unroll
            for (int t = 0; t < TILE; t++) total[t][c] += a.shift[channel + c];
    }
    if (a.relu) {
        // NaN stays NaN
#pragma unroll
        for (int t = 0; t < TILE; t++)
#pragma unroll
            for (int c = 0; c < VEC; c++) total[t][c] = total[t][c] < 0 ? 0 : total[t][c];
    }
    T* out = a.out + p.image * a.out_n + (long long)p.row * a.out_h + (long long)p.column * CHANNELS + channel;
#pragma unroll
    for (int t = 0; t < TILE; t++)
        if (p.column + t < a.out_width) store<VEC>(out + t * CHANNELS, total[t]);
}

#elif KERNEL_NUMBER == 1

DEVICE constexpr int floor_div(int a, int b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

// TILE is a multiple of SW, so which tap of which column reaches a pixel is known to the compiler
constexpr int LOW = floor_div(PW - (KW - 1) * DW, SW), COLUMNS = floor_div(TILE - 1 + PW, SW) - LOW + 1;

template <bool ALL>
DEVICE void add_row(
    const Args& a, float (&total)[TILE][VEC], const T* line, const T* from, int first, int width
) {
    Pack<VEC> ring[RING];
    Row kernels[RING];
#pragma unroll
    for (int j = 0; j < RING; j++) {
        ring[j] = load<VEC>(line + j * CHANNELS, ALL || inside(first + j, width));
        kernels[j] = load_row(a, from, j, ALL || inside(first + j, width));
    }
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) {
        const Pack<VEC> value = ring[j % RING];
        const Row kernel = kernels[j % RING];
        if (j + RING < COLUMNS) {
            ring[j % RING] = load<VEC>(line + (j + RING) * CHANNELS, ALL || inside(first + j + RING, width));
            kernels[j % RING] = load_row(a, from, j + RING, ALL || inside(first + j + RING, width));
        }
        if (ALL || inside(first + j, width)) {
#pragma unroll
            for (int t = 0; t < TILE; t++) {
                const int offset = t + PW - (j + LOW) * SW, v = offset / DW;
                if (offset >= 0 && offset % DW == 0 && v < KW) {
                    const float weight = kernel[v];
#pragma unroll
                    for (int c = 0; c < VEC; c++) total[t][c] += weight * value[c];
                }
            }
        }
    }
}

// dx[q, c] = Σ w[i, j, u, v] · dy[i, j, c] over the outputs (i, j) that read input pixel q through tap (u, v)
KERNEL grad_input(const Args a) {
    Place p;
    if (!place(a, CHANNELS / VEC, a.height, p)) return;
    const int channel = p.vector * VEC, group = channel / WIDTH;
    const int first = p.column / SW + LOW;
    const T* dy = a.x + p.image * a.x_n + (long long)first * CHANNELS + channel;
    const T* w = a.w + p.image * a.w_n;
    float total[TILE][VEC];
#pragma unroll
    for (int t = 0; t < TILE; t++)
#pragma unroll
        for (int c = 0; c < VEC; c++) total[t][c] = 0;
    const bool all = first >= 0 && first + COLUMNS <= a.out_width;
#pragma unroll 1
    for (int u = 0; u < KH; u++) {
        const int distance = p.row + PH - u * DH, y = distance / SH;
        if (distance < 0 || distance % SH != 0 || y >= a.out_height) continue;
        const T* line = dy + (long long)y * a.x_h;
        const T* from = row_of_map(a, w, a.w_h, u, group, y, first);
        if (all)
            add_row<true>(a, total, line, from, first, a.out_width);
        else
            add_row<false>(a, total, line, from, first, a.out_width);
    }
    T* dx = a.out + p.image * a.out_n + (long long)p.row * a.out_h + (long long)p.column * CHANNELS + channel;
#pragma unroll
    for (int t = 0; t < TILE; t++)
        if (p.column + t < a.width) store<VEC>(dx + t * CHANNELS, total[t]);
}

#elif KERNEL_NUMBER == 2

template <bool ALL>
DEVICE void add_channels(
    float (&total)[TILE][KP], const float (&gradient)[TILE][VEC], const T* line, int first, int width
) {
    Pack<VEC> ring[RING];
#pragma unroll
    for (int j = 0; j < RING; j++) ring[j] = load<VEC>(line + j * CHANNELS, ALL || inside(first + j, width));
#pragma unroll
    for (int j = 0; j < SPAN; j++) {
        const Pack<VEC> value = ring[j % RING];
        if (j + RING < SPAN)
            ring[j % RING] = load<VEC>(line + (j + RING) * CHANNELS, ALL || inside(first + j + RING, width));
        // an infinite gradient times the zero outside the image would be NaN
        if (ALL || inside(first + j, width)) {
#pragma unroll
            for (int t = 0; t < TILE; t++) {
                const int v = (j - t * SW) / DW;
                if (j >= t * SW && (j - t * SW) % DW == 0 && v < KW) {
#pragma unroll
                    for (int c = 0; c < VEC; c++) total[t][v] += gradient[t][c] * value[c];
                }
            }
        }
    }
}

// dw[i, j, u, v] = Σ over the group's channels of dy[i, j, c] · x[i·s − p + u·d, j·s − p + v·d, c]
KERNEL grad_weight(const Args a) {
    Place p;
    if (!place(a, GROUPS * KH, a.out_height, p)) return;
    const int group = p.vector % GROUPS, u = p.vector / GROUPS;
    float total[TILE][KP];
#pragma unroll
    for (int t = 0; t < TILE; t++)
#pragma unroll
        for (int v = 0; v < KP; v++) total[t][v] = 0;
    const int y = p.row * SH - PH + u * DH, first = p.column * SW - PW;
    const bool all = first >= 0 && first + SPAN <= a.width && p.column + TILE <= a.out_width;
    if (inside(y, a.height)) {
        const T* dy = a.x + p.image * a.x_n + (long long)p.row * a.x_h + (long long)p.column * CHANNELS + group * WIDTH;
        const T* line = a.w + p.image * a.w_n + (long long)y * a.w_h + (long long)first * CHANNELS + group * WIDTH;
#pragma unroll 1
        for (int channel = 0; channel < WIDTH; channel += VEC) {
            float gradient[TILE][VEC];
#pragma unroll
            for (int t = 0; t < TILE; t++) {
                const Pack<VEC> pack = load<VEC>(dy + t * CHANNELS + channel, all || p.column + t < a.out_width);
#pragma unroll
                for (int c = 0; c < VEC; c++) gradient[t][c] = pack[c];
            }
            if (all)
                add_channels<true>(total, gradient, line + channel, first, a.width);
            else
                add_channels<false>(total, gradient, line + channel, first, a.width);
        }
    }
    T* to = const_cast<T*>(row_of_map(a, a.out + p.image * a.out_n, a.out_h, u, group, p.row, p.column));
#pragma unroll
    for (int t = 0; t < TILE; t++) {
        if (p.column + t >= a.out_width) continue;
#if ROWS
#pragma unroll
        for (int v = 0; v < KP; v += KP_STORE) store<KP_STORE>(to + t * (KH * GROUPS * KP) + v, total[t] + v);
#else
#pragma unroll
        for (int v = 0; v < KW; v++)
            to[(long long)t * a.map_w + (long long)v * a.map_v] =
                sizeof(T) == 4 ? T(total[t][v]) : T(narrow(total[t][v], 0));
#endif
    }
}

#else

// Writes the span's weights [G, KH, KW, R] as the rows [KH, G, KP, pitch] of a matrix, with the bias in column R where
// the pitch is larger than R, and below it the bias once more, as a vector. What is neither is zero.
KERNEL pack(const Args a) {
    const unsigned i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= a.threads) return;
    const unsigned features = a.height, pitch = a.width, filters = KH * GROUPS * KP;
    const unsigned row = i < filters * pitch ? i / pitch : i - filters * pitch;
    const unsigned r = i < filters * pitch ? i % pitch : features;
    const unsigned v = row % KP, tap = ((row / KP) % GROUPS * KH + row / (KP * GROUPS)) * KW + v;
    T value = 0;
    if (v < KW && r < features) value = a.x[(unsigned long long)tap * features + r];
    if (v < KW && r == features && a.w) value = a.w[tap];
    a.out[i] = value;
}

#endif

#ifndef __CUDACC_RTC__
// one thread after the other
KERNEL run(void (*kernel)(const Args), const Args* args, unsigned blocks) {
    for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++)
        for (threadIdx.x = 0; threadIdx.x < THREADS; threadIdx.x++) kernel(*args);
}
#endif

// What kernels.cu and fused.cu share: elements, their widening and rounding, the kernels' argument.

#if DTYPE == 0
typedef float T;
#else
typedef unsigned short T;
#endif
#define CHANNELS (GROUPS * WIDTH)

#ifdef __CUDACC_RTC__
#define DEVICE static __device__ __forceinline__
#define MEMBER __device__ __forceinline__
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
#else
#include <cstring>
#define DEVICE static inline
#define MEMBER inline
#define KERNEL extern "C" void
static struct { unsigned x; } blockIdx, threadIdx;
#endif

DEVICE float as_float(unsigned bits) {
#ifdef __CUDACC_RTC__
    return __uint_as_float(bits);
#else
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
#endif
}

DEVICE unsigned as_bits(float value) {
#ifdef __CUDACC_RTC__
    return __float_as_uint(value);
#else
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return bits;
#endif
}

// the lower (0) or upper (1) half of a word as a float
DEVICE float widen(unsigned word, int upper) {
#if DTYPE == 0
    return as_float(word);
#elif DTYPE == 2
    return as_float(upper ? word & 0xffff0000u : word << 16);
#elif defined(__CUDACC_RTC__)
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"((unsigned short)(upper ? word >> 16 : word)));
    return value;
#else
    unsigned short bits = upper ? word >> 16 : word;
    _Float16 value;
    std::memcpy(&value, &bits, 2);
    return value;
#endif
}

#ifndef __CUDACC_RTC__
DEVICE unsigned bfloat16(float value) {
    const unsigned bits = as_bits(value);
    return value != value ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
#endif

// two floats, rounded to nearest, in a word
DEVICE unsigned narrow(float lower, float upper) {
    unsigned word;
#if DTYPE == 0
    word = 0;
#elif defined(__CUDACC_RTC__) && DTYPE == 1
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(upper), "f"(lower));
#elif defined(__CUDACC_RTC__)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(upper), "f"(lower));
#elif DTYPE == 1
    _Float16 both[2] = {(_Float16)lower, (_Float16)upper};
    std::memcpy(&word, both, 4);
#else
    word = bfloat16(lower) | bfloat16(upper) << 16;
#endif
    return word;
}

DEVICE constexpr int at_most_16(int bytes) { return bytes < 16 ? bytes : 16; }

DEVICE bool inside(int i, int size) { return (unsigned)i < (unsigned)size; }

struct Args {
    const T* x;  // forward: the input; of the gradients: the output's gradient
    const T* w;  // forward and grad_input: the map; grad_weight: the input; fused: the reduced features
    T* out;
    const float* scale;
    const float* shift;
    const T* span;  // fused: what generates the map, and its bias
    const T* bias;
    long long x_n, w_n, out_n;  // strides in elements; between the columns of an activation they are its channels
    int x_h, w_h, out_h;
    int map_w, map_g, map_u, map_v;  // of a strided map
    int height, width, out_height, out_width;
    int band, tiles, bands;
    int images, each;  // fused: of all, and of a block
    unsigned threads;
    int relu;
};

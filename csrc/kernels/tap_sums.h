// The innermost loops of the gradient of the kernel map: a few taps' sums over channels.
//
// Either the lanes of a vector are neighbouring pixels (TapSums), whatever the kernel, and the sums are turned into the
// map's order afterwards; or they are the taps of a kernel row of one pixel, and of others as many columns of the input
// apart (TapRows), and the sums go straight into a map whose taps are neighbours.
#pragma once

#include "convert.h"

namespace involution {
namespace {

template <class A, int Lanes>
using Vector = typename VectorOf<A, Lanes * sizeof(A)>::type;

// target rows whose accumulators fit into the registers
#if defined(__AVX512VL__)
constexpr int kTargetRows = 3;
#else
constexpr int kTargetRows = 1;
#endif

#if defined(INVOLUTION_FEW_SIZES)
// for slow builds: more kernels are taken in several parts
constexpr int kKernelRows = 3;
#else
constexpr int kKernelRows = 7;
#endif

// what one call of the innermost loop reads and writes: VB kernel columns, KU kernel rows, RB target rows
template <class A>
struct TapSums {
  // of the first column, and from there to the others
  const A* input;
  int64_t columns[3];
  int64_t input_channel, input_row;
  const A* output;
  int64_t output_channel, output_row;
  int64_t channels;
  A* to;
  int64_t to_target_row, to_row, to_column;
};

template <class A, int Lanes, int KU, int VB, int S, int RB>
void tap_sums(const TapSums<A>& p) {
  using V = Vector<A, Lanes>;
  V sum[RB][KU][VB];
  unrolled<RB * KU * VB>([&](auto i) INVOLUTION_INLINE_LAMBDA { sum[i / (KU * VB)][i / VB % KU][i % VB] = V{}; });
  const A* input = p.input;
  const A* output = p.output;
  for (int64_t c = 0; c < p.channels; ++c) {
    V y[RB];
    unrolled<RB>([&](auto b) INVOLUTION_INLINE_LAMBDA {
      y[b] = load<V>(output + b * p.output_row);
      pin(y[b]);
    });
    const A* row = input;
    unrolled<(RB - 1) * S + KU>([&](auto r) INVOLUTION_INLINE_LAMBDA {
      unrolled<VB>([&](auto v) INVOLUTION_INLINE_LAMBDA {
        V x = load<V>(row + p.columns[v]);
        pin(x);
        unrolled<RB>([&](auto b) INVOLUTION_INLINE_LAMBDA {
          constexpr int u = r - b * S;
          if constexpr (u >= 0 && u < KU) sum[b][u][v] += x * y[b];
        });
      });
      row += p.input_row;
      opaque(row);
    });
    input += p.input_channel;
    output += p.output_channel;
  }
  unrolled<RB>([&](auto b) INVOLUTION_INLINE_LAMBDA {
    A* to = p.to + b * p.to_target_row;
    unrolled<KU>([&](auto u) INVOLUTION_INLINE_LAMBDA {
      unrolled<VB>([&](auto v) INVOLUTION_INLINE_LAMBDA { store(to + v * p.to_column, sum[b][u][v]); });
      to += p.to_row;
      opaque(to);
    });
  });
}

template <class A>
using TapFunction = void (*)(const TapSums<A>&);

template <class A, int Lanes, int S, int RB, int... KU>
TapFunction<A> tap_function(int64_t rows, int64_t columns, std::integer_sequence<int, KU...>) {
  static constexpr TapFunction<A> table[] = {tap_sums<A, Lanes, KU + 1, 1, S, RB>...};
  return columns == 3 ? tap_sums<A, Lanes, 3, 3, S, RB> : table[rows - 1];
}

template <class A, int Lanes>
TapFunction<A> tap_function(int64_t rows, int64_t columns, int64_t stride, int target_rows) {
  constexpr auto all = std::make_integer_sequence<int, kKernelRows>();
  if (target_rows == 1) return tap_function<A, Lanes, 1, 1>(rows, columns, all);
  if (stride == 1) return tap_function<A, Lanes, 1, kTargetRows>(rows, columns, all);
  return tap_function<A, Lanes, 2, kTargetRows>(rows, columns, all);
}

// stores the first `count` lanes, `step` apart
template <int Lanes, class T, class A>
INVOLUTION_INLINE void store_lanes(T* to, Vector<A, Lanes> value, int count, int64_t step) {
  if (step == 1) {
    if (count == Lanes) {
      store_as<Lanes>(to, value);
      return;
    }
#if defined(__AVX512VL__)
    if constexpr (sizeof(T) == 4 && Lanes == 16) {
      _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), (__m512)value);
      return;
    } else if constexpr (sizeof(T) == 4 && Lanes == 8) {
      _mm256_mask_storeu_ps(to, static_cast<__mmask8>((1u << count) - 1), (__m256)value);
      return;
    }
#endif
  }
  T copy[Lanes];
  store_as<Lanes>(copy, value);
  for (int i = 0; i < count; ++i) to[i * step] = copy[i];
}

#if defined(__AVX2__)
// lanes of a kernel row of one pixel
constexpr int kRowLanes = 8;

// what one call of TapRows' loop reads and writes: KU kernel rows of the pixels [begin, end), and of those `apart`
// after them where vectors have 16 lanes, in RB target rows; T is the map's type in storage
template <class T>
struct TapRows {
  // of the block's first pixel
  const float* input;
  int64_t input_channel, input_row;
  const float* output;
  int64_t output_channel, output_row;
  int64_t channels;
  T* to;
  int64_t to_target_row, to_row, to_pixel;
  // columns of the input from pixel to pixel
  int64_t step, apart;
  int64_t begin, end;
  // of a kernel row; and whether what follows the last kernel row is not this caller's
  int taps;
  bool last;
};

template <int First, class V, int... I>
INVOLUTION_INLINE auto lanes_of(V x, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(x, x, (First + I)...);
}

// one element for each pixel of a vector
template <int Lanes>
INVOLUTION_INLINE Floats<Lanes> of_pixels(const float* from, [[maybe_unused]] Ints<Lanes> index) {
#if defined(__AVX512F__)
  if constexpr (Lanes > kRowLanes) {
    return (Floats<Lanes>)_mm512_maskz_permutexvar_ps(kAll, (__m512i)index, (__m512)load<Floats<Lanes>>(from));
  } else {
    return (Floats<Lanes>)_mm256_broadcast_ss(from);
  }
#else
  return (Floats<Lanes>)_mm256_broadcast_ss(from);
#endif
}

template <class T, int Lanes, int KU, int S, int RB>
void tap_rows(const TapRows<T>& p) {
  using V = Floats<Lanes>;
  constexpr int kPixels = Lanes / kRowLanes;
  Ints<Lanes> index;
  for (int i = 0; i < Lanes; ++i) index[i] = static_cast<int>(p.begin + i / kRowLanes * p.apart);
  for (int64_t j = p.begin; j < p.end; ++j, index += 1) {
    V sum[RB][KU];
    unrolled<RB * KU>([&](auto i) INVOLUTION_INLINE_LAMBDA { sum[i / KU][i % KU] = V{}; });
    const float* input = p.input + j * p.step;
    const float* output = p.output + (kPixels == 1 ? j : 0);
    for (int64_t c = 0; c < p.channels; ++c) {
      V y[RB];
      unrolled<RB>([&](auto b) INVOLUTION_INLINE_LAMBDA {
        y[b] = of_pixels<Lanes>(output + b * p.output_row, index);
        pin(y[b]);
      });
      const float* row = input;
      unrolled<(RB - 1) * S + KU>([&](auto r) INVOLUTION_INLINE_LAMBDA {
        V x = load<V>(row);
        if constexpr (RB > 1) pin(x);
        unrolled<RB>([&](auto b) INVOLUTION_INLINE_LAMBDA {
          constexpr int u = r - b * S;
          if constexpr (u >= 0 && u < KU) sum[b][u] += x * y[b];
        });
        row += p.input_row;
        opaque(row);
      });
      input += p.input_channel;
      output += p.output_channel;
    }
    // a row's lanes beyond its taps are overwritten by the next row's
    unrolled<RB * kPixels>([&](auto i) INVOLUTION_INLINE_LAMBDA {
      constexpr int b = i / kPixels, pixel = i % kPixels;
      T* to = p.to + b * p.to_target_row + (j + pixel * p.apart) * p.to_pixel;
      unrolled<KU>([&](auto u) INVOLUTION_INLINE_LAMBDA {
        const auto value = lanes_of<pixel * kRowLanes>(sum[b][u], std::make_integer_sequence<int, kRowLanes>());
        if (u + 1 < KU || !p.last) {
          store_as<kRowLanes>(to, value);
        } else {
          store_lanes<kRowLanes, T, float>(to, value, p.taps, 1);
        }
        to += p.to_row;
        opaque(to);
      });
    });
  }
}

template <class T>
using TapRowsFunction = void (*)(const TapRows<T>&);

template <class T, int Lanes, int S, int RB, int... KU>
TapRowsFunction<T> tap_rows_function(int64_t rows, std::integer_sequence<int, KU...>) {
  static constexpr TapRowsFunction<T> table[] = {tap_rows<T, Lanes, KU + 1, S, RB>...};
  return table[rows - 1];
}

template <class T, int Lanes>
TapRowsFunction<T> tap_rows_function(int64_t rows, int64_t stride, int target_rows) {
  constexpr auto all = std::make_integer_sequence<int, kKernelRows>();
  if constexpr (kTargetRows > 1) {
    if (target_rows == kTargetRows) {
      return stride == 1 ? tap_rows_function<T, Lanes, 1, kTargetRows>(rows, all)
                         : tap_rows_function<T, Lanes, 2, kTargetRows>(rows, all);
    }
    if (target_rows == 2) {
      return stride == 1 ? tap_rows_function<T, Lanes, 1, 2>(rows, all) : tap_rows_function<T, Lanes, 2, 2>(rows, all);
    }
  }
  return tap_rows_function<T, Lanes, 1, 1>(rows, all);
}
#endif

}  // namespace
}  // namespace involution

// The loop nest of both gathers: a row of targets × a cache line of channels.
//
//   target[t, lane] = Σ_{plane, row, m} map[t, plane, row, m] · source[plane, row, t·S + m, lane]
//
// A tile of T targets keeps T accumulators in registers. Each source column is loaded once and added into every
// target that it reaches, the map's element being broadcast from memory. Columns outside the source are skipped.
#pragma once

#include "simd.h"

namespace involution {
namespace {

template <class A>
struct Row {
  // of the first plane and row, column 0; may point outside, where nothing is read
  const A* source;
  int64_t planes, source_plane, map_plane;
  int64_t rows, source_row, map_row;
  int64_t column;
  // columns inside the source
  int64_t low, high;
  const A* map;
  int64_t map_target, map_tap;
  A* target;
  int64_t target_step, count;
  // of this cache line of channels; null without an epilogue
  const A *scale, *shift;
  bool relu;
  // what the specialised loops have as constants
  int64_t taps, stride;
};

template <class A>
using RowFunction = void (*)(const Row<A>&);

// One source row into T targets, K and S known.
template <class A, int K, int S, int T>
struct Columns {
  Block<A> (&sum)[T];
  const A* source;
  const int64_t column;
  const int64_t low, high;
  const A* next;
  const int64_t map_target, map_tap;
  // the running element of each target
  const A* element[T];

  template <int C, int t>
  INVOLUTION_INLINE void add(const Block<A>& x) {
    multiply_add(sum[t], x, *element[t]);
  }

  template <int C, int First, int... I>
  INVOLUTION_INLINE void into(std::integer_sequence<int, I...>) {
    if (C >= low && C < high) {
      const Block<A> x = load_block(source);
      (add<C, First + I>(x), ...);
    }
    (advance(element[First + I]), ...);
  }

  INVOLUTION_INLINE void advance(const A*& pointer) {
    pointer += map_tap;
    opaque(pointer);
  }

  template <int C>
  INVOLUTION_INLINE void one() {
    constexpr int first = C < K ? 0 : (C - K) / S + 1;
    constexpr int last = least(C / S, T - 1);
    if constexpr (C % S == 0 && C / S < T) {
      element[C / S] = next;
      next += map_target;
      opaque(next);
    }
    if constexpr (first <= last) into<C, first>(std::make_integer_sequence<int, last - first + 1>());
    source += column;
    opaque(source);
  }

  template <int... C>
  INVOLUTION_INLINE void all(std::integer_sequence<int, C...>) {
    (one<C>(), ...);
  }
};

template <class A, int T>
INVOLUTION_INLINE void any_columns(Block<A> (&sum)[T], const Row<A>& r, const A* source, const A* map, int64_t low,
                                   int64_t high) {
  for (int64_t m = 0; m < r.taps; ++m) {
    for (int t = 0; t < T; ++t) {
      const int64_t c = t * r.stride + m;
      if (c >= low && c < high) {
        multiply_add(sum[t], load_block(source + c * r.column), map[t * r.map_target + m * r.map_tap]);
      }
    }
  }
}

// A coming tile's part of the map into the second-level cache: the map is read once, and as many streams as it has
// are more than the hardware follows. One tile ahead is too late where each tap is a stream of its own.
template <class A, int K, int T>
INVOLUTION_INLINE void prefetch_map(const Row<A>& r, const A* map) {
  if (r.map_target > kLine) {
    for (int t = T; t < 2 * T; ++t) __builtin_prefetch(map + t * r.map_target, 0, 2);
  } else {
    for (int m = 0; m < K; ++m) __builtin_prefetch(map + m * r.map_tap + 2 * T * r.map_target, 0, 2);
  }
}

// a NaN stays one
template <class A>
INVOLUTION_INLINE void finish(Block<A>& sum, const Block<A>& scale, const Block<A>& shift, bool relu) {
  for (int i = 0; i < Block<A>::kParts; ++i) {
    sum.part[i] = sum.part[i] * scale.part[i] + shift.part[i];
    if (relu) sum.part[i] = sum.part[i] < 0 ? Native<A>{} : sum.part[i];
  }
}

// K = 0: the sizes given at run time
template <class A, int K, int S, int T>
INVOLUTION_INLINE void tile(const Row<A>& r, int64_t t) {
  Block<A> sum[T];
  // in one piece GCC would clear them in memory
  for (int i = 0; i < T; ++i) clear(sum[i]);
  const int64_t first = t * r.stride;
  const int64_t low = r.low - first, high = r.high - first;
  for (int64_t plane = 0; plane < r.planes; ++plane) {
    const A* source = r.source + plane * r.source_plane + first * r.column;
    const A* map = r.map + plane * r.map_plane + t * r.map_target;
    for (int64_t row = 0; row < r.rows; ++row) {
      if constexpr (K > 0) {
        if constexpr (T == kTile) prefetch_map<A, K, T>(r, map);
        Columns<A, K, S, T> columns{sum, source, r.column, low, high, map, r.map_target, r.map_tap, {}};
        columns.all(std::make_integer_sequence<int, (T - 1) * S + K>());
      } else {
        any_columns<A, T>(sum, r, source, map, low, high);
      }
      source += r.source_row;
      map += r.map_row;
    }
  }
  A* target = r.target + t * r.target_step;
  if (r.scale != nullptr) {
    const Block<A> scale = load_block(r.scale), shift = load_block(r.shift);
    for (int i = 0; i < T; ++i) finish(sum[i], scale, shift, r.relu);
  }
  for (int i = 0; i < T; ++i) store_block(target + i * r.target_step, sum[i]);
}

template <class A, int K, int S>
void row_of_targets(const Row<A>& r) {
  int64_t t = 0;
  for (; t + kTile <= r.count; t += kTile) tile<A, K, S, kTile>(r, t);
  if constexpr (kTile > 7) {
    if (t + 7 <= r.count) tile<A, K, S, 7>(r, t), t += 7;
  }
  if constexpr (kTile > 4) {
    if (t + 4 <= r.count) tile<A, K, S, 4>(r, t), t += 4;
  }
  if constexpr (kTile > 2) {
    if (t + 2 <= r.count) tile<A, K, S, 2>(r, t), t += 2;
  }
  for (; t < r.count; ++t) tile<A, K, S, 1>(r, t);
}

template <class A>
RowFunction<A> row_function(int64_t taps, int64_t stride) {
  if (stride == 1) {
    switch (taps) {
      case 1:
        return row_of_targets<A, 1, 1>;
      case 2:
        return row_of_targets<A, 2, 1>;
      case 3:
        return row_of_targets<A, 3, 1>;
      case 4:
        return row_of_targets<A, 4, 1>;
      case 5:
        return row_of_targets<A, 5, 1>;
      case 7:
        return row_of_targets<A, 7, 1>;
      case 9:
        return row_of_targets<A, 9, 1>;
      case 11:
        return row_of_targets<A, 11, 1>;
    }
  } else if (stride == 2) {
    switch (taps) {
      case 3:
        return row_of_targets<A, 3, 2>;
      case 5:
        return row_of_targets<A, 5, 2>;
      case 7:
        return row_of_targets<A, 7, 2>;
    }
  }
  return row_of_targets<A, 0, 0>;
}

}  // namespace
}  // namespace involution

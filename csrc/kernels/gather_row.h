// The loop nest of both gathers: a row of targets × cache lines of channels, one after the other.
//
//   target[t, lane] = Σ_{plane, row, m} map[t, plane, row, m] · source[plane, row, t·S + m, lane]
//
// A tile of N targets keeps N accumulators in registers. Each source column is loaded once and added into every
// target that it reaches, the map's element being broadcast from memory. Columns outside the source are skipped.
#pragma once

#include "convert.h"

namespace involution {
namespace {

// in place of bfloat16 where the map is bfloat16, too, and its taps are neighbours: see PairColumns
struct Pairs {};
template <>
struct Arithmetic<Pairs> {
  using type = float;
};

// T is the type in storage of sources and targets, A the arithmetic one and the map's
template <class T>
struct Row {
  using A = typename Arithmetic<T>::type;
  using Stored = std::conditional_t<std::is_same_v<T, Pairs>, BFloat16, T>;
  using Map = std::conditional_t<std::is_same_v<T, Pairs>, BFloat16, A>;
  // of the first plane and row, column 0; may point outside, where nothing is read
  const Stored* source;
  int64_t planes, source_plane, map_plane;
  int64_t rows, source_row, map_row;
  int64_t column;
  // columns inside the source
  int64_t low, high;
  const Map* map;
  int64_t map_target, map_tap;
  Stored* target;
  int64_t target_step, count;
  // cache lines of channels, one beside the other in targets, and the steps from one to the next in source and map
  int64_t blocks, source_block, map_block;
  // of the first of them; null without an epilogue
  const A *scale, *shift;
  bool relu;
  // of 8 bits: the level that means 0
  A zero;
  // whether the map comes from farther than the nearest cache, and the target goes past the caches
  bool prefetch, stream;
  // from the first row to the one that the next row of targets reads for the first time; 0 where it is near
  int64_t ahead;
  // what the specialised loops have as constants
  int64_t taps, stride;
};

template <class T>
using RowFunction = void (*)(const Row<T>&);

// How the map elements needed by one source column are laid out, so that most of their addresses are constants:
// a target's taps are neighbours, a tap's targets are, or, in the gradient of the input, what a column needs is (one
// or two elements apart).
enum class Order { any, taps, targets, column, column2 };

// Two vectors of a block of bfloat16 hold its even and its odd channels, not its halves: one load and an instruction
// for each then widen both.
template <class T>
constexpr bool kEvenAndOdd = std::is_same_v<T, BFloat16> && Block<float>::kParts == 2;

template <class T, class A = typename Arithmetic<T>::type>
INVOLUTION_INLINE Block<A> load_source(const T* from, A zero) {
  Block<A> block;
  if constexpr (kEvenAndOdd<T>) {
    Bits32<kNativeLanes<A>> pairs;
    std::memcpy(&pairs, from, sizeof(pairs));
    pin(pairs);
    block.part[0] = reinterpret_cast<Native<A>>(pairs << 16);
    block.part[1] = reinterpret_cast<Native<A>>(pairs & 0xffff0000);
    pin(block.part[0]);
    pin(block.part[1]);
  } else {
    unrolled<Block<A>::kParts>([&](auto i) INVOLUTION_INLINE_LAMBDA {
      block.part[i] = load_as<kNativeLanes<A>>(from + i * kNativeLanes<A>);
      if constexpr (std::is_same_v<T, UInt8>) block.part[i] -= zero;
      pin(block.part[i]);
    });
  }
  return block;
}

// of an epilogue, in the order of the sums
template <class T, class A, int... I>
INVOLUTION_INLINE Block<A> load_channels(const A* from, std::integer_sequence<int, I...>) {
  const Block<A> block = load_block(from);
  if constexpr (kEvenAndOdd<T>) {
    return {__builtin_shufflevector(block.part[0], block.part[1], 2 * I...),
            __builtin_shufflevector(block.part[0], block.part[1], (2 * I + 1)...)};
  }
  return block;
}

template <class T, class A>
INVOLUTION_INLINE void store_target(T* to, const Block<A>& sum) {
  if constexpr (kEvenAndOdd<T>) {
    constexpr int R = kNativeLanes<A>;
    const Bits32<R> pairs = rounded<R>(sum.part[0]) >> 16 | (rounded<R>(sum.part[1]) & 0xffff0000);
    std::memcpy(to, &pairs, sizeof(pairs));
  } else {
    unrolled<Block<A>::kParts>(
        [&](auto i) INVOLUTION_INLINE_LAMBDA { store_as<kNativeLanes<A>>(to + i * kNativeLanes<A>, sum.part[i]); });
  }
}

// One source row into N targets, K and S known. Low and High columns at the ends are outside; where they are
// negative, `low` and `high` say which are inside.
template <class T, int K, int S, int N, int Low, int High, Order O>
struct Columns {
  using A = typename Arithmetic<T>::type;
  static constexpr int kCount = (N - 1) * S + K;
  static constexpr bool kKnown = Low >= 0;

  Block<A> (&sum)[N];
  const T* source;
  const int64_t column;
  const int64_t low, high;
  // where the next target's, column's or tap's elements begin
  const A* next;
  const int64_t map_target, map_tap;
  const A zero;
  // running pointers of the targets, or of the taps
  const A* element[O == Order::targets ? K : N];

  template <int C, int t>
  INVOLUTION_INLINE void add(const Block<A>& x) {
    constexpr int m = C - t * S;
    if constexpr (O == Order::any) {
      multiply_add(sum[t], x, *element[t]);
    } else if constexpr (O == Order::taps) {
      multiply_add(sum[t], x, element[t][m]);
    } else if constexpr (O == Order::targets) {
      multiply_add(sum[t], x, element[m][t]);
    } else {
      multiply_add(sum[t], x, next[t * (O == Order::column ? 1 : 2)]);
    }
  }

  template <int C, int First, int... I>
  INVOLUTION_INLINE void into(std::integer_sequence<int, I...>) {
    if (kKnown || (C >= low && C < high)) {
      const Block<A> x = load_source(source, zero);
      (add<C, First + I>(x), ...);
    }
    if constexpr (O == Order::any) (advance(element[First + I]), ...);
  }

  INVOLUTION_INLINE void advance(const A*& pointer) {
    pointer += map_tap;
    opaque(pointer);
  }

  template <int C>
  INVOLUTION_INLINE void one() {
    constexpr int first = C < K ? 0 : (C - K) / S + 1;
    constexpr int last = least(C / S, N - 1);
    constexpr bool inside = !kKnown || (C >= Low && C < kCount - High);
    if constexpr ((O == Order::any || O == Order::taps) && C % S == 0 && C / S < N) {
      element[C / S] = next;
      next += map_target;
      opaque(next);
    }
    if constexpr (inside && first <= last) into<C, first>(std::make_integer_sequence<int, last - first + 1>());
    if constexpr (O == Order::column || O == Order::column2) advance(next);
    if constexpr (inside) {
      source += column;
      opaque(source);
    }
  }

  template <int... C>
  INVOLUTION_INLINE void all(std::integer_sequence<int, C...>) {
    if constexpr (O == Order::targets) {
      unrolled<K>([&](auto m) INVOLUTION_INLINE_LAMBDA {
        element[m] = next;
        advance(next);
      });
    }
    if constexpr (Low > 0) source += Low * column;
    (one<C>(), ...);
  }
};

// One source row of bfloat16 into N targets, K and S known, as Columns: taps 2i and 2i + 1 are multiplied in one
// instruction, the map being read as it is stored. The last tap, and one whose other is outside, are widened.
template <int K, int S, int N, int Low, int High>
struct PairColumns {
  static constexpr int kCount = (N - 1) * S + K;
  static constexpr bool kKnown = Low >= 0;
  using Column = Bits32<kNativeLanes<float>>;

  Block<float> (&sum)[N];
  const BFloat16* source;
  const int64_t column;
  const int64_t low, high;
  // where the next target's elements begin
  const BFloat16* next;
  const int64_t map_target;
  const BFloat16* element[N];
  // of the column that is added, in the lower half of each lane
  Column here;

  template <int C>
  INVOLUTION_INLINE bool inside() const {
    if constexpr (C < 0 || C >= kCount) {
      return false;
    } else if constexpr (kKnown) {
      return C >= Low && C < kCount - High;
    } else {
      return C >= low && C < high;
    }
  }

  INVOLUTION_INLINE static Column column_at(const BFloat16* from) {
    Bits16<kNativeLanes<float>> bits;
    std::memcpy(&bits, from, sizeof(bits));
    return __builtin_convertvector(bits, Column);
  }

  // the first or second of two elements
  template <bool Second>
  INVOLUTION_INLINE static Native<float> widened(const BFloat16* pair) {
    uint32_t bits;
    std::memcpy(&bits, pair, sizeof(bits));
    const Column both = Column{} + bits;
    return reinterpret_cast<Native<float>>(Second ? both & 0xffff0000 : both << 16);
  }

  template <int C, int t>
  INVOLUTION_INLINE void add(Column pair, Native<float> x, bool before, bool after) {
    constexpr int m = C - t * S;
    Native<float>& to = sum[t].part[0];
    if constexpr (m % 2 == 0 && m + 1 < K) {
      if (after) {
        add_pair(to, pair, element[t] + m);
      } else {
        to += x * widened<false>(element[t] + m);
      }
    } else if (m % 2 == 0 || !before) {
      to += x * widened<true>(element[t] + m - 1);
    }
  }

  template <int C, int First, int... I>
  INVOLUTION_INLINE void into(std::integer_sequence<int, I...>) {
    if (!inside<C>()) return;
    const bool before = inside<C - 1>(), after = inside<C + 1>();
    if (!before) here = column_at(source);
    const Column following = after ? column_at(source + column) : Column{};
    const Column pair = here | following << 16;
    const auto x = reinterpret_cast<Native<float>>(here << 16);
    (add<C, First + I>(pair, x, before, after), ...);
    here = following;
  }

  template <int C>
  INVOLUTION_INLINE void one() {
    constexpr int first = C < K ? 0 : (C - K) / S + 1;
    constexpr int last = least(C / S, N - 1);
    if constexpr (C % S == 0 && C / S < N) {
      element[C / S] = next;
      next += map_target;
      opaque(next);
    }
    into<C, first>(std::make_integer_sequence<int, last - first + 1>());
    if constexpr (!kKnown || (C >= Low && C < kCount - High)) {
      source += column;
      opaque(source);
    }
  }

  template <int... C>
  INVOLUTION_INLINE void all(std::integer_sequence<int, C...>) {
    if constexpr (Low > 0) source += Low * column;
    (one<C>(), ...);
  }
};

// taps from `m` on, one after the other
template <class T, int N, class A>
INVOLUTION_INLINE void any_columns(Block<A> (&sum)[N], const Row<T>& r, const T* source, const A* map, int64_t low,
                                   int64_t high, int64_t m) {
  for (; m < r.taps; ++m) {
    unrolled<N>([&](auto t) INVOLUTION_INLINE_LAMBDA {
      const int64_t c = t * r.stride + m;
      if (c >= low && c < high) {
        multiply_add(sum[t], load_source(source + c * r.column, r.zero), map[t * r.map_target + m * r.map_tap]);
      }
    });
  }
}

// Piece taps from `m` on, stride 1
template <class T, int N, int Piece, class A>
INVOLUTION_INLINE void piece_of_columns(Block<A> (&sum)[N], const Row<T>& r, const T* source, const A* map, int64_t low,
                                        int64_t high, int64_t m) {
  Columns<T, Piece, 1, N, -1, -1, Order::any> columns{
      sum, source + m * r.column, r.column, low - m, high - m, map + m * r.map_tap, r.map_target, r.map_tap, r.zero,
      {}};
  columns.all(std::make_integer_sequence<int, N - 1 + Piece>());
}

// As many taps as there are, stride 1, a few at a time as Columns adds them.
template <class T, int N, class A>
INVOLUTION_INLINE void many_columns(Block<A> (&sum)[N], const Row<T>& r, const T* source, const A* map, int64_t low,
                                    int64_t high) {
  int64_t m = 0;
  for (; m + 4 <= r.taps; m += 4) piece_of_columns<T, N, 4>(sum, r, source, map, low, high, m);
  if (m + 3 == r.taps) return piece_of_columns<T, N, 3>(sum, r, source, map, low, high, m);
  if (m + 2 == r.taps) return piece_of_columns<T, N, 2>(sum, r, source, map, low, high, m);
  any_columns<T, N>(sum, r, source, map, low, high, m);
}

// Prefetches an upcoming tile's part of the map into the second-level cache: the map is read once, in more streams than
// the hardware can follow. One tile ahead is too late if each tap is a separate stream.
template <class T, int K, int N, class M>
INVOLUTION_INLINE void prefetch_map(const Row<T>& r, const M* map, int64_t row) {
  if (r.map_target > kLine) {
    // a line holds two kernel rows of a target, unless these lie in other pixels as in the gradient of the input
    if (row % (8 / int64_t(sizeof(M))) != 0 && r.map_row > 0 && r.map_row < kLine) return;
    for (int t = N; t < 2 * N; ++t) __builtin_prefetch(map + t * r.map_target, 0, 2);
  } else {
    for (int m = 0; m < K; ++m) __builtin_prefetch(map + m * r.map_tap + 2 * N * r.map_target, 0, 2);
  }
}

// NaN stays NaN
template <class A>
INVOLUTION_INLINE void finish(Block<A>& sum, const Block<A>& scale, const Block<A>& shift, bool relu) {
  unrolled<Block<A>::kParts>([&](auto i) INVOLUTION_INLINE_LAMBDA {
    sum.part[i] = sum.part[i] * scale.part[i] + shift.part[i];
    if (relu) sum.part[i] = sum.part[i] < 0 ? Native<A>{} : sum.part[i];
  });
}

// K = 0: the number of taps given at run time, and S = 0: the stride, too
template <class T, int K, int S, int N, int Low, int High, Order O>
INVOLUTION_INLINE void tile_block(const Row<T>& r, int64_t t, int64_t block) {
  using A = typename Arithmetic<T>::type;
  const int64_t channel = block * kLanes<A>;
  Block<A> sum[N];
  unrolled<N>([&](auto i) INVOLUTION_INLINE_LAMBDA { clear(sum[i]); });
  const int64_t first = t * r.stride;
  const int64_t low = r.low - first, high = r.high - first;
  for (int64_t plane = 0; plane < r.planes; ++plane) {
    const auto* source = r.source + block * r.source_block + plane * r.source_plane + first * r.column;
    const auto* map = r.map + block * r.map_block + plane * r.map_plane + t * r.map_target;
    for (int64_t row = 0; row < r.rows; ++row) {
      if constexpr (K > 0) {
        if constexpr (N == kTile) {
          if (r.prefetch) prefetch_map<T, K, N>(r, map, row);
        }
        constexpr auto every = std::make_integer_sequence<int, (N - 1) * S + K>();
        if constexpr (std::is_same_v<T, Pairs>) {
          PairColumns<K, S, N, Low, High>{sum, source, r.column, low, high, map, r.map_target, {}, {}}.all(every);
        } else {
          Columns<T, K, S, N, Low, High, O> columns{sum, source,       r.column,  low,    high,
                                                    map, r.map_target, r.map_tap, r.zero, {}};
          columns.all(every);
        }
      } else if constexpr (S == 1) {
        many_columns<T, N>(sum, r, source, map, low, high);
      } else {
        any_columns<T, N>(sum, r, source, map, low, high, 0);
      }
      source += r.source_row;
      map += r.map_row;
    }
  }
  if constexpr (N == kTile && K > 0) {
    const auto* at = r.source + block * r.source_block + r.ahead + (first + (K - 1) / 2) * r.column;
    for (int i = 0; i < N * S && r.ahead != 0; ++i) __builtin_prefetch(at + i * r.column, 0, 2);
  }
  auto* target = r.target + channel + t * r.target_step;
  if (r.scale != nullptr) {
    constexpr auto lanes = std::make_integer_sequence<int, kNativeLanes<A>>();
    const Block<A> scale = load_channels<T>(r.scale + channel, lanes),
                   shift = load_channels<T>(r.shift + channel, lanes);
    unrolled<N>([&](auto i) INVOLUTION_INLINE_LAMBDA { finish(sum[i], scale, shift, r.relu); });
  }
  if constexpr (sizeof(T) == sizeof(A)) {
    if (r.stream) {
      unrolled<N>([&](auto i) INVOLUTION_INLINE_LAMBDA { stream_block(target + i * r.target_step, sum[i]); });
      return;
    }
  }
  unrolled<N>([&](auto i) INVOLUTION_INLINE_LAMBDA { store_target(target + i * r.target_step, sum[i]); });
}

// all blocks: what is the same for them is worked out once
template <class T, int K, int S, int N, int Low, int High, Order O>
__attribute__((noinline)) void tile(const Row<T>& r, int64_t t) {
  for (int64_t block = 0; block < r.blocks; ++block) tile_block<T, K, S, N, Low, High, O>(r, t, block);
}

// Tiles in the middle of a row need no checks; nor do those at its ends, for the most common kernels with a padding of
// half a kernel, and for what the gradient of stride 2 makes of them.
template <class T, int K, int S, int N, Order O>
INVOLUTION_INLINE void tile_by_border(const Row<T>& r, int64_t t) {
  if constexpr (O != Order::any) {
    constexpr int kCount = (N - 1) * S + K, kLow = (K - 1) / 2, kHigh = K - 1 - kLow - (S - 1);
    const int64_t low = most<int64_t>(0, r.low - t * S), high = most<int64_t>(0, kCount - r.high + t * S);
    if (low == 0 && high == 0) return tile<T, K, S, N, 0, 0, O>(r, t);
    if constexpr (K == 2 || K == 3 || K == 4 || K == 7) {
      if (low == kLow && high == 0) return tile<T, K, S, N, kLow, 0, O>(r, t);
      if (low == 0 && high == kHigh) return tile<T, K, S, N, 0, kHigh, O>(r, t);
      if (low == kLow && high == kHigh) return tile<T, K, S, N, kLow, kHigh, O>(r, t);
    }
  }
  tile<T, K, S, N, -1, -1, Order::any>(r, t);
}

template <class T, int K, int S, Order O>
void row_of_targets(const Row<T>& r) {
  // narrower tiles keep fewer sums: 7 are 4 and 3, and 8 twice 4
  constexpr bool kEven = kTile == 6 && K == 7;
  const int64_t rest = r.count % kTile;
  int64_t t = 0, whole = r.count - rest;
  if (kEven && whole > 0 && (rest == 1 || rest == 2)) whole -= kTile;
  for (; t < whole; t += kTile) tile_by_border<T, K, S, kTile, O>(r, t);
  if constexpr (kEven) {
    for (; t + 4 <= r.count; t += 4) tile_by_border<T, K, S, 4, O>(r, t);
    if (t + 3 <= r.count) tile_by_border<T, K, S, 3, O>(r, t), t += 3;
  }
  if constexpr (kTile > 7) {
    if (t + 7 <= r.count) tile_by_border<T, K, S, 7, O>(r, t), t += 7;
  }
  if constexpr (kTile > 4) {
    if (t + 4 <= r.count) tile_by_border<T, K, S, 4, Order::any>(r, t), t += 4;
  }
  if constexpr (kTile > 2) {
    if (t + 2 <= r.count) tile_by_border<T, K, S, 2, Order::any>(r, t), t += 2;
  }
  for (; t < r.count; ++t) tile_by_border<T, K, S, 1, Order::any>(r, t);
}

// what is specialised: stride 1 and 2 of the usual kernels, and what the gradient of stride 2 makes of them; half types
// have the usual kernels themselves and, with AVX2, the gradient of 7×7 with stride 2; what else they need runs on
// widened copies
template <class T, int S>
constexpr bool specialised(int64_t taps) {
  constexpr bool kFour = sizeof(T) > 2 || (sizeof(T) == 2 && kBytes == 32);
#if defined(INVOLUTION_FEW_SIZES)
  // one of each kind, for slow builds
  return taps == 3 || (taps == 4 && kFour && S == 1);
#else
  const bool usual = taps == 3 || taps == 5 || taps == 7;
  if (sizeof(T) <= 2 || S == 2) return usual || (taps == 4 && kFour && S == 1);
  return usual || taps == 1 || taps == 2 || taps == 4 || taps == 9 || taps == 11;
#endif
}

template <class T, int S, Order O, int K>
void choose_taps(int64_t taps, RowFunction<T>& to) {
  if constexpr (specialised<T, S>(K)) {
    // elements two apart are what the gradient of stride 2 has, of at most half as many taps
    if (taps == K) to = row_of_targets<T, K, S, (O == Order::column2 && K > 4 ? Order::any : O)>;
  }
}

template <class T, int S, Order O>
RowFunction<T> row_function(int64_t taps) {
  RowFunction<T> function = row_of_targets<T, 0, (S == 1 && std::is_same_v<T, float>), Order::any>;
  choose_taps<T, S, O, 1>(taps, function);
  choose_taps<T, S, O, 2>(taps, function);
  choose_taps<T, S, O, 3>(taps, function);
  choose_taps<T, S, O, 4>(taps, function);
  choose_taps<T, S, O, 5>(taps, function);
  choose_taps<T, S, O, 7>(taps, function);
  choose_taps<T, S, O, 9>(taps, function);
  choose_taps<T, S, O, 11>(taps, function);
  return function;
}

template <class T>
RowFunction<T> row_function(const Row<T>& r) {
  // float64 and the baseline are for completeness
  if constexpr (std::is_same_v<T, Pairs>) {
    RowFunction<T> function = nullptr;
    unrolled<8>([&](auto taps) INVOLUTION_INLINE_LAMBDA {
      if (r.stride == 1) choose_taps<T, 1, Order::taps, decltype(taps)::value>(r.taps, function);
      if (r.stride == 2) choose_taps<T, 2, Order::taps, decltype(taps)::value>(r.taps, function);
    });
    return function;
  } else {
    constexpr bool kOrders = sizeof(typename Row<T>::A) == 4 && kTile > 2;
    if (r.stride > 2) return row_of_targets<T, 0, 0, Order::any>;
    if constexpr (kOrders) {
      if (r.stride == 2) {
        if (r.map_tap == 1) return row_function<T, 2, Order::taps>(r.taps);
        if (r.map_target == 1) return row_function<T, 2, Order::targets>(r.taps);
      } else {
        if (r.map_tap == 1) return row_function<T, 1, Order::taps>(r.taps);
        if (r.map_target == 1) return row_function<T, 1, Order::targets>(r.taps);
        if (r.map_target - r.map_tap == 1) return row_function<T, 1, Order::column>(r.taps);
        if (r.map_target - r.map_tap == 2) return row_function<T, 1, Order::column2>(r.taps);
      }
    }
    return r.stride == 2 ? row_function<T, 2, Order::any>(r.taps) : row_function<T, 1, Order::any>(r.taps);
  }
}

}  // namespace
}  // namespace involution

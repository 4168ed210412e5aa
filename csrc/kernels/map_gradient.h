// Gradient of the kernel map: map[t, u, v] = Σ_c output[c, t] · input[c, t·s − p + (u, v)·d].
//
// The input and the output's gradient of a group are laid out channel by channel, the input with a border of zeros, so
// that no load needs a check. Accumulators are the kernel rows in RB target rows, which share the loads of the input;
// the loop runs over channels.
//
// Where the map's taps are neighbours and a kernel row fits into half a vector, the lanes are a row's taps: see
// TapRows. Elsewhere they are neighbouring target pixels, and the accumulators those of one kernel column (three
// columns where there are three rows); the input's columns are then sorted by their remainder modulo the stride, so
// that every load is one of neighbours.
#pragma once

#include <algorithm>

#include "../problem.h"
#include "axis.h"
#include "convert.h"
#include "gather.h"
#include "tap_sums.h"

namespace involution {
namespace {

// channels and pixels that are packed together
constexpr int kPacked = 8;

// the lower half of each lane
template <int Lanes>
INVOLUTION_INLINE Floats<Lanes> widen_lower(Bits32<Lanes> x, BFloat16) {
  return reinterpret_cast<Floats<Lanes>>(x << 16);
}

template <int Lanes>
INVOLUTION_INLINE Floats<Lanes> widen_lower(Bits32<Lanes> x, Half) {
  return widen<Lanes>(__builtin_convertvector(x, Bits16<Lanes>), Half());
}

// T is the type in storage of input and output, M the map's
template <class T, class M = T>
class MapGradient {
  using A = typename Arithmetic<T>::type;
  static constexpr int R = most(4, kNativeLanes<A>);
  // a narrower vector for the rest of a row
  static constexpr int kNarrow = R == 16 ? 8 : R;

 public:
  explicit MapGradient(const Problem& p) : input_(p.input), output_(p.output), map_(p.map) {
    for (int i = 0; i < 3; ++i) {
      axis_[i] = {output_.size[2 + i], input_.size[2 + i], map_.size[2 + i],   p.stride[i],
                  p.padding[i],        p.dilation[i],      map_.stride[5 + i], map_.stride[2 + i]};
    }
    group_width_ = input_.size[1] / map_.size[1];
    taps_inside_ = axis_[2].map_tap == 1 && axis_[2].map_pixel != 1;
#if defined(__AVX2__)
    const int64_t taps = axis_[2].taps, stride = axis_[2].stride / gcd(axis_[2].stride, axis_[2].dilation);
    if (sizeof(A) == 4 && taps_inside_ && axis_[1].map_tap == taps && axis_[1].taps >= 3 && stride <= 2) {
      // fewer leave too many lanes without a tap
      taps_are_lanes_ = taps >= 6 && taps <= kRowLanes;
    }
#endif
  }

  void run(const Parallel& parallel) {
    const int64_t images = output_.size[0] * map_.size[1] * axis_[0].targets;
    if (images * axis_[1].targets * axis_[2].targets == 0) return;
    row_phases_ = phase_count<false>(axis_[1]);
    column_phases_ = phase_count<false>(axis_[2]);
    // the longest phase is the first
    const Phase rows = phase_of<false>(axis_[1], 0), columns = phase_of<false>(axis_[2], 0);
    const int64_t together = rows_together(rows);
    band_ = round_up(taps_inside_ ? least(rows.count, kNeighbourRows) : rows.count, together);
    width_ = columns.count;
    while (band_ > together &&
           (slab_size(rows, columns) > kSlabBytes ||
            (parallel.threads > 1 && images * ceil_div(rows.count, band_) < 4 * parallel.threads))) {
      band_ = round_up((band_ + 1) / 2, together);
    }
    while (width_ > 2 * R && slab_size(rows, columns) > kSlabBytes) width_ = round_up((width_ + 1) / 2, R);
    bands_ = ceil_div(rows.count, band_);
    tiles_ = ceil_div(columns.count, width_);
    const int64_t tasks = images * row_phases_ * column_phases_ * bands_ * tiles_;
    const int64_t work = band_ * width_ * group_width_ * axis_[0].taps * axis_[1].taps * ceil_div(axis_[2].taps, 8);
    parallel_for(parallel, tasks, ceil_div(2 * kGrainWork, work + 1), [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) one(task);
    });
  }

 private:
  // rows of a band that still leave the map of all its groups in the cache
  static constexpr int64_t kNeighbourRows = 15;

  // the input's slab [row][channel][remainder of the column][column], that of the output's gradient
  // [row][channel][pixel]
  struct Slabs {
    A *input, *output;
    int64_t rows, row, channel, remainder, output_row, output_channel;
  };

  // one task: targets of a phase in rows [i0, i0 + height) and columns [j0, j0 + width), of a group and plane of an
  // image
  struct Task {
    int64_t n, g, z;
    Phase rows, columns;
    int64_t i0, height, j0, width;
    Slabs slabs;
    // where the sums of a block of pixels go, unless directly to the map
    A* sums;
  };

  // target rows that share the loads of the input; rows that are far apart have none to share
  static int rows_together(const Phase& rows) { return rows.stride <= 2 ? kTargetRows : 1; }

  // of `left` target rows those that come next
  int next_rows(const Phase& rows, int64_t left) const {
    const int together = rows_together(rows);
    if (!taps_are_lanes_ || together < 3) return left >= together ? together : 1;
    // four are two and two
    return left == 3 || left > 4 ? 3 : left >= 2 ? 2 : 1;
  }

  static int64_t take(int64_t& task, int64_t count) {
    const int64_t index = task % count;
    task /= count;
    return index;
  }

  // pixels in whole vectors
  static int64_t rounded(int64_t width) {
    const int64_t rest = width % R;
    return rest == 0 ? width : width - rest + (rest <= kNarrow ? kNarrow : R);
  }

  // remainders of columns modulo the stride that any tap reads
  int64_t remainders(const Phase& columns) const { return least(sorted_by(columns), columns.taps); }

  // the stride by whose remainder columns of the slab are sorted
  int64_t sorted_by(const Phase& columns) const { return taps_are_lanes_ ? 1 : columns.stride; }

  Slabs slabs(const Phase& rows, const Phase& columns) const {
    const int64_t pixels = rounded(width_);
    const int64_t last = taps_are_lanes_ ? (pixels - 1) * columns.stride : pixels - 1;
    const int64_t remainder = round_up(last + 1 + (columns.taps - 1) / sorted_by(columns), kPacked);
    // packing may write one vector too many; channels are an odd number of eight elements apart, so that they do not
    // share cache sets
    const auto pitch = [](int64_t size) { return (round_up(size, kPacked) / kPacked + 1) / 2 * 2 * kPacked + kPacked; };
    Slabs s{};
    s.rows = (band_ - 1) * rows.stride + rows.taps;
    s.channel = pitch(remainders(columns) * remainder);
    s.row = group_width_ * s.channel;
    s.remainder = remainder;
    s.output_channel = pitch(pixels);
    s.output_row = group_width_ * s.output_channel;
    return s;
  }

  int64_t slab_size(const Phase& rows, const Phase& columns) const {
    const Slabs s = slabs(rows, columns);
    return (s.rows * s.row + band_ * s.output_row) * int64_t(sizeof(A));
  }

  Task task(int64_t index) const {
    Task t;
    t.j0 = take(index, tiles_) * width_;
    t.g = 0;
    // where a pixel's taps are neighbours all its groups write them one after the other, else each group its planes
    if (taps_inside_) t.g = take(index, map_.size[1]);
    t.i0 = take(index, bands_) * band_;
    t.columns = phase_of<false>(axis_[2], take(index, column_phases_));
    t.rows = phase_of<false>(axis_[1], take(index, row_phases_));
    t.z = take(index, axis_[0].targets);
    if (!taps_inside_) t.g = take(index, map_.size[1]);
    t.n = index;
    t.height = least(band_, t.rows.count - t.i0);
    t.width = least(width_, t.columns.count - t.j0);
    return t;
  }

  void one(int64_t index) const {
    Task t = task(index);
    if (t.height <= 0 || t.width <= 0) return;
    Slabs& s = t.slabs = slabs(t.rows, t.columns);
    const int64_t taps = axis_[1].taps * axis_[2].taps;
    s.input = scratch<A>(slab_size(t.rows, t.columns) / int64_t(sizeof(A)) + (kTargetRows * (taps + R) + R) * R);
    s.output = s.input + s.rows * s.row;
    t.sums = s.output + band_ * s.output_row;
    pack_output(t);
    for (int64_t a = 0; a < axis_[0].taps; ++a) plane(t, a);
  }

  // the taps in plane `a` of the kernel
  void plane(const Task& t, int64_t a) const {
    const Slabs& s = t.slabs;
    pack_input(t, t.z * axis_[0].stride - axis_[0].padding + a * axis_[0].dilation);
    M* map = static_cast<M*>(map_.data) + t.n * map_.stride[0] + t.g * map_.stride[1] + a * map_.stride[2] +
             t.z * map_.stride[5] + t.rows.map + t.i0 * t.rows.map_target + t.columns.map + t.j0 * t.columns.map_target;
    for (int64_t i = 0; i < t.height;) {
      const int count = next_rows(t.rows, t.height - i);
      // kernel rows that reach into the image from any of the target rows
      const int64_t first = least(t.rows.taps, most<int64_t>(0, t.rows.low - (t.i0 + i + count - 1) * t.rows.stride));
      const int64_t last = most(first, least(t.rows.taps, t.rows.high - (t.i0 + i) * t.rows.stride));
      Pixels p = {s.input + i * t.rows.stride * s.row, s.output + i * s.output_row, count, first, last, 0,
                  map + i * t.rows.map_target};
      i += count;
      if (taps_are_lanes_) {
        taps_by_row(t, p);
        continue;
      }
      int64_t j = 0;
      for (; t.width - j > kNarrow; j += R) {
        p.count = static_cast<int>(least<int64_t>(R, t.width - j));
        pixels<R>(t, p);
        p.input += R;
        p.output += R;
        p.map += R * t.columns.map_target;
      }
      p.count = static_cast<int>(t.width - j);
      if (j < t.width) pixels<kNarrow>(t, p);
    }
  }

  // `count` neighbouring pixels in `target_rows` rows; kernel rows not in [first, last) are 0
  struct Pixels {
    const A *input, *output;
    int target_rows;
    int64_t first, last;
    int count;
    M* map;
  };

  // all taps of a row of pixels, which are lanes
  void taps_by_row([[maybe_unused]] const Task& t, [[maybe_unused]] Pixels p) const {
#if defined(__AVX2__)
    if constexpr (sizeof(A) == 4) rows_of_taps(t, p);
#endif
  }

#if defined(__AVX2__)
  void rows_of_taps(const Task& t, Pixels p) const {
    const Phase &rows = t.rows, &columns = t.columns;
    const Slabs& s = t.slabs;
    const int64_t taps = rows.taps * columns.taps, apart = kRowLanes / columns.stride, block = R / kRowLanes * apart;
    const int64_t kernel_rows_inside = p.last - p.first, parts = ceil_div(kernel_rows_inside, kKernelRows);
    for (int64_t j = 0; j < t.width; j += block, p.map += block * columns.map_target) {
      const int64_t count = least(block, t.width - j);
      prefetch(p.map, p.target_rows, static_cast<int>(count), rows, columns);
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t u = p.first + part * kernel_rows_inside / parts;
        const int64_t end = p.first + (part + 1) * kernel_rows_inside / parts;
        TapRows<M> one = {p.input + j * columns.stride + u * s.row,
                          s.channel,
                          s.row,
                          p.output + j,
                          s.output_channel,
                          s.output_row,
                          group_width_,
                          p.map + u * columns.taps,
                          rows.map_target,
                          columns.taps,
                          columns.map_target,
                          columns.stride,
                          apart,
                          0,
                          0,
                          static_cast<int>(columns.taps),
                          end == rows.taps};
#if defined(__AVX512VL__)
        // pairs of pixels
        one.end = most<int64_t>(0, count - apart);
        if (one.end > 0) tap_rows_function<M, 16>(end - u, rows.stride, p.target_rows)(one);
#endif
        one.begin = one.end;
        one.end = least(apart, count);
        if (one.begin < one.end) tap_rows_function<M, 8>(end - u, rows.stride, p.target_rows)(one);
      }
      if (kernel_rows_inside < rows.taps) {
        for (int64_t i = 0; i < p.target_rows * count; ++i) {
          M* of_pixel = p.map + i / count * rows.map_target + i % count * columns.map_target;
          std::fill(of_pixel, of_pixel + p.first * columns.taps, M{});
          std::fill(of_pixel + p.last * columns.taps, of_pixel + taps, M{});
        }
      }
    }
  }
#endif

  // all taps of some pixels
  template <int Lanes>
  void pixels(const Task& t, const Pixels& p) const {
    const Phase &rows = t.rows, &columns = t.columns;
    const Slabs& s = t.slabs;
    // directly to the map if whole vectors of its pixels are adjacent
    A* sums = t.sums;
    bool straight = false;
    if constexpr (sizeof(M) == sizeof(A)) {
      straight = columns.map_target == 1 && p.count == Lanes;
      if (straight) sums = p.map;
    }
    if (taps_inside_) prefetch(p.map, p.target_rows, p.count, rows, columns);
    const int64_t to_column = straight ? columns.map_tap : Lanes;
    const int64_t to_row = straight ? rows.map_tap : columns.taps * Lanes;
    const int64_t to_target_row = straight ? rows.map_target : rows.taps * columns.taps * Lanes;
    for (int64_t u = 0; u < rows.taps; ++u) {
      if (u == p.first) u = p.last;
      for (int64_t i = 0; i < p.target_rows * columns.taps && u < rows.taps; ++i) {
        store(sums + i / columns.taps * to_target_row + u * to_row + i % columns.taps * to_column, Vector<A, Lanes>{});
      }
    }
    const int64_t kernel_rows_inside = p.last - p.first;
    const int64_t step = kernel_rows_inside == 3 && columns.taps == 3 ? 3 : 1;
    // kernel rows in nearly equal parts of at most kKernelRows
    const int64_t parts = ceil_div(kernel_rows_inside, kKernelRows);
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t u = p.first + part * kernel_rows_inside / parts;
      const int64_t kernel_rows = p.first + (part + 1) * kernel_rows_inside / parts - u;
      const TapFunction<A> function = tap_function<A, Lanes>(kernel_rows, step, rows.stride, p.target_rows);
      for (int64_t i = 0, v = 0; i < columns.taps; i += step, v += step > 1 ? step : columns.stride) {
        // columns one remainder at a time: the part of the slab they share stays in the first-level cache
        if (v >= columns.taps) v = v % columns.stride + 1;
        TapSums<A> one = {p.input + u * s.row,
                          {},
                          s.channel,
                          s.row,
                          p.output,
                          s.output_channel,
                          s.output_row,
                          group_width_,
                          sums + u * to_row + v * to_column,
                          to_target_row,
                          to_row,
                          to_column};
        for (int64_t k = 0; k < step; ++k) {
          one.columns[k] = (v + k) % columns.stride * s.remainder + (v + k) / columns.stride;
        }
        function(one);
      }
    }
    if (straight) return;
    for (int b = 0; b < p.target_rows; ++b) {
      store_pixels<Lanes>(sums + b * to_target_row, rows, columns, p.count, p.map + b * rows.map_target);
    }
  }

  // [tap][pixel] into the map
  template <int Lanes>
  static void store_pixels(const A* sums, const Phase& rows, const Phase& columns, int count, M* to) {
    using V = Vector<A, Lanes>;
    if (columns.map_tap != 1) {
      for (int64_t u = 0; u < rows.taps; ++u) {
        for (int64_t v = 0; v < columns.taps; ++v, sums += Lanes) {
          store_lanes<Lanes, M, A>(to + u * rows.map_tap + v * columns.map_tap, load<V>(sums), count,
                                   columns.map_target);
        }
      }
      return;
    }
    // consecutive kernel rows are one run of taps
    const bool whole = rows.map_tap == columns.taps;
    const int64_t runs = whole ? 1 : rows.taps, run = whole ? rows.taps * columns.taps : columns.taps;
    for (int64_t i = 0; i < runs; ++i, to += rows.map_tap) {
      for (int64_t t = 0; t < run; t += Lanes, sums += Lanes * Lanes) {
        const int taps = static_cast<int>(least<int64_t>(Lanes, run - t));
        if (taps <= 2) {
          for (int k = 0; k < count; ++k) {
            for (int v = 0; v < taps; ++v) store_one(to + k * columns.map_target + t + v, sums[v * Lanes + k]);
          }
        } else {
          // beyond `taps` there are other sums or none, which are not stored
          for (int k = 0; k < count; k += 4) {
            transpose_fours<Lanes>(sums + k, Lanes, [&](int i, V value) INVOLUTION_INLINE_LAMBDA {
              M* at = to + (k + i) * columns.map_target + t;
              if (k + i < count) store_lanes<Lanes, M, A>(at, value, taps, 1);
            });
          }
        }
      }
      sums -= (ceil_div(run, Lanes) * Lanes - run) * Lanes;
    }
  }

  // Prefetches what a block of pixels is about to write: lines shared with another group must be read first.
  static void prefetch(const M* to, int target_rows, int count, const Phase& rows, const Phase& columns) {
    constexpr int64_t line = kLine / int64_t(sizeof(M));
    const int64_t length = rows.taps * rows.map_tap;
    for (int b = 0; b < target_rows; ++b) {
      for (int k = 0; k < count; ++k) {
        const M* at = to + b * rows.map_target + k * columns.map_target;
        for (int64_t i = 0; i < length; i += line) __builtin_prefetch(at + i, 1, 2);
      }
    }
  }

  void pack_output(const Task& t) const {
    const T* from = static_cast<const T*>(output_.data) + t.n * output_.stride[0] +
                    t.g * group_width_ * output_.stride[1] + t.z * output_.stride[2] +
                    (t.rows.first + t.i0 * t.rows.step) * output_.stride[3] +
                    (t.columns.first + t.j0 * t.columns.step) * output_.stride[4];
    for (int64_t i = 0; i < t.height; ++i, from += t.rows.step * output_.stride[3]) {
      pack_row(from, output_.stride[1], t.columns.step * output_.stride[4], t.width, rounded(t.width),
               t.slabs.output + i * t.slabs.output_row, t.slabs.output_channel);
    }
  }

  // one source plane, zero outside
  void pack_input(const Task& t, int64_t plane) const {
    const Phase &rows = t.rows, &columns = t.columns;
    const Slabs& s = t.slabs;
    const bool inside = plane >= 0 && plane < axis_[0].sources;
    const int64_t stride = sorted_by(columns);
    for (int64_t m = 0; m < remainders(columns); ++m) {
      // slab columns q with low <= first_column + q · stride + m < high
      const int64_t at = t.j0 * columns.stride + m;
      const int64_t low = most<int64_t>(0, least(s.remainder, ceil_div(columns.low - at, stride)));
      const int64_t high = most(low, least(s.remainder, ceil_div(columns.high - at, stride)));
      for (int64_t r = 0; r < s.rows; ++r) {
        const int64_t y = r + t.i0 * rows.stride;
        const bool empty = !inside || y < rows.low || y >= rows.high || low == high;
        const T* from = static_cast<const T*>(input_.data);
        if (!empty) {
          from += t.n * input_.stride[0] + t.g * group_width_ * input_.stride[1] + plane * input_.stride[2] +
                  (rows.column + y * rows.column_step) * input_.stride[3] +
                  (columns.column + (at + low * stride) * columns.column_step) * input_.stride[4];
        }
        A* to = s.input + r * s.row + m * s.remainder;
        fill(to, s.channel, 0, empty ? s.remainder : low);
        if (!empty) {
          pack_row(from, input_.stride[1], stride * columns.column_step * input_.stride[4], high - low,
                   s.remainder - low, to + low, s.channel);
        }
      }
    }
  }

  // zeros in columns [begin, end) of a row and up to a vector more
  void fill(A* to, int64_t to_channel, int64_t begin, int64_t end) const {
    Vector<A, kPacked> zero{};
    for (int64_t c = 0; c < group_width_; ++c, to += to_channel) {
      for (int64_t j = begin; j < end; j += kPacked) {
        // otherwise GCC calls memset for a vector or two
        pin(zero);
        store(to + j, zero);
      }
    }
  }

  // a row of `count` pixels, then zeros up to `end` and up to a vector more
  void pack_row(const T* from, int64_t channel, int64_t pixel, int64_t count, int64_t end, A* to,
                int64_t to_channel) const {
    int64_t j = 0;
    if (channel == 1 && group_width_ % kPacked == 0) {
      // all channels of a few pixels at a time, because they share cache lines
      const auto squares = [&](int64_t first) {
        for (int64_t c = 0; c < group_width_; c += kPacked) {
          pack_square(from + first * pixel + c, pixel, to + c * to_channel + first, to_channel);
        }
      };
      for (; j + kPacked <= count; j += kPacked) squares(j);
      if (j > 0 && j < count) {
        // the last pixels with some before them
        squares(count - kPacked);
        j = count;
      }
      for (int64_t c = 0; c < group_width_ && j < count; c += kPacked) {
        alignas(A) T last[kPacked * kPacked] = {};
        for (int64_t k = 0; k < count - j; ++k) {
          std::memcpy(last + k * kPacked, from + c + k * pixel, kPacked * sizeof(T));
        }
        pack_square(last, kPacked, to + c * to_channel + j, to_channel);
      }
    } else {
      for (; pixel == 1 && j + kPacked <= count; j += kPacked, from += kPacked) {
        for (int64_t c = 0; c < group_width_; ++c) {
          store(to + c * to_channel + j, load_as<kPacked>(from + c * channel));
        }
      }
      for (int64_t c = 0; c < group_width_; ++c) {
        for (int64_t k = j; k < round_up(count - j, kPacked) + j; ++k) {
          to[c * to_channel + k] = k < count ? load_one(from + c * channel + (k - j) * pixel) : A(0);
        }
      }
    }
    fill(to, to_channel, j + round_up(count - j, kPacked), end);
  }

  static void pack_square(const T* from, int64_t pixel, A* to, int64_t to_channel) {
    if constexpr (sizeof(T) == 2) {
      // two channels of half a float's size move as one
      if (pixel % 2 == 0 && reinterpret_cast<uintptr_t>(from) % sizeof(A) == 0) {
        const auto* pairs = reinterpret_cast<const float*>(from);
        transpose_fours<kPacked>(pairs, pixel / 2, [&](int i, Floats<kPacked> value) INVOLUTION_INLINE_LAMBDA {
          const auto both = reinterpret_cast<Bits32<kPacked>>(value);
          store(to + 2 * i * to_channel, widen_lower<kPacked>(both, T()));
          store(to + (2 * i + 1) * to_channel, widen_lower<kPacked>(both >> 16, T()));
        });
        return;
      }
    }
    for (int c = 0; c < kPacked; c += 4) {
      transpose_fours<kPacked>(from + c, pixel, [&](int i, Vector<A, kPacked> value) INVOLUTION_INLINE_LAMBDA {
        store(to + (c + i) * to_channel, value);
      });
    }
  }

  Activation input_, output_;
  Map map_;
  Axis axis_[3];
  bool taps_inside_, taps_are_lanes_ = false;
  int64_t group_width_, row_phases_, column_phases_, band_, width_, bands_, tiles_;
};

void map_gradient(const Problem& p, const Parallel& parallel) {
  with_type(p.type, [&](auto type) { MapGradient<decltype(type)>(p).run(parallel); });
}

}  // namespace
}  // namespace involution

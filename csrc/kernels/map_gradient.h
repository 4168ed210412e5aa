// Gradient of the kernel map: map[t, u, v] = Σ_c output[c, t] · input[c, t·s − p + (u, v)·d].
//
// The input of a group is laid out channel by channel with a border of zeros, so that the taps of a kernel row are
// neighbours in memory: a vector's lanes are eight taps, and no load needs a check. Accumulators are the kernel rows
// of a pixel in RB target rows, which share the loads of the input; the loop runs over channels.
#pragma once

#include "../problem.h"
#include "axis.h"
#include "convert.h"
#include "gather.h"

namespace involution {
namespace {

constexpr int kTapLanes = 8;

#if defined(__AVX512VL__)
constexpr int kTargetRows = 3;
#else
constexpr int kTargetRows = 1;
#endif

constexpr int kKernelRows = 7;

template <class A>
using Taps = typename VectorOf<A, kTapLanes * sizeof(A)>::type;

// neighbouring pixels of RB target rows; strides of the input's slab and of the output's gradient
template <class A>
struct Pixels {
  const A* input;
  int64_t input_channel, input_row, input_step;
  const A* output;
  int64_t output_channel, output_row, output_step;
  int64_t channels;
};

template <class A, int KU, int S, int RB>
struct TapSums {
  Taps<A> sum[RB][KU];

  template <int R, int B>
  INVOLUTION_INLINE void add(const Taps<A>& x, const A (&y)[RB]) {
    if constexpr (R - B * S >= 0 && R - B * S < KU) sum[B][R - B * S] += x * y[B];
  }

  template <int R, int... B>
  INVOLUTION_INLINE void row(const A* input, const A (&y)[RB], std::integer_sequence<int, B...>) {
    const Taps<A> x = load<Taps<A>>(input);
    (add<R, B>(x, y), ...);
  }

  template <int... R>
  INVOLUTION_INLINE void run(const Pixels<A>& p, const A* input, const A* output,
                             std::integer_sequence<int, R...>) {
    for (int b = 0; b < RB; ++b) {
      for (int u = 0; u < KU; ++u) sum[b][u] = Taps<A>{};
    }
    for (int64_t c = 0; c < p.channels; ++c) {
      A y[RB];
      for (int b = 0; b < RB; ++b) y[b] = output[b * p.output_row];
      (row<R>(input + R * p.input_row, y, std::make_integer_sequence<int, RB>()), ...);
      input += p.input_channel;
      output += p.output_channel;
    }
  }
};

// most pixels of one call
constexpr int kPixelBlock = kTapLanes;

template <class A>
using TapBlock = Taps<A>[kPixelBlock][kTargetRows * kKernelRows];

// sums of KU kernel rows for RB target rows of `pixels` pixels, to[pixel][b · KU + u]
template <class A, int KU, int S, int RB>
void tap_sums(const Pixels<A>& p, int pixels, TapBlock<A>& to) {
  const A* input = p.input;
  const A* output = p.output;
  for (int j = 0; j < pixels; ++j) {
    TapSums<A, KU, S, RB> sums;
    sums.run(p, input, output, std::make_integer_sequence<int, (RB - 1) * S + KU>());
    for (int b = 0; b < RB; ++b) {
      for (int u = 0; u < KU; ++u) to[j][b * KU + u] = sums.sum[b][u];
    }
    input += p.input_step;
    output += p.output_step;
  }
}

template <class A>
using TapFunction = void (*)(const Pixels<A>&, int, TapBlock<A>&);

template <class A, int S, int RB, int... KU>
TapFunction<A> tap_function(int64_t rows, std::integer_sequence<int, KU...>) {
  static constexpr TapFunction<A> table[] = {tap_sums<A, KU + 1, S, RB>...};
  return table[rows - 1];
}

// stores the first `count` of eight taps
template <class T, class A>
INVOLUTION_INLINE void store_taps(T* to, Taps<A> value, int count) {
#if defined(__AVX512VL__)
  if constexpr (sizeof(T) == 4) {
    _mm256_mask_storeu_ps(to, static_cast<__mmask8>((1 << count) - 1), (__m256)value);
    return;
  }
#endif
  if (count == kTapLanes) {
    store_as<kTapLanes>(to, value);
    return;
  }
  T copy[kTapLanes];
  store_as<kTapLanes>(copy, value);
  for (int i = 0; i < count; ++i) to[i] = copy[i];
}

template <class T>
class MapGradient {
  using A = typename Arithmetic<T>::type;
  static constexpr bool kConvert = sizeof(T) != sizeof(A);

 public:
  explicit MapGradient(const Problem& p) : input_(p.input), output_(p.output), map_(p.map) {
    for (int i = 0; i < 3; ++i) {
      axis_[i] = {output_.size[2 + i], input_.size[2 + i], map_.size[2 + i],   p.stride[i],
                  p.padding[i],        p.dilation[i],      map_.stride[5 + i], map_.stride[2 + i]};
    }
    group_width_ = input_.size[1] / map_.size[1];
    taps_inside_ = axis_[2].map_tap == 1;
  }

  void run(const Parallel& parallel) {
    const int64_t images = output_.size[0] * map_.size[1] * axis_[0].targets;
    if (images * axis_[1].targets * axis_[2].targets == 0) return;
    row_phases_ = phase_count<false>(axis_[1]);
    column_phases_ = phase_count<false>(axis_[2]);
    // the longest phase is the first
    const Phase rows = phase_of<false>(axis_[1], 0), columns = phase_of<false>(axis_[2], 0);
    band_ = round_up(taps_inside_ ? least(rows.count, kNeighbourRows) : rows.count, kTargetRows);
    width_ = columns.count;
    while (band_ > kTargetRows && (slab_size(rows, columns) > kSlabBytes ||
                                   images * ceil_div(rows.count, band_) < 4 * parallel.threads)) {
      band_ = round_up((band_ + 1) / 2, kTargetRows);
    }
    while (width_ > 16 && slab_size(rows, columns) > kSlabBytes) width_ = (width_ + 1) / 2;
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

  static int64_t take(int64_t& task, int64_t count) {
    const int64_t index = task % count;
    task /= count;
    return index;
  }

  int64_t pitch(const Phase& columns) const {
    // room for a last block of taps, and rows 8 mod 16 elements apart: neighbours in other cache sets
    const int64_t reach = (width_ - 1) * columns.stride + round_up(columns.taps, kTapLanes);
    return round_up(reach + kTapLanes, 16) + 8;
  }

  int64_t slab_size(const Phase& rows, const Phase& columns) const {
    return group_width_ * ((band_ - 1) * rows.stride + rows.taps) * pitch(columns) * int64_t(sizeof(A));
  }

  void one(int64_t task) const {
    const int64_t j0 = take(task, tiles_) * width_;
    int64_t g = 0;
    // where a pixel's taps are neighbours all its groups write them one after the other, else each group its planes
    if (taps_inside_) g = take(task, map_.size[1]);
    const int64_t i0 = take(task, bands_) * band_;
    const Phase columns = phase_of<false>(axis_[2], take(task, column_phases_));
    const Phase rows = phase_of<false>(axis_[1], take(task, row_phases_));
    const int64_t z = take(task, axis_[0].targets);
    if (!taps_inside_) g = take(task, map_.size[1]);
    const int64_t n = task;
    const int64_t height = least(band_, rows.count - i0), width = least(width_, columns.count - j0);
    if (height <= 0 || width <= 0) return;

    const int64_t row_pitch = pitch(columns), slab_rows = (band_ - 1) * rows.stride + rows.taps;
    const int64_t slab_elements = group_width_ * slab_rows * row_pitch;
    A* slab = scratch<A>(slab_elements + (kConvert ? height * width * group_width_ : 0));
    const A* output;
    int64_t output_stride[3];  // channel, row, pixel
    const T* from = static_cast<const T*>(output_.data) + n * output_.stride[0] +
                    g * group_width_ * output_.stride[1] + z * output_.stride[2] +
                    (rows.first + i0 * rows.step) * output_.stride[3] +
                    (columns.first + j0 * columns.step) * output_.stride[4];
    const int64_t steps[3] = {output_.stride[1], rows.step * output_.stride[3], columns.step * output_.stride[4]};
    if constexpr (kConvert) {
      widen_output(from, steps, height, width, slab + slab_elements);
      output = slab + slab_elements;
      output_stride[0] = 1;
      output_stride[1] = width * group_width_;
      output_stride[2] = group_width_;
    } else {
      output = from;
      for (int i = 0; i < 3; ++i) output_stride[i] = steps[i];
    }
    for (int64_t a = 0; a < axis_[0].taps; ++a) {
      const int64_t plane = z * axis_[0].stride - axis_[0].padding + a * axis_[0].dilation;
      pack(n, g, plane, rows, i0 * rows.stride, slab_rows, columns, j0 * columns.stride, row_pitch, slab);
      T* map = static_cast<T*>(map_.data) + n * map_.stride[0] + g * map_.stride[1] + a * map_.stride[2] +
               z * map_.stride[5] + rows.map + i0 * rows.map_target + columns.map + j0 * columns.map_target;
      for (int64_t i = 0; i < height;) {
        const int count = i + kTargetRows <= height && rows.stride <= 2 ? kTargetRows : 1;
        target_rows(slab + i * rows.stride * row_pitch, slab_rows * row_pitch, row_pitch,
                    output + i * output_stride[1], output_stride, count, rows, columns, width,
                    map + i * rows.map_target);
        i += count;
      }
    }
  }

  TapFunction<A> function(int64_t kernel_rows, int64_t stride, int count) const {
    constexpr auto all = std::make_integer_sequence<int, kKernelRows>();
    if (count == 1) return tap_function<A, 1, 1>(kernel_rows, all);
    if (stride == 1) return tap_function<A, 1, kTargetRows>(kernel_rows, all);
    return tap_function<A, 2, kTargetRows>(kernel_rows, all);
  }

  void target_rows(const A* slab, int64_t slab_channel, int64_t slab_row, const A* output,
                   const int64_t (&output_stride)[3], int count, const Phase& rows, const Phase& columns,
                   int64_t width, T* map) const {
    // kernel rows in nearly equal parts of at most kKernelRows
    const int64_t parts = ceil_div(rows.taps, kKernelRows);
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t u0 = part * rows.taps / parts, kernel_rows = (part + 1) * rows.taps / parts - u0;
      const TapFunction<A> sums = function(kernel_rows, rows.stride, count);
      for (int64_t v0 = 0; v0 < columns.taps; v0 += kTapLanes) {
        const int taps = static_cast<int>(least<int64_t>(kTapLanes, columns.taps - v0));
        Pixels<A> pixels = {slab + u0 * slab_row + v0, slab_channel,     slab_row,         columns.stride, output,
                            output_stride[0],          output_stride[1], output_stride[2], group_width_};
        T* to = map + u0 * rows.map_tap + v0 * columns.map_tap;
        for (int64_t j = 0; j < width; j += kPixelBlock) {
          const int block = static_cast<int>(least<int64_t>(kPixelBlock, width - j));
          TapBlock<A> sum;
          if (taps_inside_) prefetch(to + j * columns.map_target, count, kernel_rows, rows, columns);
          sums(pixels, block, sum);
          pixels.input += block * columns.stride;
          pixels.output += block * output_stride[2];
          for (int b = 0; b < count; ++b) {
            for (int64_t u = 0; u < kernel_rows; ++u) {
              store_pixels(sum, b * kernel_rows + u, block, taps, columns,
                           to + b * rows.map_target + u * rows.map_tap + j * columns.map_target);
            }
          }
        }
      }
    }
  }

  // What a block of pixels is about to write: lines that are shared with another group must be read first.
  static void prefetch(const T* to, int count, int64_t kernel_rows, const Phase& rows, const Phase& columns) {
    constexpr int64_t line = kLine / int64_t(sizeof(T));
    const int64_t length = kernel_rows * rows.map_tap;
    for (int b = 0; b < count; ++b) {
      for (int k = 0; k < kPixelBlock; ++k) {
        const T* at = to + b * rows.map_target + k * columns.map_target;
        for (int64_t i = 0; i < length; i += line) __builtin_prefetch(at + i, 1, 2);
      }
    }
  }

  // a block of pixels' taps of one kernel row
  static void store_pixels(const TapBlock<A>& sum, int64_t index, int pixels, int taps, const Phase& columns, T* to) {
    if (columns.map_tap == 1) {
      for (int k = 0; k < pixels; ++k) store_taps<T, A>(to + k * columns.map_target, sum[k][index], taps);
      return;
    }
    Taps<A> block[kTapLanes];
    for (int k = 0; k < kTapLanes; ++k) block[k] = k < pixels ? sum[k][index] : Taps<A>{};
    transpose<kTapLanes>(block);
    for (int v = 0; v < taps; ++v) {
      T* at = to + v * columns.map_tap;
      if (columns.map_target == 1) {
        store_taps<T, A>(at, block[v], pixels);
      } else {
        for (int k = 0; k < pixels; ++k) store_one(at + k * columns.map_target, block[v][k]);
      }
    }
  }

  void widen_output(const T* from, const int64_t (&steps)[3], int64_t height, int64_t width, A* to) const {
    for (int64_t i = 0; i < height; ++i) {
      for (int64_t j = 0; j < width; ++j, to += group_width_) {
        const T* at = from + i * steps[1] + j * steps[2];
        int64_t c = 0;
        if (steps[0] == 1) {
          for (; c + kTapLanes <= group_width_; c += kTapLanes) store(to + c, load_as<kTapLanes>(at + c));
        }
        for (; c < group_width_; ++c) to[c] = load_one(at + c * steps[0]);
      }
    }
  }

  // slab[channel][row][column] of one source plane, zero outside
  void pack(int64_t n, int64_t g, int64_t plane, const Phase& rows, int64_t first_row, int64_t slab_rows,
            const Phase& columns, int64_t first_column, int64_t pitch, A* slab) const {
    const bool inside = plane >= 0 && plane < axis_[0].sources;
    const int64_t low = most<int64_t>(0, least(pitch, columns.low - first_column));
    const int64_t high = most(low, least(pitch - kTapLanes, columns.high - first_column));
    for (int64_t r = 0; r < slab_rows; ++r) {
      const int64_t y = r + first_row;
      const bool empty = !inside || y < rows.low || y >= rows.high || low == high;
      const T* from = static_cast<const T*>(input_.data);
      if (!empty) {
        from += n * input_.stride[0] + g * group_width_ * input_.stride[1] + plane * input_.stride[2] +
                (rows.column + y * rows.column_step) * input_.stride[3] +
                (columns.column + (first_column + low) * columns.column_step) * input_.stride[4];
      }
      for (int64_t c = 0; c < group_width_; c += kTapLanes) {
        const int channels = static_cast<int>(least<int64_t>(kTapLanes, group_width_ - c));
        A* to = slab + (c * slab_rows + r) * pitch;
        for (int i = 0; i < channels; ++i) {
          std::memset(to + i * slab_rows * pitch, 0, sizeof(A) * static_cast<size_t>(empty ? pitch : low));
        }
        if (empty) continue;
        pack_row(from + c * input_.stride[1], columns.column_step * input_.stride[4], channels, high - low,
                 to + low, slab_rows * pitch);
        const int64_t written = low + round_up(high - low, kTapLanes);
        for (int i = 0; i < channels && written < pitch; ++i) {
          std::memset(to + i * slab_rows * pitch + written, 0, sizeof(A) * static_cast<size_t>(pitch - written));
        }
      }
    }
  }

  // up to eight channels of `count` pixels, rounded up to whole vectors with zeros
  void pack_row(const T* from, int64_t pixel, int channels, int64_t count, A* to, int64_t to_channel) const {
    const int64_t channel = input_.stride[1];
    for (int64_t j = 0; j < count; j += kTapLanes, from += kTapLanes * pixel, to += kTapLanes) {
      const int pixels = static_cast<int>(least<int64_t>(kTapLanes, count - j));
      if (channel == 1 && channels == kTapLanes) {
        Taps<A> block[kTapLanes];
        for (int k = 0; k < kTapLanes; ++k) block[k] = k < pixels ? load_as<kTapLanes>(from + k * pixel) : Taps<A>{};
        transpose<kTapLanes>(block);
        for (int i = 0; i < kTapLanes; ++i) store(to + i * to_channel, block[i]);
      } else if (pixel == 1 && pixels == kTapLanes) {
        for (int i = 0; i < channels; ++i) store(to + i * to_channel, load_as<kTapLanes>(from + i * channel));
      } else {
        for (int i = 0; i < channels; ++i) {
          for (int k = 0; k < kTapLanes; ++k) {
            to[i * to_channel + k] = k < pixels ? load_one(from + i * channel + k * pixel) : A(0);
          }
        }
      }
    }
  }

  Activation input_, output_;
  Map map_;
  Axis axis_[3];
  bool taps_inside_;
  int64_t group_width_, row_phases_, column_phases_, band_, width_, bands_, tiles_;
};

void map_gradient(const Problem& p, const Parallel& parallel) {
  switch (p.type) {
    case Type::f32:
      return MapGradient<float>(p).run(parallel);
    case Type::f64:
      return MapGradient<double>(p).run(parallel);
    case Type::bf16:
      return MapGradient<BFloat16>(p).run(parallel);
    case Type::f16:
      return MapGradient<Half>(p).run(parallel);
  }
}

}  // namespace
}  // namespace involution

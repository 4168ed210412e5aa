// Backward of forward-with-a-generated-map: the map of a few rows and as many groups as stay in the cache, generated
// again, and its gradient, which goes straight into those of the reduced features and the span's weights.
//
// For the gradient of the input a task is a bundle of groups of one image; rows of the map move through its memory. For
// those of what generates the map it is a block of bands, each some rows of an image, × a part of the groups; their
// number depends on the sizes alone, so that sums over tasks have the same order whatever the number of threads.
#pragma once

#include "../problem.h"
#include "convert.h"
#include "gather.h"
#include "generate.h"
#include "map_gradient.h"

namespace involution {
namespace {

// to[p, lanes] (+)= Σ_d a[p, d] · b[d, lanes] for P rows and V panels of a cache line of lanes
template <class A>
struct Product {
  const A* a;
  int64_t a_row, a_depth;
  const A* b;
  int64_t b_panel, depth;
  A* to;
  int64_t to_panel;
};

template <class A, int P, int V, bool Add>
INVOLUTION_INLINE void product_tile(Product<A> p) {
  constexpr int L = kLanes<A>;
  Block<A> sum[P][V];
  unrolled<P * V>([&](auto i) INVOLUTION_INLINE_LAMBDA {
    if constexpr (Add) {
      sum[i / V][i % V] = load_block(p.to + i / V * L + i % V * p.to_panel);
    } else {
      clear(sum[i / V][i % V]);
    }
  });
  for (int64_t d = 0; d < p.depth; ++d) {
    Block<A> x[V];
    unrolled<V>([&](auto v) INVOLUTION_INLINE_LAMBDA { x[v] = load_block(p.b + v * p.b_panel); });
    unrolled<P>([&](auto i) INVOLUTION_INLINE_LAMBDA {
      unrolled<V>([&](auto v) INVOLUTION_INLINE_LAMBDA { multiply_add(sum[i][v], x[v], p.a[i * p.a_row]); });
    });
    p.a += p.a_depth;
    p.b += L;
  }
  unrolled<P * V>(
      [&](auto i) INVOLUTION_INLINE_LAMBDA { store_block(p.to + i / V * L + i % V * p.to_panel, sum[i / V][i % V]); });
}

template <class A, int V, bool Add>
void product(Product<A> p, int64_t rows) {
  const auto advance = [&](int64_t count) {
    p.a += count * p.a_row;
    p.to += count * kLanes<A>;
    rows -= count;
  };
  for (; rows >= kTile; advance(kTile)) product_tile<A, kTile, V, Add>(p);
  if constexpr (kTile > 7) {
    for (; rows >= 7; advance(7)) product_tile<A, 7, V, Add>(p);
  }
  if constexpr (kTile > 3) {
    for (; rows >= 3; advance(3)) product_tile<A, 3, V, Add>(p);
  }
  for (; rows > 0; advance(1)) product_tile<A, 1, V, Add>(p);
}

// panels whose accumulators fit into the registers
constexpr int kPanels = kBytes == kLine ? 2 : 1;

template <class A>
void product(const Product<A>& p, int64_t rows, int64_t panels, bool add) {
  if (panels == 1) return add ? product<A, 1, true>(p, rows) : product<A, 1, false>(p, rows);
  return add ? product<A, kPanels, true>(p, rows) : product<A, kPanels, false>(p, rows);
}

template <class T>
class GeneratedBackward {
  using A = typename Arithmetic<T>::type;
  static constexpr int L = kLanes<A>;
  static constexpr bool kConvert = sizeof(T) != sizeof(A);

 public:
  GeneratedBackward(const Problem& p, const Span& s, const Gradients& g) : problem_(p), span_(s), gradients_(g) {
    batch_ = p.output.size[0];
    groups_ = p.map.size[1];
    width_ = p.input.size[1] / groups_;
    taps_ = p.map.size[3] * p.map.size[4];
    pixels_ = p.output.size[3] * p.output.size[4];
    chunks_ = ceil_div(s.reduced.size[1], L);
    const int64_t rows = p.output.size[3], map_bytes = pixels_ * taps_ * int64_t(sizeof(A));
    bands_ = most<int64_t>(1, least(rows, ceil_div(map_bytes, kBandBytes)));
    band_ = ceil_div(rows, bands_);
    bands_ = band_ == 0 ? 1 : ceil_div(rows, band_);
    // without pixels there is nothing to sum
    blocks_ = pixels_ == 0 ? 0 : least(batch_ * bands_, kTasks);
    parts_ = blocks_ == 0 ? 0 : least(groups_, least(kParts, ceil_div(kTasks, blocks_)));
    const int64_t fitting = kSlabBytes / most<int64_t>(1, ceil_div(map_bytes, bands_));
    bundle_ = most<int64_t>(1, least(ceil_div(groups_, most<int64_t>(1, parts_)), fitting));
  }

  void run(const Parallel& parallel) {
    map_needed_ = gradients_.reduced.data != nullptr || gradients_.weight != nullptr || gradients_.bias != nullptr;
    Generator<T> generator(span_);
    if (input_needed()) generator.prepare(parallel);
    generator_ = &generator;
    Scratch weight, partial;
    const int64_t weight_size = groups_ * chunks_ * taps_ * L;
    reduced_size_ = gradients_.reduced.data != nullptr ? batch_ * chunks_ * pixels_ * L : 0;
    span_size_ = gradients_.weight != nullptr ? weight_size : 0;
    bias_size_ = gradients_.bias != nullptr ? round_up(groups_ * taps_, L) : 0;
    if (reduced_size_ > 0) weight_ = pack_weight(weight, weight_size);
    sums_ = static_cast<A*>(partial.reserve(
        (parts_ * reduced_size_ + most<int64_t>(1, blocks_) * (span_size_ + bias_size_) + L) * int64_t(sizeof(A))));
    if (blocks_ == 0) std::memset(sums_, 0, (span_size_ + bias_size_) * sizeof(A));
    if (pixels_ > 0 && input_needed()) {
      const int64_t bundles = ceil_div(groups_, bundle_);
      parallel_for(parallel, batch_ * bundles, 1, [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) gradient_of_input(task / bundles, task % bundles * bundle_);
      });
    }
    if (pixels_ > 0 && map_needed_) {
      parallel_for(parallel, blocks_ * parts_, 1, [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) one(task / parts_, task % parts_);
      });
    }
    if (pixels_ == 0 && input_needed()) {
      // zeros: no window reads
      Problem p = problem_;
      p.input = gradients_.input;
      Gather<T, true>(p, parallel).run();
    }
    if (reduced_size_ > 0) write_reduced(parallel);
    write_span();
  }

 private:
  // tasks when there is enough work, and the maximum number of copies of the reduced features' gradient
  static constexpr int64_t kTasks = 16, kParts = 4;
  // of a band of the map's gradient, which stays in the second-level cache, and of the map's rows that are generated
  // together
#if defined(INVOLUTION_FEW_SIZES)
  // small images have several bands as well
  static constexpr int64_t kBandBytes = 4 << 10, kRowsBytes = 3 << 10;
#else
  static constexpr int64_t kBandBytes = 640 << 10, kRowsBytes = 384 << 10;
#endif
  // pixels whose part of the map's gradient stays in the first-level cache
  static constexpr int64_t kPixelBlock = 128;

  A* span_sums(int64_t block) const { return sums_ + parts_ * reduced_size_ + block * (span_size_ + bias_size_); }

  // [chunk of features][tap of all groups][lane]
  const A* pack_weight(Scratch& memory, int64_t size) const {
    A* to = static_cast<A*>(memory.reserve(size * int64_t(sizeof(A))));
    const int64_t features = span_.reduced.size[1];
    for (int64_t c = 0; c < chunks_; ++c) {
      pack_lanes(static_cast<const T*>(span_.weight) + c * L, 1, features, span_.taps,
                 static_cast<int>(least<int64_t>(L, features - c * L)), to + c * span_.taps * L);
    }
    return to;
  }

  // some channels and rows of one image
  struct Part {
    int64_t n, first, width, y0, y1;
  };

  // in place
  Activation part(const Activation& a, const Part& p) const {
    Activation to = a;
    to.size[0] = 1;
    to.size[1] = p.width;
    to.size[3] = p.y1 - p.y0;
    to.data = at(a, p);
    return to;
  }

  // as a tensor of the arithmetic type
  Activation part(const Activation& a, const Part& p, A* memory, bool read) const {
    Activation to = part(a, p);
    if constexpr (kConvert) {
      to.data = memory;
      to.stride[1] = 1;
      to.stride[4] = p.width;
      to.stride[3] = a.size[4] * p.width;
      if (read) convert(a, at(a, p), p, memory);
    }
    return to;
  }

  static T* at(const Activation& a, const Part& p) {
    return static_cast<T*>(a.data) + p.n * a.stride[0] + p.first * a.stride[1] + p.y0 * a.stride[3];
  }

  void convert(const Activation& a, const T* from, const Part& p, A* to) const {
    for (int64_t y = 0; y < p.y1 - p.y0; ++y) {
      for (int64_t x = 0; x < a.size[4]; ++x, to += p.width) {
        widen_run(from + y * a.stride[3] + x * a.stride[4], a.stride[1], p.width, to);
      }
    }
  }

  // elements of rows of a bundle in the arithmetic type; none if they are read in place
  int64_t converted(const Activation& a, int64_t rows) const {
    return kConvert ? round_up(rows * a.size[4] * bundle_ * width_, L) : 0;
  }

  // with `count` groups of one image
  Problem bundle_problem(int64_t count) const {
    Problem p = problem_;
    p.type = sizeof(A) == 8 ? Type::f64 : Type::f32;
    p.map.size[0] = 1;
    p.map.size[1] = count;
    return p;
  }

  // of one image and the groups from g on, by rows that are generated once and read by several rows of the input
  void gradient_of_input(int64_t n, int64_t g) const {
    static thread_local Scratch memory;
    const int64_t count = least(bundle_, groups_ - g), taps = count * taps_, pitch = Generator<T>::pixel_pitch(taps);
    const int64_t stride = problem_.stride[1], padding = problem_.padding[1];
    const int64_t reach = (problem_.map.size[3] - 1) * problem_.dilation[1];
    const int64_t inputs = problem_.input.size[3], outputs = problem_.output.size[3];
    const int64_t row = problem_.output.size[4] * pitch, row_bytes = row * int64_t(sizeof(A));
    const int64_t together = bands_ == 1 ? outputs : least(outputs, most<int64_t>(1, kRowsBytes / row_bytes));
    const int64_t step = together == outputs ? most<int64_t>(1, inputs) : together * stride;
    // the rows that a step reads and two steps' more, so that rows are seldom moved
    const int64_t held = together == outputs ? outputs : least(outputs, (step - 1 + reach) / stride + 2 + 2 * together);
    const int64_t in_size = converted(problem_.input, least(inputs, step)), map_size = round_up(held * row + 2 * L, L);
    A* rows = static_cast<A*>(
        memory.reserve((map_size + in_size + converted(problem_.output, held) + 4 * L) * int64_t(sizeof(A))));
    A *input = rows + map_size, *output = input + in_size;
    // where the first of the taps lies in its panel
    const int64_t shift = g * taps_ % kNativeLanes<A>;
    // rows [base, end) are there
    int64_t base = 0, end = 0;
    for (int64_t y = 0; y < inputs; y += step) {
      const int64_t after = least(inputs, y + step);
      const int64_t o0 = least(outputs, most<int64_t>(0, ceil_div(y + padding - reach, stride)));
      const int64_t o1 = most(o0, least(outputs, (after - 1 + padding) / stride + 1));
      if (o1 - base > held) {
        if (end > o0) std::memmove(rows, rows + (o0 - base) * row, (end - o0) * row_bytes);
        base = o0;
      }
      end = most(end, o0);
      if (end < o1) generator_->rows(n, end, o1, g * taps_, taps, rows + (end - base) * row, pitch);
      end = most(end, o1);
      Problem p = bundle_problem(count);
      const Part to = {n, g * width_, count * width_, y, after};
      p.output = part(problem_.output, {n, g * width_, count * width_, o0, o1}, output, true);
      p.input = part(gradients_.input, to, input, false);
      p.map.size[6] = o1 - o0;
      p.padding[1] = padding + y - o0 * stride;
      set_map(p.map, rows + (o0 - base) * row + shift, pitch);
      Gather<A, true>(p, this_thread()).run();
      if constexpr (kConvert) narrow_part(gradients_.input, to, input);
    }
  }

  // the working memory of a band: the map's gradient, and the features
  struct Memory {
    A *map, *features;
  };

  Memory memory() const {
    static thread_local Scratch memory;
    const int64_t pixels = band_ * problem_.output.size[4];
    const int64_t map_size = round_up(pixels * round_up(bundle_ * taps_, kPacked) + 2 * L, L);
    const int64_t features_size = span_size_ > 0 ? chunks_ * pixels * L : 0;
    Memory m;
    m.map = static_cast<A*>(memory.reserve((map_size + features_size + 4 * L) * int64_t(sizeof(A))));
    m.features = m.map + map_size;
    return m;
  }

  // a block of bands and a part of the groups
  void one(int64_t block, int64_t part_index) const {
    const Memory m = memory();
    const int64_t first = part_index * groups_ / parts_, last = (part_index + 1) * groups_ / parts_;
    const int64_t units = batch_ * bands_, begin = block * units / blocks_, end = (block + 1) * units / blocks_;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / bands_, y0 = unit % bands_ * band_, y1 = least(y0 + band_, problem_.output.size[3]);
      if (span_size_ > 0) pack_features(n, y0, y1, m.features);
      for (int64_t g = first; g < last; g += bundle_) {
        const int64_t count = least(bundle_, last - g), taps = count * taps_, pitch = round_up(taps, kPacked);
        gradient_of_map(n, y0, y1, g, count, m);
        const int64_t width = problem_.output.size[4], pixels = (y1 - y0) * width;
        if (reduced_size_ > 0) {
          A* to = sums_ + part_index * reduced_size_ + (n * chunks_ * pixels_ + y0 * width) * L;
          const A* weight = weight_ + g * taps_ * L;
          for (int64_t c = 0; c < chunks_; c += kPanels) {
            product<A>(
                {m.map, pitch, 1, weight + c * span_.taps * L, span_.taps * L, taps, to + c * pixels_ * L, pixels_ * L},
                pixels, least<int64_t>(kPanels, chunks_ - c), g != first);
          }
        }
        A* sums = span_sums(block);
        if (span_size_ > 0) add_span(m.map, pitch, m.features, pixels, sums + g * taps_ * L, taps, unit != begin);
        if (bias_size_ > 0) add_bias(m.map, pitch, pixels, sums + span_size_ + g * taps_, taps, unit != begin);
      }
    }
  }

  // into the working memory
  void gradient_of_map(int64_t n, int64_t y0, int64_t y1, int64_t g, int64_t count, const Memory& m) const {
    Problem p = bundle_problem(count);
    const int64_t inputs = problem_.input.size[3], start = y0 * p.stride[1] - p.padding[1];
    const int64_t length = (y1 - y0 - 1) * p.stride[1] + (p.map.size[3] - 1) * p.dilation[1] + 1;
    const int64_t i0 = least(inputs, most<int64_t>(0, start)), i1 = most(i0, least(inputs, start + length));
    p.output = part(problem_.output, {n, g * width_, count * width_, y0, y1});
    p.input = part(problem_.input, {n, g * width_, count * width_, i0, i1});
    p.map.size[6] = y1 - y0;
    p.padding[1] = i0 - start;
    set_map(p.map, m.map, round_up(count * taps_, kPacked));
    MapGradient<T, A>(p).run(this_thread());
  }

  bool input_needed() const { return gradients_.input.data != nullptr; }

  // a task's own kernels stay in its thread
  static const Parallel& this_thread() {
    static const Parallel here = {[](void*, int64_t begin, int64_t end, int64_t, void (*body)(int64_t, int64_t, void*),
                                     void* context) { body(begin, end, context); },
                                  nullptr, 1};
    return here;
  }

  void set_map(Map& m, A* data, int64_t pitch) const {
    const int64_t strides[8] = {0, taps_, 0, m.size[4], 1, 0, m.size[7] * pitch, pitch};
    for (int i = 0; i < 8; ++i) m.stride[i] = strides[i];
    m.data = data;
  }

  // of rows [y0, y1)
  void pack_features(int64_t n, int64_t y0, int64_t y1, A* to) const {
    const Activation& a = span_.reduced;
    for (int64_t c = 0; c < chunks_; ++c) {
      const T* from = static_cast<const T*>(a.data) + n * a.stride[0] + c * L * a.stride[1];
      const int lanes = static_cast<int>(least<int64_t>(L, a.size[1] - c * L));
      for (int64_t y = y0; y < y1; ++y, to += a.size[4] * L) {
        pack_lanes(from + y * a.stride[3], a.stride[1], a.stride[4], a.size[4], lanes, to);
      }
    }
  }

  void add_span(const A* gradient, int64_t pitch, const A* features, int64_t pixels, A* to, int64_t taps,
                bool add) const {
    for (int64_t j = 0; j < pixels; j += kPixelBlock, add = true) {
      const int64_t depth = least(kPixelBlock, pixels - j);
      for (int64_t c = 0; c < chunks_; c += kPanels) {
        product<A>({gradient + j * pitch, 1, pitch, features + (c * pixels + j) * L, pixels * L, depth,
                    to + c * span_.taps * L, span_.taps * L},
                   taps, least<int64_t>(kPanels, chunks_ - c), add);
      }
    }
  }

  void add_bias(const A* gradient, int64_t pitch, int64_t pixels, A* to, int64_t taps, bool add) const {
    for (int64_t t = 0; t < taps && !add; ++t) to[t] = 0;
    for (int64_t j = 0; j < pixels; ++j, gradient += pitch) {
      for (int64_t t = 0; t < taps; ++t) to[t] += gradient[t];
    }
  }

  void narrow_part(const Activation& a, const Part& p, const A* from) const {
    constexpr int R = kNativeLanes<A>;
    const int64_t width = p.width;
    T* to = at(a, p);
    for (int64_t y = 0; y < p.y1 - p.y0; ++y) {
      for (int64_t x = 0; x < a.size[4]; ++x, from += width) {
        T* at = to + y * a.stride[3] + x * a.stride[4];
        int64_t c = 0;
        if (a.stride[1] == 1) {
          for (; c + R <= width; c += R) store_as<R>(at + c, load<Native<A>>(from + c));
        }
        for (; c < width; ++c) store_one(at + c * a.stride[1], from[c]);
      }
    }
  }

  void write_reduced(const Parallel& parallel) const {
    const Activation& a = gradients_.reduced;
    parallel_for(parallel, batch_ * chunks_, ceil_div(kGrainWork, pixels_ + 1), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        A* sum = sums_ + i * pixels_ * L;
        for (int64_t part = 1; part < parts_; ++part) {
          const A* other = sum + part * reduced_size_;
          for (int64_t j = 0; j < pixels_ * L; ++j) sum[j] += other[j];
        }
        const int64_t n = i / chunks_, c = i % chunks_;
        T* to = static_cast<T*>(a.data) + n * a.stride[0] + c * L * a.stride[1];
        const int lanes = static_cast<int>(least<int64_t>(L, a.size[1] - c * L));
        for (int64_t y = 0; y < a.size[3]; ++y) {
          unpack_lanes(sum + y * a.size[4] * L, to + y * a.stride[3], a.stride[1], a.stride[4], a.size[4], lanes);
        }
      }
    });
  }

  void write_span() const {
    A* sum = span_sums(0);
    for (int64_t block = 1; block < blocks_; ++block) {
      const A* other = span_sums(block);
      for (int64_t j = 0; j < span_size_ + bias_size_; ++j) sum[j] += other[j];
    }
    const int64_t features = span_.reduced.size[1];
    if (span_size_ > 0) {
      T* to = static_cast<T*>(gradients_.weight);
      for (int64_t c = 0; c < chunks_; ++c) {
        unpack_lanes(sum + c * span_.taps * L, to + c * L, 1, features, span_.taps,
                     static_cast<int>(least<int64_t>(L, features - c * L)));
      }
    }
    if (bias_size_ > 0) {
      T* to = static_cast<T*>(gradients_.bias);
      for (int64_t t = 0; t < groups_ * taps_; ++t) store_one(to + t, sum[span_size_ + t]);
    }
  }

  const Problem& problem_;
  const Span& span_;
  const Gradients& gradients_;
  const Generator<T>* generator_ = nullptr;
  const A* weight_ = nullptr;
  A* sums_ = nullptr;
  bool map_needed_ = false;
  int64_t batch_, groups_, width_, taps_, pixels_, chunks_, bundle_, bands_, band_, blocks_, parts_;
  int64_t reduced_size_ = 0, span_size_ = 0, bias_size_ = 0;
};

void dynamic_backward(const Problem& p, const Span& span, const Gradients& gradients, const Parallel& parallel) {
  with_type(p.type, [&](auto type) { GeneratedBackward<decltype(type)>(p, span, gradients).run(parallel); });
}

}  // namespace
}  // namespace involution

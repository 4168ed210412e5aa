// Backward of forward-with-a-generated-map: the map of one image and as many groups as stay in the cache, generated
// again, and its gradient, which goes straight into those of the reduced features and the span's weights.
//
// A task is a block of images × a part of the groups; their number depends on the sizes alone, so that sums over
// tasks have the same order whatever the number of threads.
#pragma once

#include "../problem.h"
#include "convert.h"
#include "gather.h"
#include "generate.h"
#include "map_gradient.h"

namespace involution {
namespace {

// to[p, lanes] (+)= Σ_d a[p, d] · b[d, lanes] for P rows and a cache line of lanes
template <class A>
struct Product {
  const A* a;
  int64_t a_row, a_depth;
  const A* b;
  int64_t depth;
  A* to;
};

template <class A, int P, bool Add>
INVOLUTION_INLINE void product_tile(Product<A> p) {
  constexpr int L = kLanes<A>;
  Block<A> sum[P];
  unrolled<P>([&](auto i) INVOLUTION_INLINE_LAMBDA {
    if constexpr (Add) {
      sum[i] = load_block(p.to + i * L);
    } else {
      clear(sum[i]);
    }
  });
  for (int64_t d = 0; d < p.depth; ++d) {
    const Block<A> x = load_block(p.b);
    unrolled<P>([&](auto i) INVOLUTION_INLINE_LAMBDA { multiply_add(sum[i], x, p.a[i * p.a_row]); });
    p.a += p.a_depth;
    p.b += L;
  }
  unrolled<P>([&](auto i) INVOLUTION_INLINE_LAMBDA { store_block(p.to + i * L, sum[i]); });
}

template <class A, bool Add>
void product(Product<A> p, int64_t rows) {
  const auto advance = [&](int64_t count) {
    p.a += count * p.a_row;
    p.to += count * kLanes<A>;
    rows -= count;
  };
  for (; rows >= kTile; advance(kTile)) product_tile<A, kTile, Add>(p);
  if constexpr (kTile > 7) {
    for (; rows >= 7; advance(7)) product_tile<A, 7, Add>(p);
  }
  if constexpr (kTile > 3) {
    for (; rows >= 3; advance(3)) product_tile<A, 3, Add>(p);
  }
  for (; rows > 0; advance(1)) product_tile<A, 1, Add>(p);
}

template <class A>
void product(const Product<A>& p, int64_t rows, bool add) {
  return add ? product<A, true>(p, rows) : product<A, false>(p, rows);
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
    // without pixels there is nothing to sum
    blocks_ = pixels_ == 0 ? 0 : least(batch_, kTasks);
    parts_ = blocks_ == 0 ? 0 : least(groups_, least(kParts, ceil_div(kTasks, blocks_)));
    const int64_t map_bytes = most<int64_t>(1, pixels_ * taps_ * int64_t(sizeof(A)));
    bundle_ = most<int64_t>(1, least(ceil_div(groups_, most<int64_t>(1, parts_)), kSlabBytes / map_bytes));
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
    if (pixels_ > 0) {
      parallel_for(parallel, blocks_ * parts_, 1, [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) one(task / parts_, task % parts_);
      });
    } else if (input_needed()) {
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

  // channels [first, first + width) of one image as a tensor of the arithmetic type
  Activation part(const Activation& a, int64_t n, int64_t first, int64_t width, A* memory, bool read) const {
    Activation to = a;
    to.size[0] = 1;
    to.size[1] = width;
    T* from = static_cast<T*>(a.data) + n * a.stride[0] + first * a.stride[1];
    to.data = from;
    if constexpr (kConvert) {
      to.data = memory;
      to.stride[1] = 1;
      to.stride[4] = width;
      to.stride[3] = a.size[4] * width;
      if (read) convert(a, from, width, memory);
    }
    return to;
  }

  void convert(const Activation& a, const T* from, int64_t width, A* to) const {
    for (int64_t y = 0; y < a.size[3]; ++y) {
      for (int64_t x = 0; x < a.size[4]; ++x, to += width) {
        widen_run(from + y * a.stride[3] + x * a.stride[4], a.stride[1], width, to);
      }
    }
  }

  // one task: a bundle of groups of one image after the other
  struct Task {
    int64_t block, part;
    // of the image and the first group of the bundle
    int64_t n, g;
    // groups, channels and taps of the bundle
    int64_t count, width, taps;
    // whether sums start from zero
    bool first_image, first_bundle;
    // working memory: the map or its gradient, and where they are not read in place, features, input and output
    A *map, *features, *input, *output;
  };

  // which parts of the working memory exist
  Task memory(int64_t block, int64_t part_index) const {
    static thread_local Scratch memory;
    const int64_t bundle_width = bundle_ * width_;
    const int64_t in_size = kConvert ? round_up(problem_.input.size[3] * problem_.input.size[4] * bundle_width, L) : 0;
    const int64_t out_size = kConvert ? round_up(pixels_ * bundle_width, L) : 0;
    // the map and its gradient are needed one after the other
    const int64_t pitch =
        most(input_needed() ? Generator<T>::pixel_pitch(bundle_ * taps_) : 0, round_up(bundle_ * taps_, kPacked));
    const int64_t map_size = pixels_ * pitch + 2 * L;
    const int64_t features_size = span_size_ > 0 ? chunks_ * pixels_ * L : 0;
    Task t{};
    t.block = block;
    t.part = part_index;
    t.map = static_cast<A*>(memory.reserve((map_size + features_size + in_size + out_size + 4 * L) * sizeof(A)));
    t.features = t.map + round_up(map_size, L);
    t.input = t.features + features_size;
    t.output = t.input + in_size;
    return t;
  }

  void one(int64_t block, int64_t part_index) const {
    Task t = memory(block, part_index);
    const int64_t first = part_index * groups_ / parts_, last = (part_index + 1) * groups_ / parts_;
    const int64_t n0 = block * batch_ / blocks_, n1 = (block + 1) * batch_ / blocks_;
    for (t.n = n0; t.n < n1; ++t.n) {
      if (span_size_ > 0) pack_features(t.n, t.features);
      for (t.g = first; t.g < last; t.g += bundle_) {
        t.count = least(bundle_, last - t.g);
        t.width = t.count * width_;
        t.taps = t.count * taps_;
        t.first_image = t.n == n0;
        t.first_bundle = t.g == first;
        Problem p = problem_;
        p.type = sizeof(A) == 8 ? Type::f64 : Type::f32;
        p.output = part(problem_.output, t.n, t.g * width_, t.width, t.output, true);
        p.map.size[0] = 1;
        p.map.size[1] = t.count;
        if (input_needed()) gradient_of_input(t, p);
        if (map_needed_) gradient_of_map(t, p);
      }
    }
  }

  void gradient_of_input(const Task& t, Problem p) const {
    const int64_t pitch = Generator<T>::pixel_pitch(t.taps);
    p.input = part(gradients_.input, t.n, t.g * width_, t.width, t.input, false);
    const A* map = generator_->rows(t.n, 0, p.output.size[3], t.g * taps_, t.taps, t.map, pitch);
    set_map(p.map, const_cast<A*>(map), pitch);
    Gather<A, true>(p, this_thread()).run();
    if constexpr (kConvert) narrow_part(gradients_.input, t.n, t.g * width_, t.width, t.input);
  }

  // and of what it was generated from
  void gradient_of_map(const Task& t, Problem p) const {
    const int64_t pitch = round_up(t.taps, kPacked);
    p.input = part(problem_.input, t.n, t.g * width_, t.width, t.input, true);
    set_map(p.map, t.map, pitch);
    MapGradient<A>(p).run(this_thread());
    if (reduced_size_ > 0) {
      A* to = sums_ + t.part * reduced_size_ + t.n * chunks_ * pixels_ * L;
      for (int64_t c = 0; c < chunks_; ++c) {
        const A* weight = weight_ + (c * span_.taps + t.g * taps_) * L;
        product<A>({t.map, pitch, 1, weight, t.taps, to + c * pixels_ * L}, pixels_, !t.first_bundle);
      }
    }
    A* sums = span_sums(t.block);
    if (span_size_ > 0) add_span(t.map, pitch, t.features, sums + t.g * taps_ * L, t.taps, !t.first_image);
    if (bias_size_ > 0) add_bias(t.map, pitch, sums + span_size_ + t.g * taps_, t.taps, !t.first_image);
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

  void pack_features(int64_t n, A* to) const {
    const Activation& a = span_.reduced;
    for (int64_t c = 0; c < chunks_; ++c) {
      const T* from = static_cast<const T*>(a.data) + n * a.stride[0] + c * L * a.stride[1];
      const int lanes = static_cast<int>(least<int64_t>(L, a.size[1] - c * L));
      for (int64_t y = 0; y < a.size[3]; ++y, to += a.size[4] * L) {
        pack_lanes(from + y * a.stride[3], a.stride[1], a.stride[4], a.size[4], lanes, to);
      }
    }
  }

  void add_span(const A* gradient, int64_t pitch, const A* features, A* to, int64_t taps, bool add) const {
    for (int64_t j = 0; j < pixels_; j += kPixelBlock, add = true) {
      const int64_t depth = least(kPixelBlock, pixels_ - j);
      for (int64_t c = 0; c < chunks_; ++c) {
        product<A>({gradient + j * pitch, 1, pitch, features + (c * pixels_ + j) * L, depth, to + c * span_.taps * L},
                   taps, add);
      }
    }
  }

  void add_bias(const A* gradient, int64_t pitch, A* to, int64_t taps, bool add) const {
    for (int64_t t = 0; t < taps && !add; ++t) to[t] = 0;
    for (int64_t j = 0; j < pixels_; ++j, gradient += pitch) {
      for (int64_t t = 0; t < taps; ++t) to[t] += gradient[t];
    }
  }

  void narrow_part(const Activation& a, int64_t n, int64_t first, int64_t width, const A* from) const {
    constexpr int R = kNativeLanes<A>;
    T* to = static_cast<T*>(a.data) + n * a.stride[0] + first * a.stride[1];
    for (int64_t y = 0; y < a.size[3]; ++y) {
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
  int64_t batch_, groups_, width_, taps_, pixels_, chunks_, bundle_, blocks_, parts_;
  int64_t reduced_size_ = 0, span_size_ = 0, bias_size_ = 0;
};

void dynamic_backward(const Problem& p, const Span& span, const Gradients& gradients, const Parallel& parallel) {
  with_type(p.type, [&](auto type) { GeneratedBackward<decltype(type)>(p, span, gradients).run(parallel); });
}

}  // namespace
}  // namespace involution

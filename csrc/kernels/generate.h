// Kernel generation: rows of the map out of reduced features, map[pixel, tap] = Σ_r span[tap, r] · reduced[r, pixel].
//
// A matrix product in tiles of kPixels pixels × two vectors of taps, the features being broadcast from memory. The
// span weights are laid out once a call in panels [r][a vector of taps], all groups' taps in one sequence.
#pragma once

#include "../problem.h"
#include "convert.h"

namespace involution {
namespace {

#if defined(__AVX512F__)
constexpr int kPixels = 14;
#else
constexpr int kPixels = 6;
#endif

// `span` points to V panels, `panel` elements apart
template <class A, int P, int V>
INVOLUTION_INLINE void generate_tile(const A* span, int64_t panel, const A* bias, const A* reduced, int64_t feature,
                                     int64_t pixel, int64_t features, A* to, int64_t to_pixel) {
  constexpr int R = kNativeLanes<A>;
  Native<A> sum[P][V];
  unrolled<V>([&](auto v) INVOLUTION_INLINE_LAMBDA {
    const Native<A> start = load<Native<A>>(bias + v * R);
    unrolled<P>([&](auto p) INVOLUTION_INLINE_LAMBDA { sum[p][v] = start; });
  });
  for (int64_t r = 0; r < features; ++r) {
    Native<A> s[V];
    unrolled<V>([&](auto v) INVOLUTION_INLINE_LAMBDA {
      s[v] = load<Native<A>>(span + v * panel);
      pin(s[v]);
    });
    unrolled<P>([&](auto p) INVOLUTION_INLINE_LAMBDA {
      unrolled<V>([&](auto v) INVOLUTION_INLINE_LAMBDA { sum[p][v] += s[v] * reduced[p * pixel]; });
    });
    span += R;
    reduced += feature;
  }
  unrolled<P>([&](auto p) INVOLUTION_INLINE_LAMBDA {
    unrolled<V>([&](auto v) INVOLUTION_INLINE_LAMBDA { store(to + p * to_pixel + v * R, sum[p][v]); });
  });
}

// V panels for all pixels: the panels stay in the first-level cache
template <class A, int V>
void generate_panels(const A* span, int64_t panel, const A* bias, const A* reduced, int64_t feature, int64_t pixel,
                     int64_t pixels, int64_t features, A* to, int64_t to_pixel) {
  int64_t j = 0;
  const auto advance = [&](int64_t count) {
    j += count;
    reduced += count * pixel;
    to += count * to_pixel;
  };
  for (; j + kPixels <= pixels; advance(kPixels)) {
    generate_tile<A, kPixels, V>(span, panel, bias, reduced, feature, pixel, features, to, to_pixel);
  }
  if constexpr (kPixels > 7) {
    for (; j + 7 <= pixels; advance(7)) {
      generate_tile<A, 7, V>(span, panel, bias, reduced, feature, pixel, features, to, to_pixel);
    }
  }
  for (; j + 3 <= pixels; advance(3)) {
    generate_tile<A, 3, V>(span, panel, bias, reduced, feature, pixel, features, to, to_pixel);
  }
  for (; j < pixels; advance(1)) {
    generate_tile<A, 1, V>(span, panel, bias, reduced, feature, pixel, features, to, to_pixel);
  }
}

template <class T>
class Generator {
  using A = typename Arithmetic<T>::type;

  static constexpr int R = kNativeLanes<A>;

 public:
  explicit Generator(const Span& s) : span_(s), taps_(s.taps), features_(s.reduced.size[1]) {}

  // lays out the weights, which stay for this thread's next call
  void prepare(const Parallel& parallel) {
    static thread_local Scratch memory;
    const int64_t panels = ceil_div(taps_, R);
    A* weight = static_cast<A*>(memory.reserve((features_ + 1) * panels * R * int64_t(sizeof(A))));
    parallel_for(parallel, panels, ceil_div(kPrepareGrain, R * features_), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T* from = static_cast<const T*>(span_.weight) + i * R * features_;
        const int taps = static_cast<int>(least<int64_t>(R, taps_ - i * R));
        pack_panel(from, taps, weight + i * features_ * R);
      }
    });
    A* bias = weight + features_ * panels * R;
    for (int64_t t = 0; t < panels * R; ++t) {
      bias[t] = span_.bias != nullptr && t < taps_ ? load_one(static_cast<const T*>(span_.bias) + t) : A(0);
    }
    weight_ = weight;
    bias_ = bias;
  }

  int64_t features() const { return features_; }

  // elements from pixel to pixel of what `rows` writes: whole panels, however the first tap lies in its own
  static int64_t pixel_pitch(int64_t taps) { return round_up(taps + R - 1, kLanes<A>) + kLanes<A>; }

  // Writes taps [first, first + taps) of rows [y0, y1) of the map of image n for all their pixels, and returns where
  // the first of them lies.
  const A* rows(int64_t n, int64_t y0, int64_t y1, int64_t first, int64_t taps, A* to, int64_t to_pixel) const {
    const Activation& a = span_.reduced;
    const int64_t width = a.size[4], shift = first % R, panels = ceil_div(shift + taps, R), panel = features_ * R;
    const T* from = static_cast<const T*>(a.data) + n * a.stride[0];
    // consecutive rows are one
    const bool whole = sizeof(T) == sizeof(A) && a.stride[3] == width * a.stride[4];
    for (int64_t y = y0; y < y1; y += whole ? y1 - y0 : 1) {
      const int64_t pixels = whole ? (y1 - y0) * width : width;
      int64_t feature, pixel;
      const A* reduced = feature_rows(from + y * a.stride[3], &feature, &pixel);
      const A *weight = weight_ + (first - shift) * features_, *bias = bias_ + first - shift;
      A* at = to + (y - y0) * width * to_pixel;
      for (int64_t i = 0; i < panels; i += 2) {
        const auto run = i + 1 < panels ? generate_panels<A, 2> : generate_panels<A, 1>;
        run(weight + i * panel, panel, bias + i * R, reduced, feature, pixel, pixels, features_, at + i * R, to_pixel);
      }
    }
    return to + shift;
  }

 private:
  static constexpr int64_t kPrepareGrain = 32 << 10;

  // a row's features and their strides; half types are widened first
  const A* feature_rows(const T* from, int64_t* feature, int64_t* pixel) const {
    const Activation& a = span_.reduced;
    *feature = a.stride[1];
    *pixel = a.stride[4];
    if constexpr (sizeof(T) == sizeof(A)) {
      return from;
    } else {
      static thread_local Scratch memory;
      A* copy = static_cast<A*>(memory.reserve(a.size[4] * features_ * int64_t(sizeof(A))));
      for (int64_t j = 0; j < a.size[4]; ++j) {
        for (int64_t r = 0; r < features_; ++r) {
          copy[j * features_ + r] = load_one(from + j * a.stride[4] + r * a.stride[1]);
        }
      }
      *feature = 1;
      *pixel = features_;
      return copy;
    }
  }

  // [tap][r] -> [r][tap], with missing taps 0
  void pack_panel(const T* from, int taps, A* to) const {
    int64_t r = 0;
    for (; r + R <= features_; r += R) {
      Native<A> rows[R];
      for (int i = 0; i < R; ++i) rows[i] = i < taps ? load_as<R>(from + i * features_ + r) : Native<A>{};
      transpose<R>(rows);
      for (int i = 0; i < R; ++i) store(to + (r + i) * R, rows[i]);
    }
    for (; r < features_; ++r) {
      for (int i = 0; i < R; ++i) to[r * R + i] = i < taps ? load_one(from + i * features_ + r) : A(0);
    }
  }

  Span span_;
  int64_t taps_, features_;
  const A* weight_ = nullptr;
  const A* bias_ = nullptr;
};

}  // namespace
}  // namespace involution

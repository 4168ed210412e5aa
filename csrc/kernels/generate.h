// Kernel generation: rows of the map out of reduced features, map[pixel, tap] = Σ_r span[tap, r] · reduced[r, pixel].
//
// A matrix product in tiles of kPixels pixels × two vectors of taps, the features being broadcast from memory. The
// span weights are laid out once a call in panels [r][a vector of taps], all groups' taps in one sequence. Where the
// processor multiplies bfloat16, a lane holds two features' weights, and r counts pairs of features.
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

// `span` points to V panels, `panel` elements apart; F is the type of the features, A or bfloat16 in pairs
template <class A, int P, int V, class F>
INVOLUTION_INLINE void generate_tile(const A* span, int64_t panel, const A* bias, const F* reduced, int64_t feature,
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
      unrolled<V>([&](auto v) INVOLUTION_INLINE_LAMBDA {
        if constexpr (std::is_same_v<F, A>) {
          sum[p][v] += s[v] * reduced[p * pixel];
        } else {
          add_pair(sum[p][v], s[v], reduced + p * pixel);
        }
      });
    });
    span += R;
    reduced += feature;
  }
  unrolled<P>([&](auto p) INVOLUTION_INLINE_LAMBDA {
    unrolled<V>([&](auto v) INVOLUTION_INLINE_LAMBDA { store(to + p * to_pixel + v * R, sum[p][v]); });
  });
}

// V panels for all pixels: the panels stay in the first-level cache
template <class A, int V, class F>
void generate_panels(const A* span, int64_t panel, const A* bias, const F* reduced, int64_t feature, int64_t pixel,
                     int64_t pixels, int64_t features, A* to, int64_t to_pixel) {
  int64_t j = 0;
  const auto advance = [&](int64_t count) {
    j += count;
    reduced += count * pixel;
    to += count * to_pixel;
  };
  for (; j + kPixels <= pixels; advance(kPixels)) {
    generate_tile<A, kPixels, V, F>(span, panel, bias, reduced, feature, pixel, features, to, to_pixel);
  }
  if constexpr (kPixels > 7) {
    for (; j + 7 <= pixels; advance(7)) {
      generate_tile<A, 7, V, F>(span, panel, bias, reduced, feature, pixel, features, to, to_pixel);
    }
  }
  for (; j + 3 <= pixels; advance(3)) {
    generate_tile<A, 3, V, F>(span, panel, bias, reduced, feature, pixel, features, to, to_pixel);
  }
  for (; j < pixels; advance(1)) {
    generate_tile<A, 1, V, F>(span, panel, bias, reduced, feature, pixel, features, to, to_pixel);
  }
}

// Paired: of bfloat16, on a processor that multiplies it
template <class T, bool Paired = false>
class Generator {
  using A = typename Arithmetic<T>::type;

  static constexpr int R = kNativeLanes<A>;
  // features as the product reads them, and how many of them at once
  using Feature = std::conditional_t<Paired, T, A>;
  static constexpr int kStep = Paired ? 2 : 1;

 public:
  explicit Generator(const Span& s)
      : span_(s), taps_(s.taps), features_(s.reduced.size[1]), steps_(ceil_div(features_, kStep)) {}

  // lays out the weights, which stay for this thread's next call
  void prepare(const Parallel& parallel) {
    static thread_local Scratch memory;
    const int64_t panels = ceil_div(taps_, R);
    A* weight = static_cast<A*>(memory.reserve((steps_ + 1) * panels * R * int64_t(sizeof(A))));
    parallel_for(parallel, panels, ceil_div(kPrepareGrain, R * features_), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T* from = static_cast<const T*>(span_.weight) + i * R * features_;
        const int taps = static_cast<int>(least<int64_t>(R, taps_ - i * R));
        pack_panel(from, taps, weight + i * steps_ * R);
      }
    });
    A* bias = weight + steps_ * panels * R;
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
    const int64_t width = a.size[4], shift = first % R, panels = ceil_div(shift + taps, R), panel = steps_ * R;
    const T* from = static_cast<const T*>(a.data) + n * a.stride[0];
    // consecutive rows are one
    const bool whole = a.stride[3] == width * a.stride[4];
    for (int64_t y = y0; y < y1; y += whole ? y1 - y0 : 1) {
      const int64_t pixels = whole ? (y1 - y0) * width : width;
      int64_t feature, pixel;
      const Feature* reduced = feature_rows(from + y * a.stride[3], pixels, &feature, &pixel);
      const A *weight = weight_ + (first - shift) * steps_, *bias = bias_ + first - shift;
      A* at = to + (y - y0) * width * to_pixel;
      for (int64_t i = 0; i < panels; i += 2) {
        const auto run = i + 1 < panels ? generate_panels<A, 2, Feature> : generate_panels<A, 1, Feature>;
        run(weight + i * panel, panel, bias + i * R, reduced, feature, pixel, pixels, steps_, at + i * R, to_pixel);
      }
    }
    return to + shift;
  }

 private:
  static constexpr int64_t kPrepareGrain = 32 << 10;

  // pixels' features and their strides, from one read to the next
  const Feature* feature_rows(const T* from, int64_t pixels, int64_t* feature, int64_t* pixel) const {
    const Activation& a = span_.reduced;
    *feature = a.stride[1] * kStep;
    *pixel = a.stride[4];
    if constexpr (std::is_same_v<T, Feature>) {
      if (kStep == 1 || (a.stride[1] == 1 && features_ % kStep == 0)) return from;
    }
    static thread_local Scratch memory;
    *feature = kStep;
    *pixel = steps_ * kStep;
    Feature* copy = static_cast<Feature*>(memory.reserve(pixels * *pixel * int64_t(sizeof(Feature))));
    for (int64_t j = 0; j < pixels; ++j, from += a.stride[4]) {
      Feature* to = copy + j * *pixel;
      if constexpr (Paired) {
        for (int64_t r = 0; r < *pixel; ++r) to[r] = r < features_ ? from[r * a.stride[1]] : T{};
      } else {
        widen_run(from, a.stride[1], features_, to);
      }
    }
    return copy;
  }

  // [tap][r] -> [r][tap], with missing taps 0
  void pack_panel(const T* from, int taps, A* to) const {
    const int64_t whole = features_ / kStep;
    int64_t r = 0;
    for (; r + R <= whole; r += R) {
      Native<A> rows[R];
      for (int i = 0; i < R; ++i) rows[i] = i < taps ? weights(from + i * features_ + r * kStep) : Native<A>{};
      transpose<R>(rows);
      for (int i = 0; i < R; ++i) store(to + (r + i) * R, rows[i]);
    }
    for (; r < steps_; ++r) {
      for (int i = 0; i < R; ++i) {
        A& one = to[r * R + i];
        if constexpr (Paired) {
          T pair[2] = {};
          if (i < taps) std::memcpy(pair, from + i * features_ + r * 2, r < whole ? 4 : 2);
          std::memcpy(&one, pair, 4);
        } else {
          one = i < taps ? load_one(from + i * features_ + r) : A(0);
        }
      }
    }
  }

  // a vector of a tap's weights, pairs of them as they are
  static Native<A> weights(const T* from) {
    if constexpr (Paired) {
      Native<A> pairs;
      std::memcpy(&pairs, from, sizeof(pairs));
      return pairs;
    } else {
      return load_as<R>(from);
    }
  }

  Span span_;
  // the products add up `steps_` times
  int64_t taps_, features_, steps_;
  const A* weight_ = nullptr;
  const A* bias_ = nullptr;
};

}  // namespace
}  // namespace involution

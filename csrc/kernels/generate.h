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
  for (int v = 0; v < V; ++v) {
    const Native<A> start = load<Native<A>>(bias + v * R);
    for (int p = 0; p < P; ++p) sum[p][v] = start;
  }
  for (int64_t r = 0; r < features; ++r) {
    Native<A> s[V];
    for (int v = 0; v < V; ++v) {
      s[v] = load<Native<A>>(span + v * panel);
      pin(s[v]);
    }
    for (int p = 0; p < P; ++p) {
      for (int v = 0; v < V; ++v) sum[p][v] += s[v] * reduced[p * pixel];
    }
    span += R;
    reduced += feature;
  }
  for (int p = 0; p < P; ++p) {
    for (int v = 0; v < V; ++v) store(to + p * to_pixel + v * R, sum[p][v]);
  }
}

template <class A, int P>
void generate_pixels(const A* span, const A* bias, const A* reduced, int64_t feature, int64_t pixel, int64_t features,
                     int64_t panels, A* to, int64_t to_pixel) {
  constexpr int R = kNativeLanes<A>;
  const int64_t panel = features * R;
  for (; panels >= 2; panels -= 2) {
    generate_tile<A, P, 2>(span, panel, bias, reduced, feature, pixel, features, to, to_pixel);
    span += 2 * panel;
    bias += 2 * R;
    to += 2 * R;
  }
  if (panels) generate_tile<A, P, 1>(span, panel, bias, reduced, feature, pixel, features, to, to_pixel);
}

template <class T>
class Generator {
  using A = typename Arithmetic<T>::type;

  static constexpr int R = kNativeLanes<A>;

 public:
  explicit Generator(const Span& s) : span_(s), taps_(s.taps), features_(s.reduced.size[1]) {}

  // lays out the weights; they stay for this thread's next call
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

  // elements from pixel to pixel of what `row` writes: whole panels, however the first tap lies in its own
  static int64_t pixel_pitch(int64_t taps) { return round_up(taps + R, kLanes<A>) + kLanes<A>; }

  int64_t features() const { return features_; }

  // Writes taps [first, first + taps) of the map's row y of image n for all its pixels, and returns where the first
  // of them lies.
  const A* row(int64_t n, int64_t y, int64_t first, int64_t taps, A* to,
           int64_t to_pixel) const {
    const Activation& a = span_.reduced;
    const int64_t width = a.size[4];
    const T* from = static_cast<const T*>(a.data) + n * a.stride[0] + y * a.stride[3];
    const A* reduced;
    int64_t feature, pixel;
    if constexpr (sizeof(T) == sizeof(A)) {
      reduced = from;
      feature = a.stride[1];
      pixel = a.stride[4];
    } else {
      static thread_local Scratch memory;
      A* copy = static_cast<A*>(memory.reserve(width * features_ * int64_t(sizeof(A))));
      for (int64_t j = 0; j < width; ++j) {
        for (int64_t r = 0; r < features_; ++r) {
          copy[j * features_ + r] = load_one(from + j * a.stride[4] + r * a.stride[1]);
        }
      }
      reduced = copy;
      feature = 1;
      pixel = features_;
    }
    const int64_t shift = first % R, panels = ceil_div(shift + taps, R);
    const auto run = [&](auto function, int64_t j) {
      function(weight_ + (first - shift) * features_, bias_ + first - shift, reduced + j * pixel, feature, pixel,
               features_, panels, to + j * to_pixel, to_pixel);
    };
    int64_t j = 0;
    for (; j + kPixels <= width; j += kPixels) run(generate_pixels<A, kPixels>, j);
    if constexpr (kPixels > 7) {
      if (j + 7 <= width) run(generate_pixels<A, 7>, j), j += 7;
    }
    for (; j + 3 <= width; j += 3) run(generate_pixels<A, 3>, j);
    for (; j < width; ++j) run(generate_pixels<A, 1>, j);
    return to + shift;
  }

 private:
  static constexpr int64_t kPrepareGrain = 32 << 10;

  // [tap][r] -> [r][tap], the taps that are missing 0
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

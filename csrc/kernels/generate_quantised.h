// Kernel generation from 8-bit reduced features and span weights: map[pixel, tap] = scale[tap] · Σ_r span[tap, r] ·
// reduced[pixel, r] + bias[tap].
//
// Where the processor has VNNI, sums of integers, four features an instruction; elsewhere floats, which hold these sums
// exactly up to 518 features.
#pragma once

#include "generate.h"

namespace involution {
namespace {

#if defined(__AVX512F__)
#define INVOLUTION_VNNI

// sum += four unsigned bytes times four signed ones in each lane; written out, as this set's flags do not name VNNI
INVOLUTION_INLINE void add_fours(__m512i& sum, __m512i bytes, __m512i span) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "v"(span));
}

// `span` points to V panels [feature / 4][tap][4], `panel` bytes apart
template <int P, int V>
INVOLUTION_INLINE void vnni_tile(const int8_t* span, int64_t panel, const float* scale, const float* bias,
                                 const uint8_t* reduced, int64_t pixel, int64_t features, float* to, int64_t to_pixel) {
  constexpr int R = 16;
  __m512i sum[P][V];
  unrolled<V>([&](auto v) INVOLUTION_INLINE_LAMBDA {
    unrolled<P>([&](auto p) INVOLUTION_INLINE_LAMBDA { sum[p][v] = __m512i{}; });
  });
  for (int64_t r = 0; r < features; r += 4) {
    __m512i s[V];
    unrolled<V>([&](auto v) INVOLUTION_INLINE_LAMBDA { std::memcpy(&s[v], span + v * panel, sizeof(s[v])); });
    unrolled<P>([&](auto p) INVOLUTION_INLINE_LAMBDA {
      int32_t four;
      std::memcpy(&four, reduced + p * pixel, 4);
      const __m512i bytes = _mm512_set1_epi32(four);
      unrolled<V>([&](auto v) INVOLUTION_INLINE_LAMBDA { add_fours(sum[p][v], bytes, s[v]); });
    });
    span += 4 * R;
    reduced += 4;
  }
  unrolled<V>([&](auto v) INVOLUTION_INLINE_LAMBDA {
    const Native<float> by = load<Native<float>>(scale + v * R), plus = load<Native<float>>(bias + v * R);
    unrolled<P>([&](auto p) INVOLUTION_INLINE_LAMBDA {
      const auto whole = __builtin_convertvector(reinterpret_cast<Ints<R>>(sum[p][v]), Native<float>);
      store(to + p * to_pixel + v * R, whole * by + plus);
    });
  });
}

template <int V>
void vnni_panels(const int8_t* span, int64_t panel, const float* scale, const float* bias, const uint8_t* reduced,
                 int64_t pixel, int64_t pixels, int64_t features, float* to, int64_t to_pixel) {
  int64_t j = 0;
  const auto advance = [&](int64_t count) {
    j += count;
    reduced += count * pixel;
    to += count * to_pixel;
  };
  for (; j + 14 <= pixels; advance(14)) {
    vnni_tile<14, V>(span, panel, scale, bias, reduced, pixel, features, to, to_pixel);
  }
  for (; j + 7 <= pixels; advance(7)) {
    vnni_tile<7, V>(span, panel, scale, bias, reduced, pixel, features, to, to_pixel);
  }
  for (; j + 4 <= pixels; advance(4)) {
    vnni_tile<4, V>(span, panel, scale, bias, reduced, pixel, features, to, to_pixel);
  }
  for (; j < pixels; advance(1)) {
    vnni_tile<1, V>(span, panel, scale, bias, reduced, pixel, features, to, to_pixel);
  }
}

inline bool has_vnni() {
  static const bool found = __builtin_cpu_supports("avx512vnni");
  return found;
}
#else
inline bool has_vnni() { return false; }
#endif

class QuantisedGenerator {
  using A = float;

  static constexpr int R = kNativeLanes<A>;

 public:
  explicit QuantisedGenerator(const Span& s)
      : span_(s),
        taps_(s.taps),
        features_(s.reduced.size[1]),
        fours_(round_up(features_, 4)),
        panels_(ceil_div(taps_, R)),
        integers_(has_vnni()) {}

  // lays out the weights, which stay for this thread's next call
  void prepare(const Parallel& parallel) {
    static thread_local Scratch memory;
    const int64_t width = panels_ * R, bytes = integers_ ? fours_ * width : features_ * width * int64_t(sizeof(A));
    float* scale = static_cast<float*>(memory.reserve(2 * width * int64_t(sizeof(A)) + bytes));
    float* bias = scale + width;
    void* weight = bias + width;
    for (int64_t t = 0; t < width; ++t) {
      scale[t] = t < taps_ ? span_.scale[t] : 0;
      bias[t] = span_.bias != nullptr && t < taps_ ? static_cast<const float*>(span_.bias)[t] : 0;
    }
    parallel_for(parallel, panels_, ceil_div(32 << 10, R * features_), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) pack_panel(i, scale, weight);
    });
    scale_ = scale;
    bias_ = bias;
    weight_ = weight;
  }

  int64_t features() const { return features_; }

  static int64_t pixel_pitch(int64_t taps) { return Generator<A>::pixel_pitch(taps); }

  // as Generator::rows
  const A* rows(int64_t n, int64_t y0, int64_t y1, int64_t first, int64_t taps, A* to, int64_t to_pixel) const {
    const Activation& a = span_.reduced;
    const int64_t width = a.size[4], shift = first % R, panels = ceil_div(shift + taps, R);
    const uint8_t* from = static_cast<const uint8_t*>(a.data) + n * a.stride[0];
    // consecutive rows are one
    const bool whole = neighbours() && a.stride[3] == width * a.stride[4];
    for (int64_t y = y0; y < y1; y += whole ? y1 - y0 : 1) {
      const int64_t pixels = whole ? (y1 - y0) * width : width;
      A* at = to + (y - y0) * width * to_pixel;
      const int64_t panel = (first - shift) / R;
#if defined(INVOLUTION_VNNI)
      if (integers_) {
        int64_t pixel;
        const uint8_t* reduced = bytes_of_row(from + y * a.stride[3], &pixel);
        const int64_t size = fours_ * R;
        for (int64_t i = 0; i < panels; i += 2) {
          const auto run = i + 1 < panels ? vnni_panels<2> : vnni_panels<1>;
          run(static_cast<const int8_t*>(weight_) + (panel + i) * size, size, scale_ + (panel + i) * R,
              bias_ + (panel + i) * R, reduced, pixel, pixels, fours_, at + i * R, to_pixel);
        }
        continue;
      }
#endif
      const A* reduced = floats_of_row(from + y * a.stride[3]);
      const int64_t size = features_ * R;
      for (int64_t i = 0; i < panels; i += 2) {
        const auto run = i + 1 < panels ? generate_panels<A, 2, A> : generate_panels<A, 1, A>;
        run(static_cast<const A*>(weight_) + (panel + i) * size, size, bias_ + (panel + i) * R, reduced, 1, features_,
            pixels, features_, at + i * R, to_pixel);
      }
    }
    return to + shift;
  }

 private:
  // whether features can be read as they are
  bool neighbours() const { return integers_ && span_.reduced.stride[1] == 1 && fours_ == features_; }

  // a row's features as neighbours, with zeros up to a multiple of four
  const uint8_t* bytes_of_row(const uint8_t* from, int64_t* pixel) const {
    const Activation& a = span_.reduced;
    *pixel = a.stride[4];
    if (neighbours()) return from;
    static thread_local Scratch memory;
    uint8_t* copy = static_cast<uint8_t*>(memory.reserve(a.size[4] * fours_));
    for (int64_t j = 0; j < a.size[4]; ++j) {
      for (int64_t r = 0; r < fours_; ++r) {
        copy[j * fours_ + r] = r < features_ ? from[j * a.stride[4] + r * a.stride[1]] : 0;
      }
    }
    *pixel = fours_;
    return copy;
  }

  const A* floats_of_row(const uint8_t* from) const {
    const Activation& a = span_.reduced;
    static thread_local Scratch memory;
    A* copy = static_cast<A*>(memory.reserve(a.size[4] * features_ * int64_t(sizeof(A))));
    for (int64_t j = 0; j < a.size[4]; ++j) {
      for (int64_t r = 0; r < features_; ++r) copy[j * features_ + r] = from[j * a.stride[4] + r * a.stride[1]];
    }
    return copy;
  }

  void pack_panel(int64_t i, const float* scale, void* weight) const {
    const int8_t* from = static_cast<const int8_t*>(span_.weight) + i * R * features_;
    const int taps = static_cast<int>(least<int64_t>(R, taps_ - i * R));
    if (integers_) {
      int8_t* to = static_cast<int8_t*>(weight) + i * fours_ * R;
      int64_t r = 0;
      // four features are one element
      for (; taps == R && r + 4 * R <= features_; r += 4 * R) {
        Native<A> rows[R];
        for (int t = 0; t < R; ++t) std::memcpy(&rows[t], from + t * features_ + r, sizeof(rows[t]));
        transpose<R>(rows);
        for (int t = 0; t < R; ++t) std::memcpy(to + (r / 4 + t) * 4 * R, &rows[t], sizeof(rows[t]));
      }
      for (; r < fours_; r += 4) {
        for (int t = 0; t < R; ++t) {
          int8_t four[4] = {0, 0, 0, 0};
          if (t < taps) std::memcpy(four, from + t * features_ + r, size_t(least<int64_t>(4, features_ - r)));
          std::memcpy(to + r * R + 4 * t, four, 4);
        }
      }
      return;
    }
    A* to = static_cast<A*>(weight) + i * features_ * R;
    for (int64_t r = 0; r < features_; ++r) {
      for (int t = 0; t < R; ++t) to[r * R + t] = t < taps ? scale[i * R + t] * from[t * features_ + r] : A(0);
    }
  }

  Span span_;
  int64_t taps_, features_, fours_, panels_;
  bool integers_;
  const A *scale_ = nullptr, *bias_ = nullptr;
  const void* weight_ = nullptr;
};

}  // namespace
}  // namespace involution

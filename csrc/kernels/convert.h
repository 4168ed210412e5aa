// Storage types, and moving channels between tensors of any strides and slabs [pixel][lane] of the arithmetic type.
#pragma once

#include "../problem.h"
#include "simd.h"

#if defined(__AVX512F__)
#include <cpuid.h>
#endif

namespace involution {
namespace {

#if defined(__aarch64__)
using Float16 = __fp16;  // GCC has _Float16 there from version 13
#else
using Float16 = _Float16;
#endif

struct BFloat16 {
  uint16_t bits;
};

struct Half {
  uint16_t bits;
};

// an 8-bit level; its scale is in what it is multiplied by
struct UInt8 {
  uint8_t level;
};

template <class T>
struct Arithmetic {
  using type = T;
};
template <>
struct Arithmetic<BFloat16> {
  using type = float;
};
template <>
struct Arithmetic<Half> {
  using type = float;
};
template <>
struct Arithmetic<UInt8> {
  using type = float;
};

// calls body(T()) with T being the problem's storage type; the only place that turns `Type` into a type
template <class F>
void with_type(Type type, const F& body) {
  switch (type) {
    case Type::f32:
      return body(float());
    case Type::f64:
      return body(double());
    case Type::bf16:
      return body(BFloat16());
    case Type::f16:
      return body(Half());
  }
}

template <int Lanes>
using Bits16 = typename VectorOf<uint16_t, 2 * Lanes>::type;
template <int Lanes>
using Bits32 = typename VectorOf<uint32_t, 4 * Lanes>::type;
template <int Lanes>
using Floats = typename VectorOf<float, 4 * Lanes>::type;

template <int Lanes>
INVOLUTION_INLINE Floats<Lanes> widen(Bits16<Lanes> x, BFloat16) {
#if defined(__AVX2__)
  // GCC converts each half on its own
  if constexpr (Lanes == 8 && kNativeLanes<float> == 8) {
    return (Floats<8>)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)x), 16);
  }
#endif
  return reinterpret_cast<Floats<Lanes>>(__builtin_convertvector(x, Bits32<Lanes>) << 16);
}

// In the upper half of each lane: round to nearest even. NaN stays NaN, as it is an operation's own or one of
// bfloat16's: its lower half is 0 and never carries.
template <int Lanes>
INVOLUTION_INLINE Bits32<Lanes> rounded(Floats<Lanes> x) {
  const auto bits = reinterpret_cast<Bits32<Lanes>>(x);
  return bits + 0x7fff + ((bits >> 16) & 1);
}

template <int Lanes>
INVOLUTION_INLINE Bits16<Lanes> narrow(Floats<Lanes> x, BFloat16) {
  return __builtin_convertvector(rounded<Lanes>(x) >> 16, Bits16<Lanes>);
}

template <int Lanes>
INVOLUTION_INLINE Floats<Lanes> widen(Bits16<Lanes> x, Half) {
#if defined(__AVX512F__)
  if constexpr (Lanes == 16) return (Floats<16>)_mm512_maskz_cvtph_ps(0xffff, (__m256i)x);
#endif
#if defined(__F16C__)
  if constexpr (Lanes == 8) return (Floats<8>)_mm256_cvtph_ps((__m128i)x);
  if constexpr (Lanes == 4 && kNativeLanes<float> == 8) {
    int64_t bits;
    std::memcpy(&bits, &x, 8);
    return (Floats<4>)_mm_cvtph_ps(_mm_cvtsi64_si128(bits));
  }
#endif
  Floats<Lanes> out;
  for (int i = 0; i < Lanes; ++i) {
    uint16_t bits = x[i];
    Float16 half;
    std::memcpy(&half, &bits, 2);
    out[i] = static_cast<float>(half);
  }
  return out;
}

template <int Lanes>
INVOLUTION_INLINE Bits16<Lanes> narrow(Floats<Lanes> x, Half) {
#if defined(__AVX512F__)
  if constexpr (Lanes == 16) return (Bits16<16>)_mm512_maskz_cvtps_ph(0xffff, (__m512)x, _MM_FROUND_TO_NEAREST_INT);
#endif
#if defined(__F16C__)
  if constexpr (Lanes == 8) return (Bits16<8>)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT);
#endif
  Bits16<Lanes> out;
  for (int i = 0; i < Lanes; ++i) {
    Float16 half = static_cast<Float16>(x[i]);
    uint16_t bits;
    std::memcpy(&bits, &half, 2);
    out[i] = bits;
  }
  return out;
}

template <int Lanes>
using Bytes = typename VectorOf<uint8_t, Lanes>::type;
template <int Lanes>
using Ints = typename VectorOf<int32_t, 4 * Lanes>::type;

#if defined(__AVX512F__)
// all lanes; without it GCC warns of what its own headers leave undefined
constexpr __mmask16 kAll = 0xffff;
#endif

// GCC converts bytes one by one, so the native vectors have their own instructions
template <int Lanes>
INVOLUTION_INLINE Floats<Lanes> widen(Bytes<Lanes> x, UInt8) {
#if defined(__AVX512F__)
  if constexpr (Lanes == 16) {
    return __builtin_convertvector((Ints<Lanes>)_mm512_maskz_cvtepu8_epi32(kAll, (__m128i)x), Floats<Lanes>);
  }
#endif
#if defined(__AVX2__)
  if constexpr (Lanes == 8) {
    int64_t bytes;
    std::memcpy(&bytes, &x, 8);
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bytes)));
  }
#elif defined(__SSE2__)
  if constexpr (Lanes == 4) {
    int32_t bytes;
    std::memcpy(&bytes, &x, 4);
    const __m128i none = _mm_setzero_si128();
    return _mm_cvtepi32_ps(_mm_unpacklo_epi16(_mm_unpacklo_epi8(_mm_cvtsi32_si128(bytes), none), none));
  }
#endif
  return __builtin_convertvector(__builtin_convertvector(x, Ints<Lanes>), Floats<Lanes>);
}

// round to nearest even, at most 255 and at least 0, which NaN becomes
template <int Lanes>
INVOLUTION_INLINE Bytes<Lanes> narrow(Floats<Lanes> x, UInt8) {
#if defined(__AVX512F__)
  if constexpr (Lanes == 16) {
    const __m512 from_0 = _mm512_maskz_max_ps(kAll, x, Floats<Lanes>{});
    const __m512i whole = _mm512_maskz_cvtps_epi32(kAll, _mm512_maskz_min_ps(kAll, from_0, Floats<Lanes>{} + 255));
    return (Bytes<Lanes>)_mm512_maskz_cvtepi32_epi8(kAll, whole);
  }
#endif
#if defined(__AVX2__)
  if constexpr (Lanes == 8) {
    const __m256 inside = _mm256_min_ps(_mm256_max_ps(x, _mm256_setzero_ps()), _mm256_set1_ps(255));
    const __m256i whole = _mm256_cvtps_epi32(inside);
    const __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    const int64_t bytes = _mm_cvtsi128_si64(_mm_packus_epi16(halves, halves));
    Bytes<Lanes> out;
    std::memcpy(&out, &bytes, 8);
    return out;
  }
#endif
  x = x > 0 ? x : Floats<Lanes>{};
  x = x < 255 ? x : Floats<Lanes>{} + 255;
  // the sum's last bit is 1
  const Floats<Lanes> whole = x + 8388608.f;
  return __builtin_convertvector(reinterpret_cast<Ints<Lanes>>(whole) & 255, Bytes<Lanes>);
}

template <class T, int Lanes>
struct Stored {
  using type = Bits16<Lanes>;
};
template <int Lanes>
struct Stored<UInt8, Lanes> {
  using type = Bytes<Lanes>;
};

// `Lanes` neighbouring elements as vector of the arithmetic type
template <int Lanes, class T, class A = typename Arithmetic<T>::type>
INVOLUTION_INLINE typename VectorOf<A, Lanes * sizeof(A)>::type load_as(const T* from) {
  if constexpr (sizeof(T) == sizeof(A)) {
    return load<typename VectorOf<A, Lanes * sizeof(A)>::type>(from);
  } else {
    typename Stored<T, Lanes>::type bits;
    std::memcpy(&bits, from, sizeof(bits));
    return widen<Lanes>(bits, T());
  }
}

template <int Lanes, class T, class A = typename Arithmetic<T>::type>
INVOLUTION_INLINE void store_as(T* to, typename VectorOf<A, Lanes * sizeof(A)>::type value) {
  if constexpr (sizeof(T) == sizeof(A)) {
    store(to, value);
  } else {
    typename Stored<T, Lanes>::type bits = narrow<Lanes>(value, T());
    std::memcpy(to, &bits, sizeof(bits));
  }
}

template <class T>
INVOLUTION_INLINE typename Arithmetic<T>::type load_one(const T* from) {
  if constexpr (sizeof(T) == sizeof(typename Arithmetic<T>::type)) {
    return *from;
  } else if constexpr (sizeof(T) == 1) {
    return from->level;
  } else {
    return widen<8>(Bits16<8>{from->bits}, T())[0];
  }
}

template <class T>
INVOLUTION_INLINE void store_one(T* to, typename Arithmetic<T>::type value) {
  if constexpr (sizeof(T) == sizeof(value)) {
    *to = value;
  } else if constexpr (sizeof(T) == 1) {
    to->level = narrow<8>(Floats<8>{value}, T())[0];
  } else {
    to->bits = narrow<8>(Floats<8>{value}, T())[0];
  }
}

template <class V, int... I>
INVOLUTION_INLINE void interleave(V a, V b, V& low, V& high, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  low = __builtin_shufflevector(a, b, (I / 2 + (I % 2) * n)...);
  high = __builtin_shufflevector(a, b, (n / 2 + I / 2 + (I % 2) * n)...);
}

// rows become columns: log2(N) rounds of interleaving row i with row i + N/2
template <int N, class V>
INVOLUTION_INLINE void transpose(V (&rows)[N]) {
  for (int round = 1; round < N; round *= 2) {
    V next[N];
    for (int i = 0; i < N / 2; ++i) {
      interleave(rows[i], rows[i + N / 2], next[2 * i], next[2 * i + 1], std::make_integer_sequence<int, N>());
    }
    for (int i = 0; i < N; ++i) rows[i] = next[i];
  }
}

template <class V, int... I>
INVOLUTION_INLINE auto joined(V a, V b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, I...);
}

// Whether this set has the instruction that multiplies bfloat16, two products in each lane, and whether the processor
// has it. It is no set of its own, since little depends on it.
#if defined(__AVX512F__)
constexpr bool kPairs = true;

inline bool multiplies_pairs() {
  // __builtin_cpu_supports wants a symbol for it that not every libgcc has
  static const bool found = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 5 & 1) != 0;
  }();
  return found;
}
#else
constexpr bool kPairs = false;

constexpr bool multiplies_pairs() { return false; }
#endif

// sum + x[1] · w[1] + x[0] · w[0], x being two elements in each lane and w two neighbours in memory
template <class V>
INVOLUTION_INLINE void add_pair([[maybe_unused]] Native<float>& sum, [[maybe_unused]] V x,
                                [[maybe_unused]] const BFloat16* w) {
#if defined(__AVX512F__)
  struct __attribute__((packed, may_alias)) Pair {
    uint32_t both;
  };
  // in assembly, as the set is compiled without it
  asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(x), "m"(*reinterpret_cast<const Pair*>(w)));
#endif
}

// four neighbours of each of Lanes / 4 rows, `row` elements apart
template <int Lanes, class T, class A = typename Arithmetic<T>::type>
INVOLUTION_INLINE auto load_fours(const T* from, int64_t row) {
  if constexpr (Lanes == 4) {
    return load_as<4>(from);
  } else {
    return joined(load_fours<Lanes / 2>(from, row), load_fours<Lanes / 2>(from + Lanes / 8 * row, row),
                  std::make_integer_sequence<int, Lanes>());
  }
}

// within fours: elements Low, Low + 1 of a and b in turn, or pairs of them
template <int Low, bool Pairs, class V, int... I>
INVOLUTION_INLINE V mixed(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  if constexpr (Pairs) {
    return __builtin_shufflevector(a, b, (I / 4 * 4 + Low + I % 2 + I % 4 / 2 * n)...);
  } else {
    return __builtin_shufflevector(a, b, (I / 4 * 4 + Low + I % 4 / 2 + I % 2 * n)...);
  }
}

// Calls each(column, vector of Lanes rows) for four columns of a matrix in memory. The loads bring the rows to their
// lanes in fours, so that half as many shuffles are left as for a square in registers.
template <int Lanes, class T, class F>
INVOLUTION_INLINE void transpose_fours(const T* from, int64_t row, const F& each) {
  constexpr auto all = std::make_integer_sequence<int, Lanes>();
  const auto a = load_fours<Lanes>(from, 4 * row), b = load_fours<Lanes>(from + row, 4 * row);
  const auto c = load_fours<Lanes>(from + 2 * row, 4 * row), d = load_fours<Lanes>(from + 3 * row, 4 * row);
  const auto ab0 = mixed<0, false>(a, b, all), ab2 = mixed<2, false>(a, b, all);
  const auto cd0 = mixed<0, false>(c, d, all), cd2 = mixed<2, false>(c, d, all);
  each(0, mixed<0, true>(ab0, cd0, all));
  each(1, mixed<2, true>(ab0, cd0, all));
  each(2, mixed<0, true>(ab2, cd2, all));
  each(3, mixed<2, true>(ab2, cd2, all));
}

// [pixel][lane] with `pitch` from pixel to pixel <- `lanes` channels of `pixels` pixels; the other lanes become 0
template <class T, class A = typename Arithmetic<T>::type>
void pack_lanes(const T* from, int64_t channel, int64_t pixel, int64_t pixels, int lanes, A* slab) {
  constexpr int L = kLanes<A>, R = kNativeLanes<A>;
  if (channel == 1 && lanes == L) {
    for (int64_t p = 0; p < pixels; ++p) {
      for (int i = 0; i < L; i += R) store(slab + p * L + i, load_as<R>(from + p * pixel + i));
    }
    return;
  }
  int64_t done = 0;
  if (pixel == 1 && pixels >= R) {
    while (done < pixels) {
      // the last block overlaps the one before it
      int64_t at = least(done, pixels - R);
      for (int first = 0; first < L; first += R) {
        Native<A> rows[R];
        for (int i = 0; i < R; ++i) {
          rows[i] = first + i < lanes ? load_as<R>(from + (first + i) * channel + at) : Native<A>{};
        }
        transpose<R>(rows);
        for (int i = 0; i < R; ++i) store(slab + (at + i) * L + first, rows[i]);
      }
      done = at + R;
    }
    return;
  }
  for (int64_t p = 0; p < pixels; ++p) {
    for (int i = 0; i < L; ++i) slab[p * L + i] = i < lanes ? load_one(from + p * pixel + i * channel) : A(0);
  }
}

// the reverse
template <class T, class A = typename Arithmetic<T>::type>
void unpack_lanes(const A* slab, T* to, int64_t channel, int64_t pixel, int64_t pixels, int lanes) {
  constexpr int L = kLanes<A>, R = kNativeLanes<A>;
  if (channel == 1 && lanes == L) {
    for (int64_t p = 0; p < pixels; ++p) {
      for (int i = 0; i < L; i += R) store_as<R>(to + p * pixel + i, load<Native<A>>(slab + p * L + i));
    }
    return;
  }
  int64_t done = 0;
  if (pixel == 1 && pixels >= R) {
    while (done < pixels) {
      int64_t at = least(done, pixels - R);
      for (int first = 0; first < lanes; first += R) {
        Native<A> rows[R];
        for (int i = 0; i < R; ++i) rows[i] = load<Native<A>>(slab + (at + i) * L + first);
        transpose<R>(rows);
        for (int i = 0; i < R; ++i) {
          if (first + i < lanes) store_as<R>(to + (first + i) * channel + at, rows[i]);
        }
      }
      done = at + R;
    }
    return;
  }
  for (int64_t p = 0; p < pixels; ++p) {
    for (int i = 0; i < lanes; ++i) store_one(to + p * pixel + i * channel, slab[p * L + i]);
  }
}

// `count` elements, `step` apart, in the arithmetic type
template <class T, class A = typename Arithmetic<T>::type>
INVOLUTION_INLINE void widen_run(const T* from, int64_t step, int64_t count, A* to) {
  constexpr int R = kNativeLanes<A>;
  int64_t i = 0;
  if (step == 1) {
    for (; i + R <= count; i += R) store(to + i, load_as<R>(from + i));
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    if constexpr (sizeof(T) == 2) {
      const auto mask = static_cast<__mmask16>((1u << (count - i)) - 1);
      _mm512_mask_storeu_ps(to + i, mask, (__m512)widen<16>((Bits16<16>)_mm256_maskz_loadu_epi16(mask, from + i), T()));
      return;
    }
#endif
    for (; i + 4 <= count; i += 4) store(to + i, load_as<4>(from + i));
    if (i < count && count >= 4) {
      // the rest with some before it
      store(to + count - 4, load_as<4>(from + count - 4));
      return;
    }
  }
  for (; i < count; ++i) to[i] = load_one(from + i * step);
}

}  // namespace
}  // namespace involution

// Vectors of the instruction set that this file is compiled for, using GCC's vector extension.
// Everything here and in the other kernel headers has internal linkage: each instruction set has its own copy.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define INVOLUTION_INLINE inline __attribute__((always_inline))
#define INVOLUTION_INLINE_LAMBDA __attribute__((always_inline))

namespace involution {
namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#if defined(INVOLUTION_FEW_SIZES)
// the least that is still divided as 14 are, for slow builds
constexpr int kTile = 8;
#else
// accumulators of 64 bytes that fit into the registers next to one operand
constexpr int kTile = 14;
#endif
#elif defined(__AVX2__)
constexpr int kBytes = 32;
constexpr int kTile = 6;
#elif defined(__aarch64__)
constexpr int kBytes = 16;
constexpr int kTile = 6;
#else
constexpr int kBytes = 16;
constexpr int kTile = 2;
#endif

constexpr int kLine = 64;

template <class A, int Bytes>
struct VectorOf {
  typedef A type __attribute__((vector_size(Bytes)));
  typedef A unaligned __attribute__((vector_size(Bytes), aligned(alignof(A)), may_alias));
};

template <class A>
using Native = typename VectorOf<A, kBytes>::type;

template <class A>
constexpr int kLanes = kLine / static_cast<int>(sizeof(A));

template <class A>
constexpr int kNativeLanes = kBytes / static_cast<int>(sizeof(A));

// a cache line of channels in as many registers as needed
template <class A>
struct Block {
  static constexpr int kParts = kLine / kBytes;
  Native<A> part[kParts];
};

template <class F, int... I>
INVOLUTION_INLINE void unrolled(const F& body, std::integer_sequence<int, I...>) {
  (body(std::integral_constant<int, I>()), ...);
}

// calls body(i) for i < N with constant i: GCC keeps arrays indexed only by constants in registers, and puts arrays
// indexed by a loop into memory
template <int N, class F>
INVOLUTION_INLINE void unrolled(const F& body) {
  unrolled(body, std::make_integer_sequence<int, N>());
}

// keeps a value in a register; otherwise GCC repeats its load in each instruction that uses it
template <class V>
INVOLUTION_INLINE void pin(V& value) {
  if constexpr (sizeof(V) <= kBytes) {
#if defined(__aarch64__)
    asm("" : "+w"(value));
#else
    asm("" : "+v"(value));
#endif
  }
}

// keeps GCC from recomputing a running pointer as base + index · stride
template <class P>
INVOLUTION_INLINE void opaque(P*& pointer) {
  asm("" : "+r"(pointer));
}

template <class V, class A>
INVOLUTION_INLINE V load(const A* from) {
  return *reinterpret_cast<const typename VectorOf<A, sizeof(V)>::unaligned*>(from);
}

template <class V, class A>
INVOLUTION_INLINE void store(A* to, V value) {
  *reinterpret_cast<typename VectorOf<A, sizeof(V)>::unaligned*>(to) = value;
}

template <class A>
INVOLUTION_INLINE Block<A> load_block(const A* from) {
  Block<A> block;
  unrolled<Block<A>::kParts>([&](auto i) INVOLUTION_INLINE_LAMBDA {
    block.part[i] = load<Native<A>>(from + i * kNativeLanes<A>);
    pin(block.part[i]);
  });
  return block;
}

template <class A>
INVOLUTION_INLINE void store_block(A* to, const Block<A>& block) {
  unrolled<Block<A>::kParts>([&](auto i) INVOLUTION_INLINE_LAMBDA { store(to + i * kNativeLanes<A>, block.part[i]); });
}

// past the caches, to an address that is a multiple of a cache line; a fence makes it seen by other threads
template <class A>
INVOLUTION_INLINE void stream_block(A* to, const Block<A>& block) {
#if defined(__x86_64__)
  unrolled<Block<A>::kParts>([&](auto i) INVOLUTION_INLINE_LAMBDA {
    auto* at = reinterpret_cast<float*>(to + i * kNativeLanes<A>);
#if defined(__AVX512F__)
    _mm512_stream_ps(at, (__m512)block.part[i]);
#elif defined(__AVX2__)
    _mm256_stream_ps(at, (__m256)block.part[i]);
#else
    _mm_stream_ps(at, (__m128)block.part[i]);
#endif
  });
#else
  store_block(to, block);
#endif
}

INVOLUTION_INLINE void fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

template <class A>
INVOLUTION_INLINE void clear(Block<A>& block) {
  unrolled<Block<A>::kParts>([&](auto i) INVOLUTION_INLINE_LAMBDA { block.part[i] = Native<A>{}; });
}

template <class A>
INVOLUTION_INLINE void multiply_add(Block<A>& sum, const Block<A>& x, A w) {
  unrolled<Block<A>::kParts>([&](auto i) INVOLUTION_INLINE_LAMBDA { sum.part[i] += x.part[i] * w; });
}

template <class I>
constexpr I least(I a, I b) {
  return a < b ? a : b;
}

template <class I>
constexpr I most(I a, I b) {
  return a > b ? a : b;
}

constexpr int64_t ceil_div(int64_t a, int64_t b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }

constexpr int64_t gcd(int64_t a, int64_t b) { return b ? gcd(b, a % b) : a; }

constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// a thread's working memory, kept from call to call: fresh pages cost more than the kernels' work on them
class Scratch {
 public:
  ~Scratch() { std::free(data_); }

  void* reserve(int64_t bytes) {
    if (bytes > size_) {
      std::free(data_);
      size_ = 0;
      data_ = std::aligned_alloc(kLine, static_cast<size_t>(round_up(bytes, kLine)));
      if (data_ == nullptr) throw std::bad_alloc();
      size_ = bytes;
    }
    return data_;
  }

 private:
  void* data_ = nullptr;
  int64_t size_ = 0;
};

template <class A>
INVOLUTION_INLINE A* scratch(int64_t count) {
  static thread_local Scratch memory;
  return static_cast<A*>(memory.reserve(count * static_cast<int64_t>(sizeof(A))));
}

// calls body(begin, end) on parts of [0, count)
template <class F>
void parallel_for(const Parallel& parallel, int64_t count, int64_t grain, const F& body) {
  parallel.run(
      parallel.user, 0, count, grain,
      [](int64_t begin, int64_t end, void* context) { (*static_cast<const F*>(context))(begin, end); },
      const_cast<F*>(&body));
}

}  // namespace
}  // namespace involution

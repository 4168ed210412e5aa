// The problems the kernels solve, free of torch: plain sizes, strides in elements, and pointers.
#pragma once

#include <cstdint>
#include <vector>

namespace involution {

enum class Type { f32, f64, bf16, f16 };

// [N, C, D, H, W]; images have D = 1, sequences D = H = 1
struct Activation {
  void* data;
  int64_t size[5];
  int64_t stride[5];
};

// [N, G, K_d, K_h, K_w, D_o, H_o, W_o]
struct Map {
  void* data;
  int64_t size[8];
  int64_t stride[8];
};

// out[n, c, z] = Σ_t map[n, c / (C/G), t, z] · input[n, c, z·stride − padding + t·dilation] over three dimensions
struct Problem {
  Type type;
  Activation input;
  Map map;
  Activation output;
  int64_t stride[3];
  int64_t padding[3];
  int64_t dilation[3];
  // of 8 bits: the input's level that means 0
  float zero = 0;
};

// what generates the map: map[n, taps of all groups, z] = Σ_r weight[tap, r] · reduced[n, r, z] + bias[tap]
struct Span {
  Activation reduced;
  // [G·K_h·K_w, R] and [G·K_h·K_w], contiguous; the bias may be null
  const void* weight;
  const void* bias;
  int64_t taps;
  // of 8-bit weights, [G·K_h·K_w]: the map is scale[tap] · Σ_r weight[tap, r] · reduced[n, r, z] + bias[tap]
  const float* scale = nullptr;
};

// what follows in inference: relu(scale[c] · out[n, c, z] + shift[c]); scale and shift have C elements or are null
struct Epilogue {
  const void* scale;
  const void* shift;
  bool relu;
};

// what the backward pass writes, with the sizes of input, reduced features and span; null if not requested
struct Gradients {
  Activation input;
  Activation reduced;
  void* weight;
  void* bias;
};

// `run` calls body(begin, end, context) on parts of [begin, end), each part at least grain long; `user` is its own
struct Parallel {
  void (*run)(void* user, int64_t begin, int64_t end, int64_t grain, void (*body)(int64_t, int64_t, void*),
              void* context);
  void* user;
  int64_t threads;
};

// one instruction set's kernels; each writes the tensor that the other two determine. Libraries for inference alone
// have null for all but the two forwards.
struct Kernels {
  const char* name;
  void (*forward)(const Problem&, const Parallel&);
  void (*grad_input)(const Problem&, const Parallel&);
  void (*grad_weight)(const Problem&, const Parallel&);
  // forward with a map that is generated row by row; the problem's map has only sizes
  void (*dynamic_forward)(const Problem&, const Span&, const Epilogue&, const Parallel&);
  // the problem's output is the incoming gradient
  void (*dynamic_backward)(const Problem&, const Span&, const Gradients&, const Parallel&);
  // The forward in 8 bits, without ReLU: input, reduced features and output are unsigned bytes, the span weights signed
  // ones, and all else is float. The output is rounded to the nearest of 0 to 255, to the even one of two.
  void (*quantised_forward)(const Problem&, const Span&, const Epilogue&, const Parallel&);
};

// the sets that this processor runs, the best first
const std::vector<const Kernels*>& available();

// the best of them, or the one named by INVOLUTION_CPU; null if there is none with that name
const Kernels* kernels();

}  // namespace involution

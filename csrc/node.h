// The nodes of other runtimes, whose meaning is in src/involution/export/contract.py: attributes and shapes are checked
// here for all of them, and turned into the structures of problem.h.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "problem.h"

namespace involution {

using Shape = std::vector<int64_t>;

struct Attributes {
  int64_t stride[2] = {1, 1}, padding[2] = {0, 0}, dilation[2] = {1, 1};
  int64_t channels_last = 0, relu = 0;
  // of the node in 8 bits: the input's level that means 0
  int64_t zero = 0;
};

// an input or the output; an optional input is absent or has the shape [0]
struct Operand {
  void* data = nullptr;
  Shape shape;
  bool given = false;

  bool absent() const { return !given || (shape.size() == 1 && shape[0] == 0); }
};

enum Input { kInput, kWeight, kReduced = 1, kSpanWeight, kSpanBias, kScale, kShift, kInputs };
// of the node in 8 bits, which has all of them
constexpr int kSpanScale = kInputs, kQuantisedInputs = kInputs + 1;

inline std::string text(const Shape& shape) {
  std::string all = "[";
  for (size_t i = 0; i < shape.size(); ++i) all += (i ? ", " : "") + std::to_string(shape[i]);
  return all + "]";
}

// what is wrong with the attributes, or nothing
inline std::string wrong(const Attributes& a) {
  constexpr int64_t limit = int64_t(1) << 31;
  const struct {
    const char* name;
    const int64_t* values;
    int64_t least;
  } pairs[] = {{"stride", a.stride, 1}, {"padding", a.padding, 0}, {"dilation", a.dilation, 1}};
  for (const auto& pair : pairs) {
    for (int i = 0; i < 2; ++i) {
      if (pair.values[i] >= pair.least && pair.values[i] < limit) continue;
      return std::string(pair.name) + " must be two numbers from " + std::to_string(pair.least) +
             " to 2**31 - 1; got " + text({pair.values[0], pair.values[1]});
    }
  }
  if (a.channels_last < 0 || a.channels_last > 1) {
    return "channels_last must be 0 or 1; got " + std::to_string(a.channels_last);
  }
  if (a.relu < 0 || a.relu > 1) return "relu must be 0 or 1; got " + std::to_string(a.relu);
  if (a.zero < 0 || a.zero > 255) return "zero must be 0 to 255; got " + std::to_string(a.zero);
  return {};
}

// One call of a node. `check` has to find nothing wrong before anything else is asked.
class Invocation {
 public:
  // inputs in the contract's order
  Invocation(bool dynamic, const Attributes& attributes, const Operand* inputs, bool quantised = false)
      : dynamic_(dynamic),
        quantised_(quantised),
        attributes_(attributes),
        in_(inputs),
        last_(attributes.channels_last != 0) {}

  std::string check() const {
    for (int i = 0; i < (dynamic_ ? 3 : 2); ++i) {
      const size_t wanted = !dynamic_ && i == kWeight ? 6 : 4;
      if (!in_[i].given) return std::string(name(i)) + " is missing";
      if (in_[i].shape.size() != wanted) {
        return std::string(name(i)) + " must have " + std::to_string(wanted) + " dimensions, " + axes(i) + "; got " +
               text(in_[i].shape);
      }
    }
    const Shape x = image(in_[kInput].shape), map = map_sizes();
    const bool filled = *std::min_element(map.begin() + 1, map.begin() + 4) > 0;
    if (!filled || x[1] % map[1] != 0) {
      return std::string(name(dynamic_ ? kSpanWeight : kWeight)) + " must be " +
             axes(dynamic_ ? kSpanWeight : kWeight) +
             ", with a tap at least and G a divisor of C = " + std::to_string(x[1]) + "; got " +
             text(in_[dynamic_ ? kSpanWeight : kWeight].shape);
    }
    if (map[0] != x[0]) {
      return std::string(name(1)) + " must have N = " + std::to_string(x[0]) + " as input has; got " +
             text(in_[1].shape);
    }
    if (!dynamic_) return {};
    const int64_t features = image(in_[kReduced].shape)[1];
    if (in_[kSpanWeight].shape[3] != features || features == 0) {
      return "reduced " + text(in_[kReduced].shape) + " and span_weight " + text(in_[kSpanWeight].shape) +
             " must have the same R, 1 or more";
    }
    const Shape& span = in_[kSpanWeight].shape;
    const Shape taps = {span[0], span[1], span[2]}, wanted[] = {taps, {x[1]}, {x[1]}, taps};
    for (int i = kSpanBias; i < (quantised_ ? kQuantisedInputs : kInputs); ++i) {
      const Shape& right = wanted[i - kSpanBias];
      if ((in_[i].absent() && !quantised_) || in_[i].shape == right) continue;
      return std::string(name(i)) + " must be " + axes(i) + " = " + text(right) + ", or be left out; got " +
             text(in_[i].shape);
    }
    return {};
  }

  Shape output() const {
    const Shape x = image(in_[kInput].shape), map = map_sizes();
    return last_ ? Shape{x[0], map[4], map[5], x[1]} : Shape{x[0], x[1], map[4], map[5]};
  }

  void run(Type type, void* output_data, const Parallel& parallel) const {
    const Shape y = output();
    if (std::find(y.begin(), y.end(), 0) != y.end()) return;
    const Shape map = map_sizes();
    Problem p{type,      activation(in_[kInput].data, in_[kInput].shape),
              Map{},     activation(output_data, y),
              {1, 1, 1}, {0, 0, 0},
              {1, 1, 1}};
    const int64_t sizes[8] = {map[0], map[1], 1, map[2], map[3], 1, map[4], map[5]};
    std::copy(sizes, sizes + 8, p.map.size);
    for (int i = 0; i < 2; ++i) {
      p.stride[1 + i] = attributes_.stride[i];
      p.padding[1 + i] = attributes_.padding[i];
      p.dilation[1 + i] = attributes_.dilation[i];
    }
    if (!dynamic_) {
      p.map.data = in_[kWeight].data;
      // from the innermost dimension outwards
      static const int orders[2][8] = {{7, 6, 5, 4, 3, 2, 1, 0}, {4, 3, 2, 1, 7, 6, 5, 0}};
      int64_t step = 1;
      for (const int dim : orders[last_]) {
        p.map.stride[dim] = step;
        step *= sizes[dim];
      }
      return kernels()->forward(p, parallel);
    }
    Span span = {activation(in_[kReduced].data, in_[kReduced].shape), in_[kSpanWeight].data, optional(kSpanBias),
                 map[1] * map[2] * map[3]};
    if (quantised_) {
      p.zero = static_cast<float>(attributes_.zero);
      span.scale = static_cast<const float*>(in_[kSpanScale].data);
      return kernels()->quantised_forward(p, span, {optional(kScale), optional(kShift), false}, parallel);
    }
    kernels()->dynamic_forward(p, span, {optional(kScale), optional(kShift), attributes_.relu != 0}, parallel);
  }

 private:
  // [N, C, H, W] of a shape in the node's memory order
  Shape image(const Shape& s) const { return last_ ? Shape{s[0], s[3], s[1], s[2]} : s; }

  // [N, G, K_h, K_w, H_o, W_o]
  Shape map_sizes() const {
    const Shape& s = in_[1].shape;
    if (!dynamic_) return last_ ? Shape{s[0], s[3], s[4], s[5], s[1], s[2]} : s;
    const Shape reduced = image(s), &span = in_[kSpanWeight].shape;
    return {reduced[0], span[0], span[1], span[2], reduced[2], reduced[3]};
  }

  Activation activation(void* data, const Shape& shape) const {
    const Shape s = image(shape);
    const int64_t n = s[0], c = s[1], h = s[2], w = s[3];
    if (last_) return {data, {n, c, 1, h, w}, {c * h * w, 1, c * h * w, w * c, c}};
    return {data, {n, c, 1, h, w}, {c * h * w, h * w, h * w, w, 1}};
  }

  const void* optional(int i) const { return in_[i].absent() ? nullptr : in_[i].data; }

  const char* name(int i) const {
    static const char* const names[2][kQuantisedInputs] = {
        {"input", "weight"}, {"input", "reduced", "span_weight", "span_bias", "scale", "shift", "span_scale"}};
    return names[dynamic_][i];
  }

  const char* axes(int i) const {
    static const char* const plain[2][2] = {{"[N, C, H, W]", "[N, G, K_h, K_w, H_o, W_o]"},
                                            {"[N, H, W, C]", "[N, H_o, W_o, G, K_h, K_w]"}};
    static const char* const dynamic[2][kQuantisedInputs] = {
        {"[N, C, H, W]", "[N, R, H_o, W_o]", "[G, K_h, K_w, R]", "[G, K_h, K_w]", "[C]", "[C]", "[G, K_h, K_w]"},
        {"[N, H, W, C]", "[N, H_o, W_o, R]", "[G, K_h, K_w, R]", "[G, K_h, K_w]", "[C]", "[C]", "[G, K_h, K_w]"}};
    return dynamic_ ? dynamic[last_][i] : plain[last_][i];
  }

  const bool dynamic_, quantised_;
  const Attributes& attributes_;
  const Operand* const in_;
  const bool last_;
};

}  // namespace involution

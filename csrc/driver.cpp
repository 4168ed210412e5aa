// Runs the kernels without torch, for the sanitizers: random problems in exactly sized buffers, checked against the
// definition.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "problem.h"

namespace {

using namespace involution;

std::mt19937 engine;
const Kernels* tested;

int64_t pick(std::initializer_list<int64_t> values) { return values.begin()[engine() % values.size()]; }

// one exact allocation, so that a sanitizer sees the first element out of bounds
struct Buffer {
  Type type;
  int64_t count;
  std::unique_ptr<char[]> bytes;

  Buffer(Type type, int64_t count) : type(type), count(count), bytes(new char[count * width(type)]) {
    // NaN in every type, so that unwritten elements show
    std::memset(bytes.get(), 0xff, count * width(type));
  }

  static int64_t width(Type type) { return type == Type::f64 ? 8 : type == Type::f32 ? 4 : 2; }

  double get(int64_t i) const {
    const char* at = bytes.get() + i * width(type);
    if (type == Type::f64) return *reinterpret_cast<const double*>(at);
    if (type == Type::f32) return *reinterpret_cast<const float*>(at);
    uint16_t half;
    std::memcpy(&half, at, 2);
    if (type == Type::f16) {
      const int exponent = half >> 10 & 31, fraction = half & 1023;
      const double size = exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
      return half >> 15 ? -size : size;
    }
    const uint32_t wide = uint32_t(half) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
  }

  // eighths between -1 and 1: exact in every type
  void fill() {
    for (int64_t i = 0; i < count; ++i) {
      const double value = (static_cast<int>(engine() % 17) - 8) / 8.0;
      char* at = bytes.get() + i * width(type);
      if (type == Type::f64) *reinterpret_cast<double*>(at) = value;
      if (type == Type::f32) *reinterpret_cast<float*>(at) = static_cast<float>(value);
      if (type == Type::bf16) {
        const float f = static_cast<float>(value);
        std::memcpy(at, reinterpret_cast<const char*>(&f) + 2, 2);
      }
      if (type == Type::f16) {
        int exponent = 0;
        const double fraction = std::frexp(std::abs(value), &exponent);
        uint16_t half = value == 0 ? 0 : uint16_t((exponent + 14) << 10 | (int(fraction * 2048) & 1023));
        half |= value < 0 ? 0x8000 : 0;
        std::memcpy(at, &half, 2);
      }
    }
  }
};

template <size_t N>
void strides(const int64_t (&size)[N], std::initializer_list<int> order, int64_t (&stride)[N]) {
  int64_t step = 1;
  for (auto dim = order.end(); dim-- != order.begin();) {
    stride[*dim] = step;
    step *= size[*dim];
  }
}

void layout(Activation& a, bool last) {
  last ? strides(a.size, {0, 2, 3, 4, 1}, a.stride) : strides(a.size, {0, 1, 2, 3, 4}, a.stride);
}

int64_t at(const Activation& a, int64_t n, int64_t c, int64_t z, int64_t y, int64_t x) {
  return n * a.stride[0] + c * a.stride[1] + z * a.stride[2] + y * a.stride[3] + x * a.stride[4];
}

// calls each(input index, map index, output index) for every multiply-add of the definition
template <class F>
void definition(const Problem& p, F each) {
  const int64_t* o = p.output.size;
  const int64_t* k = p.map.size + 2;
  const int64_t width = o[1] / p.map.size[1];
  for (int64_t i = 0; i < o[0] * o[1] * o[2] * o[3] * o[4]; ++i) {
    const int64_t x = i % o[4], y = i / o[4] % o[3], z = i / o[4] / o[3] % o[2];
    const int64_t c = i / o[4] / o[3] / o[2] % o[1], n = i / o[4] / o[3] / o[2] / o[1];
    for (int64_t t = 0; t < k[0] * k[1] * k[2]; ++t) {
      const int64_t v = t % k[2], u = t / k[2] % k[1], a = t / k[2] / k[1];
      const int64_t sz = z * p.stride[0] - p.padding[0] + a * p.dilation[0];
      const int64_t sy = y * p.stride[1] - p.padding[1] + u * p.dilation[1];
      const int64_t sx = x * p.stride[2] - p.padding[2] + v * p.dilation[2];
      if (sz < 0 || sy < 0 || sx < 0 || sz >= p.input.size[2] || sy >= p.input.size[3] || sx >= p.input.size[4]) {
        continue;
      }
      const int64_t* m = p.map.stride;
      each(at(p.input, n, c, sz, sy, sx),
           n * m[0] + c / width * m[1] + a * m[2] + u * m[3] + v * m[4] + z * m[5] + y * m[6] + x * m[7],
           at(p.output, n, c, z, y, x));
    }
  }
}

bool same(const Buffer& result, const std::vector<double>& truth, const char* what, int seed) {
  const double tolerance = result.type == Type::f64 ? 1e-12 : result.type == Type::f32 ? 1e-4 : 4e-2;
  for (int64_t i = 0; i < result.count; ++i) {
    const double error = std::abs(result.get(i) - truth[i]);
    if (!(error <= tolerance * (1 + std::abs(truth[i])))) {
      std::printf("seed %d: %s is %g at %ld instead of %g\n", seed, what, result.get(i), long(i), truth[i]);
      return false;
    }
  }
  return true;
}

void threads(void*, int64_t begin, int64_t end, int64_t, void (*body)(int64_t, int64_t, void*), void* context) {
  const int64_t middle = (begin + end) / 2;
  std::thread other(body, begin, middle, context);
  body(middle, end, context);
  other.join();
}

// its gradients; `map` holds the generated map in the order of the problem's strides
bool dynamic_backward(Problem p, const Span& span, const Buffer& reduced, const Buffer& weight,
                      const std::vector<double>& map, const Buffer& input, int seed) {
  const auto count = [](const Activation& a) { return a.size[0] * a.size[1] * a.size[2] * a.size[3] * a.size[4]; };
  const int64_t features = span.reduced.size[1], pixels = p.output.size[3] * p.output.size[4];
  Buffer grad(p.type, count(p.output)), of_input(p.type, count(p.input)), of_reduced(p.type, count(span.reduced));
  Buffer of_weight(p.type, span.taps * features), of_bias(p.type, span.taps);
  grad.fill();
  p.output.data = grad.bytes.get();
  Gradients gradients = {p.input, span.reduced, of_weight.bytes.get(), of_bias.bytes.get()};
  gradients.input.data = of_input.bytes.get();
  gradients.reduced.data = of_reduced.bytes.get();
  tested->dynamic_backward(p, span, gradients, {threads, nullptr, 2});

  std::vector<double> dx(of_input.count), dr(of_reduced.count), ds(of_weight.count), db(of_bias.count);
  std::vector<double> dmap(map.size());
  definition(p, [&](int64_t i, int64_t m, int64_t o) {
    dx[i] += grad.get(o) * map[m];
    dmap[m] += grad.get(o) * input.get(i);
  });
  const int64_t w = p.output.size[4];
  for (int64_t i = 0; i < static_cast<int64_t>(dmap.size()); ++i) {
    const int64_t x = i % w, y = i / w % p.output.size[3], t = i / pixels % span.taps, n = i / pixels / span.taps;
    db[t] += dmap[i];
    for (int64_t r = 0; r < features; ++r) {
      const int64_t place = at(span.reduced, n, r, 0, y, x);
      dr[place] += dmap[i] * weight.get(t * features + r);
      ds[t * features + r] += dmap[i] * reduced.get(place);
    }
  }
  return same(of_input, dx, "fused gradient of the input", seed) &&
         same(of_reduced, dr, "gradient of the reduced features", seed) &&
         same(of_weight, ds, "gradient of the span", seed) && same(of_bias, db, "gradient of the bias", seed);
}

// forward with a generated map; two-dimensional
bool dynamic(Problem p, const Buffer& input, int seed) {
  const int64_t features = pick({1, 3, 4, 17, 32}), taps = p.map.size[1] * p.map.size[3] * p.map.size[4];
  const int64_t pixels = p.output.size[3] * p.output.size[4], batch = p.output.size[0];
  Span span{};
  span.taps = taps;
  const int64_t sizes[5] = {batch, features, 1, p.output.size[3], p.output.size[4]};
  std::copy(sizes, sizes + 5, span.reduced.size);
  layout(span.reduced, engine() % 2);
  Buffer reduced(p.type, batch * features * pixels), weight(p.type, taps * features), bias(p.type, taps);
  for (Buffer* buffer : {&reduced, &weight, &bias}) buffer->fill();
  span.reduced.data = reduced.bytes.get();
  span.weight = weight.bytes.get();
  span.bias = engine() % 2 ? bias.bytes.get() : nullptr;
  Buffer output(p.type, p.output.size[0] * p.output.size[1] * pixels);
  p.input.data = input.bytes.get();
  p.output.data = output.bytes.get();
  Buffer scale(p.type, p.output.size[1]), shift(p.type, p.output.size[1]);
  scale.fill();
  shift.fill();
  const bool finished = engine() % 2, relu = finished && engine() % 2;
  const Epilogue epilogue = {finished ? scale.bytes.get() : nullptr, finished ? shift.bytes.get() : nullptr, relu};
  tested->dynamic_forward(p, span, epilogue, {threads, nullptr, 2});

  // the definition reads the map in this order: image, tap of all groups, pixel
  const int64_t h = p.output.size[3], w = p.output.size[4];
  strides(p.map.size, {0, 1, 2, 3, 4, 5, 6, 7}, p.map.stride);
  std::vector<double> map(batch * taps * pixels), truth(output.count);
  for (int64_t i = 0; i < static_cast<int64_t>(map.size()); ++i) {
    const int64_t x = i % w, y = i / w % h, t = i / pixels % taps, n = i / pixels / taps;
    map[i] = span.bias ? bias.get(t) : 0;
    for (int64_t r = 0; r < features; ++r) {
      map[i] += weight.get(t * features + r) * reduced.get(at(span.reduced, n, r, 0, y, x));
    }
  }
  definition(p, [&](int64_t i, int64_t m, int64_t o) { truth[o] += input.get(i) * map[m]; });
  for (int64_t i = 0; i < output.count && finished; ++i) {
    const int64_t c = p.output.stride[1] == 1 ? i % p.output.size[1] : i / pixels % p.output.size[1];
    truth[i] = truth[i] * scale.get(c) + shift.get(c);
    if (relu) truth[i] = std::max(truth[i], 0.0);
  }
  return same(output, truth, "forward with a generated map", seed) &&
         dynamic_backward(p, span, reduced, weight, map, input, seed);
}

// the forward in 8 bits; two-dimensional
bool quantised(Problem p, int seed) {
  const auto count = [](const Activation& a) { return a.size[0] * a.size[1] * a.size[2] * a.size[3] * a.size[4]; };
  const int64_t features = pick({1, 3, 4, 16, 17, 64, 68}), taps = p.map.size[1] * p.map.size[3] * p.map.size[4];
  const int64_t h = p.output.size[3], w = p.output.size[4], pixels = h * w;
  Span span{};
  span.taps = taps;
  const int64_t sizes[5] = {p.output.size[0], features, 1, h, w};
  std::copy(sizes, sizes + 5, span.reduced.size);
  layout(span.reduced, engine() % 2);
  const auto bytes = [](int64_t size) {
    std::vector<uint8_t> all(size);
    for (uint8_t& one : all) one = engine() % 256;
    return all;
  };
  std::vector<uint8_t> input = bytes(count(p.input)), reduced = bytes(count(span.reduced)),
                       weight = bytes(taps * features);
  for (uint8_t& one : weight) one = one == 128 ? 0 : one;
  const auto level = [&](int64_t i) { return static_cast<int8_t>(weight[i]); };
  std::vector<float> of_tap(taps), bias(taps);
  for (float& one : of_tap) one = static_cast<float>(1 + engine() % 8) / static_cast<float>(1 << 16);
  for (float& one : bias) one = (static_cast<float>(engine() % 17) - 8) / 8;
  p.zero = static_cast<float>(pick({0, 0, 3, 128}));
  strides(p.map.size, {0, 1, 2, 3, 4, 5, 6, 7}, p.map.stride);
  std::vector<double> map(p.map.size[0] * taps * pixels), truth(count(p.output));
  for (int64_t i = 0; i < static_cast<int64_t>(map.size()); ++i) {
    const int64_t x = i % w, y = i / w % h, t = i / pixels % taps, n = i / pixels / taps;
    for (int64_t r = 0; r < features; ++r) map[i] += level(t * features + r) * reduced[at(span.reduced, n, r, 0, y, x)];
    map[i] = map[i] * of_tap[t] + bias[t];
  }
  definition(p, [&](int64_t i, int64_t m, int64_t o) { truth[o] += (input[i] - p.zero) * map[m]; });
  double largest = 1;
  for (const double one : truth) largest = std::max(largest, std::abs(one));
  // some exceed the levels
  std::vector<float> scale(p.output.size[1]), shift(p.output.size[1]);
  for (float& one : scale) one = static_cast<float>((16 + engine() % 240) / largest);
  for (float& one : shift) one = static_cast<float>(engine() % 256);
  std::vector<uint8_t> output(truth.size());
  p.input.data = input.data();
  span.reduced.data = reduced.data();
  span.weight = weight.data();
  span.bias = bias.data();
  span.scale = of_tap.data();
  p.output.data = output.data();
  tested->quantised_forward(p, span, {scale.data(), shift.data(), false}, {threads, nullptr, 2});
  for (int64_t i = 0; i < static_cast<int64_t>(truth.size()); ++i) {
    const int64_t c = p.output.stride[1] == 1 ? i % p.output.size[1] : i / pixels % p.output.size[1];
    const double wanted = std::min(255.0, std::max(0.0, truth[i] * scale[c] + shift[c]));
    if (std::abs(output[i] - wanted) <= 0.51) continue;
    std::printf("seed %d: 8 bits are %d at %ld instead of %g\n", seed, output[i], long(i), wanted);
    return false;
  }
  return true;
}

bool one(int seed) {
  engine.seed(seed);
  Problem p{};
  p.type = static_cast<Type>(engine() % 4);
  const bool volume = engine() % 5 == 0, square = engine() % 2;
  // empty images and steps far beyond the image must cost no more than their output
  const bool odd = engine() % 4 == 0;
  const int64_t groups = pick({1, 1, 2, 2, 3, 9}),
                width = odd && engine() % 8 == 0 ? 0 : pick({1, 3, 4, 8, 16, 16, 16, 20, 32});
  const int64_t batch = pick({0, 1, 1, 2});
  for (int i = volume ? 0 : 1; i < 3; ++i) {
    const bool copy = square && i > 1;
    p.map.size[2 + i] = copy ? p.map.size[1 + i] : volume ? pick({1, 2, 3}) : pick({1, 2, 3, 4, 5, 7, 7, 9, 11, 13});
    p.stride[i] = copy ? p.stride[i - 1] : pick({1, 1, 2, 3});
    p.dilation[i] = copy ? p.dilation[i - 1] : pick({1, 1, 2, 3});
    p.input.size[2 + i] = odd && engine() % 4 == 0 ? 0 : 1 + engine() % (volume ? 6 : 20);
    if (odd && engine() % 3 == 0) p.stride[i] = int64_t(1) << pick({3, 14, 16, 24, 30});
    if (odd && engine() % 3 == 0) p.dilation[i] = int64_t(1) << pick({3, 14, 16, 24, 28, 30});
    p.padding[i] = engine() % (p.dilation[i] * (p.map.size[2 + i] - 1) + 1);
  }
  if (!volume) p.map.size[2] = p.stride[0] = p.dilation[0] = p.input.size[2] = 1;
  p.input.size[0] = p.output.size[0] = p.map.size[0] = batch;
  p.input.size[1] = p.output.size[1] = groups * width;
  p.map.size[1] = groups;
  int64_t map_count = batch * groups;
  for (int i = 0; i < 3; ++i) {
    p.output.size[2 + i] = (p.input.size[2 + i] + p.stride[i] - 1) / p.stride[i];
    // windows that lie before and after the image
    if (odd && i > 0 && engine() % 4 == 0) p.output.size[2 + i] = engine() % 5, p.padding[i] = p.stride[i];
    p.map.size[5 + i] = p.output.size[2 + i];
    map_count *= p.map.size[2 + i] * p.map.size[5 + i];
  }
  layout(p.input, engine() % 2);
  layout(p.output, engine() % 2);
  engine() % 2 ? strides(p.map.size, {0, 1, 2, 3, 4, 5, 6, 7}, p.map.stride)
               : strides(p.map.size, {0, 5, 6, 7, 1, 2, 3, 4}, p.map.stride);
  const auto count = [](const Activation& a) { return a.size[0] * a.size[1] * a.size[2] * a.size[3] * a.size[4]; };
  Buffer input(p.type, count(p.input)), map(p.type, map_count), output(p.type, count(p.output));
  input.fill();
  map.fill();
  output.fill();
  Buffer forward(p.type, output.count), grad_input(p.type, input.count), grad_map(p.type, map.count);
  const Parallel parallel = {threads, nullptr, 2};
  const auto run = [&](void (*kernel)(const Problem&, const Parallel&), Buffer& x, Buffer& w, Buffer& y) {
    p.input.data = x.bytes.get();
    p.map.data = w.bytes.get();
    p.output.data = y.bytes.get();
    kernel(p, parallel);
  };
  run(tested->forward, input, map, forward);
  run(tested->grad_input, grad_input, map, output);
  run(tested->grad_weight, input, grad_map, output);
  std::vector<double> y(output.count), dx(input.count), dw(map.count);
  definition(p, [&](int64_t i, int64_t m, int64_t o) {
    y[o] += input.get(i) * map.get(m);
    dx[i] += output.get(o) * map.get(m);
    dw[m] += output.get(o) * input.get(i);
  });
  const bool volume_only = p.map.size[2] != 1 || p.input.size[2] != 1 || p.output.size[2] != 1;
  const bool generated = volume_only || (dynamic(p, input, seed) && quantised(p, seed));
  return same(forward, y, "forward", seed) && same(grad_input, dx, "gradient of the input", seed) &&
         same(grad_map, dw, "gradient of the map", seed) && generated;
}

}  // namespace

// driver [problems]: all sets that this processor runs
int main(int argc, char** argv) {
  const int problems = argc > 1 ? std::atoi(argv[1]) : 100;
  int all_failed = 0;
  for (const Kernels* set : available()) {
    tested = set;
    int failed = 0;
    for (int seed = 0; seed < problems; ++seed) failed += !one(seed);
    std::printf("%s: %d of %d problems failed\n", set->name, failed, problems);
    all_failed += failed;
  }
  return all_failed != 0;
}

// The operators' CPU kernels: turns torch's tensors into the structures of problem.h. The schemas are Python's, in
// src/involution/ops/schema.py; they are repeated here for programs without it.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <iostream>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "problem.h"

namespace {

using involution::Activation;
using involution::Map;
using involution::Problem;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Ints = std::vector<int64_t>;

involution::Parallel torch_threads() {
  uint32_t threads = 1;
  STABLE_TORCH_ERROR_CODE_CHECK(torch_get_num_threads(&threads));
  auto run = [](void*, int64_t begin, int64_t end, int64_t grain, void (*body)(int64_t, int64_t, void*),
                void* context) { STABLE_TORCH_ERROR_CODE_CHECK(torch_parallel_for(begin, end, grain, body, context)); };
  return {run, nullptr, threads};
}

involution::Type type_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return involution::Type::f32;
    case ScalarType::Double:
      return involution::Type::f64;
    case ScalarType::BFloat16:
      return involution::Type::bf16;
    case ScalarType::Half:
      return involution::Type::f16;
    default:
      STD_TORCH_CHECK(false, "involution: tensors must be float16, bfloat16, float32 or float64");
  }
}

// Memory that was freed by resize_(0) of a storage must not be read.
void* data_of(const Tensor& tensor) {
  int64_t stored = 0, last = tensor.storage_offset();
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(tensor.get(), &stored));
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  for (int64_t i = 0; i < tensor.dim(); ++i) last += (sizes[i] - 1) * strides[i];
  STD_TORCH_CHECK(tensor.numel() == 0 || (last + 1) * int64_t(tensor.element_size()) <= stored,
                  "involution: a tensor's data is not allocated; its storage was resized");
  return tensor.data_ptr();
}

// [N, C, ...] with one to three spatial dimensions, the missing leading ones of size 1
Activation activation(const Tensor& tensor) {
  Activation a{data_of(tensor), {1, 1, 1, 1, 1}, {}};
  const int64_t dims = tensor.dim(), missing = 5 - dims;
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  for (int64_t i = 0; i < dims; ++i) {
    const int64_t to = i < 2 ? i : i + missing;
    a.size[to] = sizes[i];
    a.stride[to] = strides[i];
  }
  return a;
}

Map kernel_map(const Tensor& tensor) {
  Map m{data_of(tensor), {1, 1, 1, 1, 1, 1, 1, 1}, {}};
  const int64_t spatial = (tensor.dim() - 2) / 2, missing = 3 - spatial;
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    const int64_t to = i < 2 ? i : i < 2 + spatial ? i + missing : i + 2 * missing;
    m.size[to] = sizes[i];
    m.stride[to] = strides[i];
  }
  return m;
}

Tensor empty_strided(const Tensor& like, const Ints& sizes, const Ints& strides) {
  int32_t dtype, device_type, device_index;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(),
                                                         strides.data(), dtype, device_type, device_index, &handle));
  return Tensor(handle);
}

// as output_format in schema.py
bool channels_last(const Tensor& a) { return a.size(1) > 1 && a.stride(1) == 1 && a.stride(a.dim() - 1) != 1; }

// strides of a dense tensor whose dimensions from outermost to innermost are `order`
Ints dense(const Ints& sizes, const Ints& order) {
  Ints strides(sizes.size());
  int64_t stride = 1;
  for (auto dim = order.rbegin(); dim != order.rend(); ++dim) {
    strides[*dim] = stride;
    stride *= sizes[*dim] > 0 ? sizes[*dim] : 1;
  }
  return strides;
}

Tensor empty_activation(const Tensor& like, const Ints& spatial) {
  Ints sizes = {like.size(0), like.size(1)}, order = {0};
  sizes.insert(sizes.end(), spatial.begin(), spatial.end());
  const bool last = channels_last(like);
  if (!last) order.push_back(1);
  for (size_t i = 2; i < sizes.size(); ++i) order.push_back(static_cast<int64_t>(i));
  if (last) order.push_back(1);
  return empty_strided(like, sizes, dense(sizes, order));
}

Tensor empty_map(const Tensor& like, int64_t groups, const Ints& kernel) {
  const int64_t spatial = static_cast<int64_t>(kernel.size());
  Ints sizes = {like.size(0), groups}, order = {0}, taps = {1}, pixels;
  sizes.insert(sizes.end(), kernel.begin(), kernel.end());
  for (int64_t i = 0; i < spatial; ++i) {
    sizes.push_back(like.size(2 + i));
    taps.push_back(2 + i);
    pixels.push_back(2 + spatial + i);
  }
  const Ints &outer = channels_last(like) ? pixels : taps, &inner = channels_last(like) ? taps : pixels;
  order.insert(order.end(), outer.begin(), outer.end());
  order.insert(order.end(), inner.begin(), inner.end());
  return empty_strided(like, sizes, dense(sizes, order));
}

// one for each spatial dimension; the padding is the leading one
struct Geometry {
  const Ints &stride, &padding, &dilation;

  size_t dims() const { return stride.size(); }

  // into the last dimensions of a problem; false if it doesn't fit
  bool put(Problem& p) const {
    bool fits = padding.size() == dims() && dilation.size() == dims();
    for (size_t i = 0; fits && i < dims(); ++i) {
      p.stride[3 - dims() + i] = stride[i];
      p.padding[3 - dims() + i] = padding[i];
      p.dilation[3 - dims() + i] = dilation[i];
      fits = stride[i] > 0 && dilation[i] > 0;
    }
    return fits;
  }
};

// what an operator with a kernel map reads and writes
struct Operands {
  const Tensor &input, &map, &output;
};

// what the fused operator reads besides its input
struct Generation {
  const Tensor &reduced, &span_weight;
  const std::optional<Tensor>& span_bias;
};

// The public function has checked all of this with better messages; these checks keep memory safe.
Problem problem(const Operands& o, const Geometry& geometry) {
  const int64_t dims = int64_t(geometry.dims());
  STD_TORCH_CHECK(o.input.dim() == 2 + dims && o.output.dim() == 2 + dims && o.map.dim() == 2 + 2 * dims,
                  "involution: the tensors' dimensions don't fit together");
  Problem p{type_of(o.input), activation(o.input), kernel_map(o.map), activation(o.output),
            {1, 1, 1},        {0, 0, 0},           {1, 1, 1}};
  STD_TORCH_CHECK(type_of(o.map) == p.type && type_of(o.output) == p.type, "involution: tensors must have one dtype");
  bool fits = p.input.size[0] == p.map.size[0] && p.output.size[0] == p.map.size[0] &&
              p.input.size[1] == p.output.size[1] && p.map.size[1] > 0 && p.input.size[1] % p.map.size[1] == 0;
  for (int i = 0; i < 3; ++i) fits = fits && p.map.size[2 + i] > 0 && p.map.size[5 + i] == p.output.size[2 + i];
  STD_TORCH_CHECK(geometry.put(p) && fits, "involution: the sizes of input, kernel map and output don't fit together");
  return p;
}

Tensor forward(Tensor input, Tensor weight, Ints stride, Ints padding, Ints dilation) {
  const auto sizes = weight.sizes();
  Ints spatial;
  for (size_t i = sizes.size() - std::min(sizes.size(), stride.size()); i < sizes.size(); ++i)
    spatial.push_back(sizes[i]);
  Tensor output = empty_activation(input, spatial);
  involution::kernels()->forward(problem({input, weight, output}, {stride, padding, dilation}), torch_threads());
  return output;
}

Tensor grad_input(Tensor grad, Tensor weight, Ints input_size, Ints stride, Ints padding, Ints dilation) {
  Tensor input = empty_activation(grad, input_size);
  involution::kernels()->grad_input(problem({input, weight, grad}, {stride, padding, dilation}), torch_threads());
  return input;
}

Tensor grad_weight(Tensor grad, Tensor input, int64_t groups, Ints kernel_size, Ints stride, Ints padding,
                   Ints dilation) {
  Tensor weight = empty_map(grad, groups, kernel_size);
  involution::kernels()->grad_weight(problem({input, weight, grad}, {stride, padding, dilation}), torch_threads());
  return weight;
}

// the problem of both directions of the fused operator; keeps the contiguous span alive
struct Generated {
  Problem problem;
  involution::Span span;
  Tensor weight, bias;
};

Generated generated(const Tensor& input, const Generation& generation, const Tensor& output, const Geometry& geometry) {
  const Tensor& reduced = generation.reduced;
  STD_TORCH_CHECK(input.dim() == 4 && reduced.dim() == 4 && generation.span_weight.dim() == 4 && output.dim() == 4 &&
                      geometry.dims() == 2,
                  "involution: input, reduced and span_weight must have four dimensions");
  data_of(generation.span_weight);
  Generated all{{type_of(input), activation(input), Map{}, activation(output), {1, 1, 1}, {0, 0, 0}, {1, 1, 1}},
                {},
                torch::stable::contiguous(generation.span_weight),
                {}};
  Problem& p = all.problem;
  const auto span = all.weight.sizes();
  const int64_t map_sizes[8] = {input.size(0), span[0], 1, span[1], span[2], 1, reduced.size(2), reduced.size(3)};
  std::copy(map_sizes, map_sizes + 8, p.map.size);
  all.span = {activation(reduced), all.weight.data_ptr(), nullptr, span[0] * span[1] * span[2]};
  bool fits = reduced.size(0) == input.size(0) && span[3] == reduced.size(1) && all.span.taps * span[3] > 0 &&
              input.size(1) % span[0] == 0 && output.size(0) == input.size(0) && output.size(1) == input.size(1) &&
              output.size(2) == reduced.size(2) && output.size(3) == reduced.size(3);
  bool alike = type_of(reduced) == p.type && type_of(all.weight) == p.type && type_of(output) == p.type;
  if (generation.span_bias.has_value()) {
    data_of(*generation.span_bias);
    all.bias = torch::stable::contiguous(*generation.span_bias);
    all.span.bias = all.bias.data_ptr();
    fits = fits && all.bias.numel() == all.span.taps;
    alike = alike && type_of(all.bias) == p.type;
  }
  STD_TORCH_CHECK(alike, "involution: tensors must have one dtype");
  STD_TORCH_CHECK(geometry.put(p) && fits,
                  "involution: the sizes of input, reduced and span weights don't fit together");
  return all;
}

Tensor dynamic_affine(Tensor input, Tensor reduced, Tensor span_weight, std::optional<Tensor> span_bias, Ints stride,
                      Ints padding, Ints dilation, std::optional<Tensor> scale, std::optional<Tensor> shift,
                      bool relu) {
  STD_TORCH_CHECK(reduced.dim() == 4, "involution: input, reduced and span_weight must have four dimensions");
  Tensor output = empty_activation(input, {reduced.size(2), reduced.size(3)});
  const Generated all = generated(input, {reduced, span_weight, span_bias}, output, {stride, padding, dilation});
  for (std::optional<Tensor>* tensor : {&scale, &shift}) {
    if (!tensor->has_value()) continue;
    data_of(**tensor);
    STD_TORCH_CHECK((*tensor)->numel() == input.size(1) && type_of(**tensor) == all.problem.type,
                    "involution: scale and shift must have an element for each channel, in the input's dtype");
    *tensor = torch::stable::contiguous(**tensor);
  }
  const involution::Epilogue epilogue = {scale.has_value() ? scale->data_ptr() : nullptr,
                                         shift.has_value() ? shift->data_ptr() : nullptr, relu};
  involution::kernels()->dynamic_forward(all.problem, all.span, epilogue, torch_threads());
  return output;
}

Tensor dynamic_forward(Tensor input, Tensor reduced, Tensor span_weight, std::optional<Tensor> span_bias, Ints stride,
                       Ints padding, Ints dilation) {
  return dynamic_affine(input, reduced, span_weight, span_bias, stride, padding, dilation, {}, {}, false);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> dynamic_backward(Tensor grad, Tensor input, Tensor reduced,
                                                            Tensor span_weight, std::optional<Tensor> span_bias,
                                                            Ints stride, Ints padding, Ints dilation,
                                                            std::vector<bool> output_mask) {
  const Generated all = generated(input, {reduced, span_weight, span_bias}, grad, {stride, padding, dilation});
  STD_TORCH_CHECK(output_mask.size() == 4, "involution: output_mask must have four items");
  const auto contiguous = [&](const Tensor& like, int64_t dims) {
    Ints sizes, order;
    for (int64_t i = 0; i < dims; ++i) sizes.push_back(like.size(i)), order.push_back(i);
    return empty_strided(like, sizes, dense(sizes, order));
  };
  const auto nothing = [&] { return empty_strided(grad, {0}, {1}); };
  const auto image = [&](const Tensor& like) {
    const Ints sizes = {like.size(0), like.size(1), like.size(2), like.size(3)};
    const Ints order = channels_last(grad) ? Ints{0, 2, 3, 1} : Ints{0, 1, 2, 3};
    return empty_strided(grad, sizes, dense(sizes, order));
  };
  Tensor of_input = output_mask[0] ? image(input) : nothing();
  Tensor of_reduced = output_mask[1] ? image(reduced) : nothing();
  Tensor of_weight = output_mask[2] ? contiguous(span_weight, 4) : nothing();
  Tensor of_bias = output_mask[3] ? contiguous(span_weight, 3) : nothing();
  involution::Gradients gradients{};
  if (output_mask[0]) gradients.input = activation(of_input);
  if (output_mask[1]) gradients.reduced = activation(of_reduced);
  if (output_mask[2]) gradients.weight = of_weight.data_ptr();
  if (output_mask[3]) gradients.bias = of_bias.data_ptr();
  involution::kernels()->dynamic_backward(all.problem, all.span, gradients, torch_threads());
  return {of_input, of_reduced, of_weight, of_bias};
}

// as in src/involution/ops/schema.py
#define GEOMETRY(d) "int[" #d "] stride, int[" #d "] padding, int[" #d "] dilation"
#define DYNAMIC "Tensor input, Tensor reduced, Tensor span_weight, Tensor? span_bias, " GEOMETRY(2)
#define LINEAR(d)                                                                          \
  "involution" #d "d(Tensor input, Tensor weight, " GEOMETRY(d) ") -> Tensor",             \
      "involution" #d "d_grad_input(Tensor grad, Tensor weight, SymInt[" #d                \
      "] input_size, " GEOMETRY(d) ") -> Tensor",                                          \
      "involution" #d "d_grad_weight(Tensor grad, Tensor input, SymInt groups, SymInt[" #d \
      "] kernel_size, " GEOMETRY(d) ") -> Tensor"
const char* const kSchemas[] = {
    LINEAR(2),
    LINEAR(3),
    "dynamic_involution2d(" DYNAMIC ") -> Tensor",
    "dynamic_involution2d_affine(" DYNAMIC ", Tensor? scale, Tensor? shift, bool relu) -> Tensor",
    "dynamic_involution2d_backward(Tensor grad, " DYNAMIC ", bool[4] output_mask) -> (Tensor, Tensor, Tensor, Tensor)",
    // for schema.py, which has more to say of the operators: takes these definitions back
    "_release_definitions() -> ()",
};

// Defines the operators unless Python, or another copy of this library, has: a second definition is refused.
class Definitions {
 public:
  Definitions() {
    // torch before 2.13 prints what it refuses
    std::streambuf* const printed = std::cerr.rdbuf(nullptr);
    aoti_torch_library_init_fragment("involution", __FILE__, __LINE__, &library_);
    for (const char* schema : kSchemas) {
      if (aoti_torch_library_def(library_, schema) != AOTI_TORCH_SUCCESS) break;
    }
    std::cerr.rdbuf(printed);
  }

  ~Definitions() { release(); }

  void release() {
    if (library_ != nullptr) aoti_torch_delete_library_object(library_);
    library_ = nullptr;
  }

 private:
  TorchLibraryHandle library_ = nullptr;
} definitions;

void release_definitions() { definitions.release(); }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(involution, CompositeExplicitAutograd, m) {
  m.impl("_release_definitions", TORCH_BOX(&release_definitions));
}

STABLE_TORCH_LIBRARY_IMPL(involution, CPU, m) {
  // an invalid INVOLUTION_CPU, which involution.ops.native reports
  if (involution::kernels() == nullptr) return;
  m.impl("involution2d", TORCH_BOX(&forward));
  m.impl("involution2d_grad_input", TORCH_BOX(&grad_input));
  m.impl("involution2d_grad_weight", TORCH_BOX(&grad_weight));
  m.impl("dynamic_involution2d", TORCH_BOX(&dynamic_forward));
  m.impl("dynamic_involution2d_affine", TORCH_BOX(&dynamic_affine));
  m.impl("dynamic_involution2d_backward", TORCH_BOX(&dynamic_backward));
  m.impl("involution3d", TORCH_BOX(&forward));
  m.impl("involution3d_grad_input", TORCH_BOX(&grad_input));
  m.impl("involution3d_grad_weight", TORCH_BOX(&grad_weight));
}

#define INVOLUTION_EXPORT extern "C" __attribute__((visibility("default")))

// for involution.ops.native, by ctypes: null where INVOLUTION_CPU names none of the sets
INVOLUTION_EXPORT const char* involution_instruction_set() {
  const involution::Kernels* chosen = involution::kernels();
  return chosen == nullptr ? nullptr : chosen->name;
}

// those that this processor runs, the best first
INVOLUTION_EXPORT const char* involution_instruction_sets() {
  static const std::string names = [] {
    std::string all;
    for (const involution::Kernels* set : involution::available())
      all += (all.empty() ? "" : ", ") + std::string(set->name);
    return all;
  }();
  return names.c_str();
}

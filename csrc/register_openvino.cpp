// The kernels behind OpenVINO: an extension with the nodes of src/involution/export/contract.py, and with what makes
// them of ONNX's nodes and of torch's operators. They run on the threads of the stream that calls them. OpenVINO's C++
// has no stable ABI, so involution.export compiles this file for the version that is installed.
#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>
#include <openvino/frontend/extension/conversion.hpp>
#include <openvino/frontend/onnx/extension/conversion.hpp>
#include <openvino/op/constant.hpp>
#include <openvino/op/op.hpp>
#include <openvino/op/transpose.hpp>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "node.h"

namespace {

using namespace involution;
using Pair = std::vector<int64_t>;

void run(void*, int64_t begin, int64_t end, int64_t grain, void (*body)(int64_t, int64_t, void*), void* context) {
  const int64_t count = end - begin;
  if (count <= 0) return;
  const int64_t threads = tbb::this_task_arena::max_concurrency();
  const int64_t parts = std::min(threads, (count - 1) / std::max<int64_t>(grain, 1) + 1);
  if (parts == 1) return body(begin, end, context);
  const int64_t part = (count - 1) / parts + 1;
  // A thread that waits here must not begin another of these nodes: it would take the memory that the kernels keep for
  // their thread.
  tbb::this_task_arena::isolate([&] {
    tbb::parallel_for(
        int64_t(0), parts,
        [&](int64_t i) {
          const int64_t from = begin + i * part, to = std::min(end, from + part);
          if (from < to) body(from, to, context);
        },
        tbb::static_partitioner());
  });
}

Type type_of(const ov::element::Type& type) {
  return type == ov::element::f32   ? Type::f32
         : type == ov::element::f64 ? Type::f64
         : type == ov::element::f16 ? Type::f16
                                    : Type::bf16;
}

bool computable(const ov::element::Type& type) {
  return type == ov::element::f32 || type == ov::element::f64 || type == ov::element::f16 || type == ov::element::bf16;
}

// what both nodes have
class Involution : public ov::op::Op {
 public:
  Involution() = default;

  Involution(const ov::OutputVector& inputs, const Pair& stride, const Pair& padding, const Pair& dilation,
             int64_t last, int64_t relu)
      : Op(inputs), stride_(stride), padding_(padding), dilation_(dilation), last_(last), relu_(relu) {}

  bool visit_attributes(ov::AttributeVisitor& visitor) override {
    visitor.on_attribute("stride", stride_);
    visitor.on_attribute("padding", padding_);
    visitor.on_attribute("dilation", dilation_);
    visitor.on_attribute("channels_last", last_);
    if (quantised()) {
      visitor.on_attribute("zero", zero_);
    } else if (dynamic()) {
      visitor.on_attribute("relu", relu_);
    }
    return true;
  }

  void validate_and_infer_types() override {
    const size_t least = quantised() ? kQuantisedInputs : dynamic() ? 3 : 2, count = get_input_size();
    const size_t most = quantised() ? kQuantisedInputs : dynamic() ? kInputs : 2;
    NODE_VALIDATION_CHECK(this, count >= least && count <= most, "wanted ", least, " to ", most, " inputs; got ",
                          count);
    const std::string problem = wrong_attributes();
    NODE_VALIDATION_CHECK(this, problem.empty(), problem);
    ov::element::Type type = get_input_element_type(0);
    for (size_t i = 0; quantised() && i < count; ++i) {
      const ov::element::Type wanted = i < 2 ? ov::element::u8 : i == 2 ? ov::element::i8 : ov::element::f32;
      NODE_VALIDATION_CHECK(this, get_input_element_type(i).compatible(wanted), "input ", i, " must be ", wanted,
                            "; got ", get_input_element_type(i));
    }
    for (size_t i = 1; !quantised() && i < count; ++i) {
      NODE_VALIDATION_CHECK(this, ov::element::Type::merge(type, type, get_input_element_type(i)),
                            "all inputs must have one type; got ", type, " and ", get_input_element_type(i));
    }
    NODE_VALIDATION_CHECK(this, quantised() || type.is_dynamic() || computable(type),
                          "wanted f16, bf16, f32 or f64; got ", type);
    // all that is known already: on one thread the CPU plugin drops what is thrown later
    const std::string wrong_shape = wrong_shapes();
    NODE_VALIDATION_CHECK(this, wrong_shape.empty(), wrong_shape);
    const ov::PartialShape input = ranked(0, 4), map = ranked(1, dynamic() ? 4 : 6);
    ov::Dimension batch = input[0];
    ov::Dimension::merge(batch, batch, map[0]);
    const int height = last_ ? 1 : dynamic() ? 2 : 4;
    ov::PartialShape output{batch, input[1], map[height], map[height + 1]};
    if (last_) output = {batch, map[height], map[height + 1], input[3]};
    set_output_type(0, type, output);
  }

  bool has_evaluate() const override { return quantised() || computable(get_input_element_type(0)); }

  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& tensors) const override {
    Operand inputs[kQuantisedInputs];
    for (size_t i = 0; i < tensors.size() && i < kQuantisedInputs; ++i) {
      const ov::Shape& shape = tensors[i].get_shape();
      inputs[i].given = true;
      inputs[i].shape.assign(shape.begin(), shape.end());
      if (tensors[i].get_size() > 0) inputs[i].data = const_cast<void*>(static_cast<const void*>(at(tensors[i])));
    }
    const Attributes a = attributes();
    const Invocation node(dynamic(), a, inputs, quantised());
    const std::string problem = node.check();
    OPENVINO_ASSERT(problem.empty(), get_type_name(), ": ", problem);
    OPENVINO_ASSERT(kernels() != nullptr, "INVOLUTION_CPU names none of the instruction sets of this processor");
    const Shape shape = node.output();
    outputs[0].set_shape(ov::Shape(shape.begin(), shape.end()));
    node.run(type_of(tensors[0].get_element_type()), outputs[0].data(),
             {run, nullptr, tbb::this_task_arena::max_concurrency()});
    return true;
  }

 protected:
  virtual bool dynamic() const = 0;
  // in 8 bits
  virtual bool quantised() const { return false; }

  void assign(const Involution& other) {
    stride_ = other.stride_;
    padding_ = other.padding_;
    dilation_ = other.dilation_;
    last_ = other.last_;
    zero_ = other.zero_;
  }

  template <class Derived>
  std::shared_ptr<ov::Node> clone(const ov::OutputVector& inputs) const {
    return std::make_shared<Derived>(inputs, stride_, padding_, dilation_, last_, relu_);
  }

 private:
  static const void* at(const ov::Tensor& tensor) { return tensor.data(); }

  // open dimensions where nothing is known
  ov::PartialShape ranked(size_t input, int64_t rank) const {
    const ov::PartialShape& shape = get_input_partial_shape(input);
    return shape.rank().is_dynamic() ? ov::PartialShape::dynamic(rank) : shape;
  }

  // What is wrong with the shapes as far as they are known, or nothing. Sizes are filled in that are open: with those
  // of the same name elsewhere, or with something that fits.
  std::string wrong_shapes() const {
    static const char* const plain[2][2] = {{"NCHW", "NGKLYX"}, {"NHWC", "NYXGKL"}};
    static const char* const generated[2][kQuantisedInputs] = {{"NCHW", "NRYX", "GKLR", "GKL", "C", "C", "GKL"},
                                                               {"NHWC", "NYXR", "GKLR", "GKL", "C", "C", "GKL"}};
    const char* const* const axes = dynamic() ? generated[last_] : plain[last_];
    std::map<char, int64_t> sizes;
    for (size_t i = 0; i < get_input_size(); ++i) {
      const ov::PartialShape& shape = get_input_partial_shape(i);
      const std::string names = axes[i];
      if (shape.rank().is_dynamic() || size_t(shape.rank().get_length()) != names.size()) continue;
      // absent
      if (i >= kSpanBias && shape == ov::PartialShape{0}) continue;
      for (size_t d = 0; d < names.size(); ++d) {
        if (shape[d].is_static()) sizes.emplace(names[d], shape[d].get_length());
      }
    }
    for (const char name : std::string("NGHWYXKLR")) sizes.emplace(name, 1);
    sizes.emplace('C', sizes['G']);
    Operand inputs[kQuantisedInputs];
    for (size_t i = 0; i < get_input_size(); ++i) {
      const ov::PartialShape& shape = get_input_partial_shape(i);
      const std::string names = axes[i];
      inputs[i].given = true;
      const size_t rank = shape.rank().is_dynamic() ? names.size() : size_t(shape.rank().get_length());
      for (size_t d = 0; d < rank; ++d) {
        const bool known = shape.rank().is_static() && shape[d].is_static();
        inputs[i].shape.push_back(known ? shape[d].get_length() : d < names.size() ? sizes[names[d]] : 1);
      }
    }
    const Attributes a = attributes();
    return Invocation(dynamic(), a, inputs, quantised()).check();
  }

  Attributes attributes() const {
    return {{stride_[0], stride_[1]}, {padding_[0], padding_[1]}, {dilation_[0], dilation_[1]}, last_, relu_, zero_};
  }

  std::string wrong_attributes() const {
    const struct {
      const char* name;
      const Pair& values;
    } pairs[] = {{"stride", stride_}, {"padding", padding_}, {"dilation", dilation_}};
    for (const auto& pair : pairs) {
      if (pair.values.size() != 2) return std::string(pair.name) + " must be two integers; got " + text(pair.values);
    }
    return wrong(attributes());
  }

  Pair stride_{1, 1}, padding_{0, 0}, dilation_{1, 1};
  int64_t last_ = 0, relu_ = 0, zero_ = 0;
};

class Involution2d : public Involution {
 public:
  OPENVINO_OP("Involution2d", "involution");
  using Involution::Involution;

  Involution2d(const ov::OutputVector& inputs, const Pair& stride, const Pair& padding, const Pair& dilation,
               int64_t last, int64_t relu)
      : Involution(inputs, stride, padding, dilation, last, relu) {
    constructor_validate_and_infer_types();
  }

  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
    return clone<Involution2d>(inputs);
  }

 protected:
  bool dynamic() const override { return false; }
};

class DynamicInvolution2d : public Involution {
 public:
  OPENVINO_OP("DynamicInvolution2d", "involution");
  using Involution::Involution;

  DynamicInvolution2d(const ov::OutputVector& inputs, const Pair& stride, const Pair& padding, const Pair& dilation,
                      int64_t last, int64_t relu)
      : Involution(inputs, stride, padding, dilation, last, relu) {
    constructor_validate_and_infer_types();
  }

  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
    return clone<DynamicInvolution2d>(inputs);
  }

 protected:
  bool dynamic() const override { return true; }
};

// DynamicInvolution2d in 8 bits, which `involution export --int8` writes
class QuantisedInvolution2d : public DynamicInvolution2d {
 public:
  OPENVINO_OP("QuantisedInvolution2d", "involution", DynamicInvolution2d);
  QuantisedInvolution2d() = default;

  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
    const auto copy = std::make_shared<QuantisedInvolution2d>();
    copy->assign(*this);
    copy->set_arguments(inputs);
    copy->validate_and_infer_types();
    return copy;
  }

 protected:
  bool quantised() const override { return true; }
};

ov::Output<ov::Node> transposed(const ov::Output<ov::Node>& input, const Pair& order) {
  const auto axes = ov::op::v0::Constant::create(ov::element::i64, {order.size()}, order);
  return std::make_shared<ov::op::v1::Transpose>(input, axes);
}

// Makes the fused node work on channels_last memory, which the kernels like best; OpenVINO's CPU plugin keeps its
// activations so, and takes the transposes for changes of names.
ov::OutputVector fused(ov::OutputVector inputs, const Pair& stride, const Pair& padding, const Pair& dilation,
                       int64_t last, int64_t relu) {
  if (last) return std::make_shared<DynamicInvolution2d>(inputs, stride, padding, dilation, last, relu)->outputs();
  for (int i = 0; i < 2; ++i) {
    if (inputs[i].get_partial_shape().rank().compatible(4)) continue;
    // this says what is wrong, which a transpose would say in other words
    return std::make_shared<DynamicInvolution2d>(inputs, stride, padding, dilation, 0, relu)->outputs();
  }
  for (int i = 0; i < 2; ++i) inputs[i] = transposed(inputs[i], {0, 2, 3, 1});
  const auto node = std::make_shared<DynamicInvolution2d>(inputs, stride, padding, dilation, 1, relu);
  return {transposed(node->output(0), {0, 3, 1, 2})};
}

// an input that is absent there, and may not be here
ov::Output<ov::Node> nothing(const ov::Output<ov::Node>& like) {
  return ov::op::v0::Constant::create(like.get_element_type(), {0}, std::vector<float>{});
}

// with words where its type is another
template <class T>
T attribute(const ov::frontend::NodeContext& node, const char* name, const T& otherwise, const char* wanted) {
  try {
    return node.get_attribute<T>(name, otherwise);
  } catch (const std::exception&) {
    OPENVINO_THROW(node.get_op_type(), ": ", name, " must be ", wanted);
  }
}

ov::OutputVector from_onnx(const ov::frontend::NodeContext& node) {
  const bool dynamic = node.get_op_type() == "DynamicInvolution2d";
  ov::OutputVector inputs;
  for (size_t i = 0; i < node.get_input_size(); ++i) {
    inputs.push_back(node.get_input(int(i)));
    const std::string kind = inputs.back().get_node()->get_type_name();
    if (kind == "NullNode") inputs.back() = nothing(inputs.front());
  }
  const auto pair = [&](const char* name, int64_t value) {
    return attribute<Pair>(node, name, {value, value}, "two integers");
  };
  const Pair stride = pair("stride", 1), padding = pair("padding", 0), dilation = pair("dilation", 1);
  const auto last = attribute<int64_t>(node, "channels_last", 0, "an integer");
  if (!dynamic) return std::make_shared<Involution2d>(inputs, stride, padding, dilation, last, 0)->outputs();
  OPENVINO_ASSERT(inputs.size() >= 3, "DynamicInvolution2d: wanted 3 to 6 inputs; got ", inputs.size());
  return fused(inputs, stride, padding, dilation, last, attribute<int64_t>(node, "relu", 0, "an integer"));
}

// torch's operators have their geometry among the inputs
ov::OutputVector from_torch(const ov::frontend::NodeContext& node) {
  const bool dynamic = node.get_op_type().find("dynamic") != std::string::npos;
  const bool affine = node.get_op_type().find("affine") != std::string::npos;
  const int geometry = dynamic ? 4 : 2;
  ov::OutputVector inputs;
  const auto add = [&](int i) {
    inputs.push_back(node.input_is_none(i) ? nothing(inputs.front()) : node.get_input(i));
  };
  for (int i = 0; i < geometry; ++i) add(i);
  const auto pair = [&](int i) { return node.get_values_from_const_input(geometry + i).as<Pair>(); };
  if (!dynamic) return std::make_shared<Involution2d>(inputs, pair(0), pair(1), pair(2), 0, 0)->outputs();
  if (affine) add(7), add(8);
  const bool relu = affine && node.get_values_from_const_input(9).as<bool>();
  return fused(inputs, pair(0), pair(1), pair(2), 0, relu);
}

std::vector<ov::Extension::Ptr> extensions() {
  std::vector<ov::Extension::Ptr> all = {std::make_shared<ov::OpExtension<Involution2d>>(),
                                         std::make_shared<ov::OpExtension<DynamicInvolution2d>>(),
                                         std::make_shared<ov::OpExtension<QuantisedInvolution2d>>()};
  for (const char* name : {"Involution2d", "DynamicInvolution2d"}) {
    all.push_back(std::make_shared<ov::frontend::onnx::ConversionExtension>(name, "involution", from_onnx));
  }
  for (const char* name : {"involution2d", "dynamic_involution2d", "dynamic_involution2d_affine"}) {
    // as torch.jit.trace and as torch.export name them
    for (const std::string full :
         {std::string("involution::") + name, std::string("involution.") + name + ".default"}) {
      all.push_back(std::make_shared<ov::frontend::ConversionExtension>(full, from_torch));
    }
  }
  return all;
}

}  // namespace

OPENVINO_CREATE_EXTENSIONS(extensions())

// The kernels behind ONNX Runtime: registers the nodes of src/involution/export/contract.py as custom operators, on the
// runtime's C API alone. They run on the session's threads.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "node.h"
#include "onnxruntime_api.h"

namespace {

using namespace involution;
using namespace involution::ort;

struct Operator : CustomOp {
  const Api* api;
  bool dynamic;
  // in 8 bits
  bool quantised;
  // of all tensors, if not in 8 bits
  ElementType type;
};

const Operator& self(const CustomOp* op) { return *static_cast<const Operator*>(op); }

const char* name_of(const CustomOp* op) {
  return self(op).quantised ? "QuantisedInvolution2d" : self(op).dynamic ? "DynamicInvolution2d" : "Involution2d";
}

ElementType input_type(const CustomOp* op, size_t i) {
  if (!self(op).quantised) return self(op).type;
  return i < kSpanWeight ? kUInt8 : i == kSpanWeight ? kInt8 : kFloat;
}

size_t input_count(const CustomOp* op) {
  return size_t(self(op).quantised ? kQuantisedInputs : self(op).dynamic ? kInputs : 2);
}

// an error that the runtime hands to its caller
Status* error(const Api& api, const Operator& op, const std::string& message) {
  return api.CreateStatus(kInvalidArgument, (std::string(op.GetName(&op)) + ": " + message).c_str());
}

// the answer of a question whose failure only means "no"
bool succeeds(const Api& api, Status* status) {
  if (status != nullptr) api.ReleaseStatus(status);
  return status == nullptr;
}

struct Kernel {
  const Operator& op;
  Attributes attributes;
};

Type type_of(ElementType type) {
  return type == kFloat ? Type::f32 : type == kDouble ? Type::f64 : type == kFloat16 ? Type::f16 : Type::bf16;
}

// Reads an attribute of `count` numbers, one as INT and two as INTS; returns what is wrong with it, or nothing. Without
// it the value stays.
std::string read(const Api& api, const KernelInfo* info, const char* name, int64_t* values, size_t count) {
  size_t found = 0;
  int64_t number = 0;
  const bool one = succeeds(api, api.KernelInfoGetAttribute_int64(info, name, &number));
  const bool list = !one && succeeds(api, api.KernelInfoGetAttributeArray_int64(info, name, nullptr, &found));
  if (count == 1 && one) {
    *values = number;
  } else if (list && found == count && count == 2) {
    succeeds(api, api.KernelInfoGetAttributeArray_int64(info, name, values, &found));
  } else if (one || list) {
    // one of another type counts as a list of no integers
    const std::string got = one ? "one" : found == 0 ? "something else" : std::to_string(found);
    return std::string(name) + (count == 1 ? " must be an integer; got " : " must be two integers; got ") + got;
  }
  return {};
}

Status* create(const CustomOp* base, void* const*, const KernelInfo* info, void** kernel) {
  const Operator& op = self(base);
  Attributes a;
  std::string wrong_one;
  const auto one = [&](const char* name, int64_t* values, size_t count) {
    if (wrong_one.empty()) wrong_one = read(*op.api, info, name, values, count);
  };
  one("stride", a.stride, 2);
  one("padding", a.padding, 2);
  one("dilation", a.dilation, 2);
  one("channels_last", &a.channels_last, 1);
  if (op.quantised) {
    one("zero", &a.zero, 1);
  } else if (op.dynamic) {
    one("relu", &a.relu, 1);
  }
  if (wrong_one.empty()) wrong_one = wrong(a);
  if (!wrong_one.empty()) return error(*op.api, op, wrong_one);
  *kernel = new Kernel{op, a};
  return nullptr;
}

// the kernels' loops on the session's threads
struct Call {
  const Api& api;
  const KernelContext* context;
  std::atomic<bool> failed{false};
};

struct Loop {
  Call& call;
  int64_t begin, end, part;
  void (*body)(int64_t, int64_t, void*);
  void* context;
};

void run_part(void* data, size_t i) {
  const Loop& loop = *static_cast<const Loop*>(data);
  const int64_t from = loop.begin + int64_t(i) * loop.part, to = std::min(loop.end, from + loop.part);
  try {
    if (from < to) loop.body(from, to, loop.context);
  } catch (...) {
    // nothing may be thrown through the runtime's threads
    loop.call.failed = true;
  }
}

// A session doesn't tell how many threads it has, but hands out parts as its threads ask for them, so that more parts
// than threads cost little.
int64_t cores() {
  static const int64_t count = std::max(1u, std::thread::hardware_concurrency());
  return count;
}

void run(void* user, int64_t begin, int64_t end, int64_t grain, void (*body)(int64_t, int64_t, void*), void* context) {
  Call& call = *static_cast<Call*>(user);
  const int64_t count = end - begin;
  if (count <= 0) return;
  const int64_t parts = std::min(4 * cores(), (count - 1) / std::max<int64_t>(grain, 1) + 1);
  if (parts == 1) return body(begin, end, context);
  Loop loop = {call, begin, end, (count - 1) / parts + 1, body, context};
  Status* status = call.api.KernelContext_ParallelFor(call.context, run_part, size_t(parts), 0, &loop);
  if (!succeeds(call.api, status)) call.failed = true;
}

Status* compute_node(const Kernel& kernel, KernelContext* context) {
  const Operator& op = kernel.op;
  const Api& api = *op.api;
  Operand inputs[kQuantisedInputs];
  size_t count = 0;
  if (Status* status = api.KernelContext_GetInputCount(context, &count)) return status;
  for (size_t i = 0; i < count && i < input_count(&op); ++i) {
    const Value* value = nullptr;
    if (Status* status = api.KernelContext_GetInput(context, i, &value)) return status;
    if (value == nullptr) continue;
    TensorInfo* info = nullptr;
    if (Status* status = api.GetTensorTypeAndShape(value, &info)) return status;
    size_t dims = 0;
    Status* status = api.GetDimensionsCount(info, &dims);
    inputs[i].shape.resize(dims);
    if (status == nullptr) status = api.GetDimensions(info, inputs[i].shape.data(), dims);
    api.ReleaseTensorTypeAndShapeInfo(info);
    if (status == nullptr) status = api.GetTensorMutableData(const_cast<Value*>(value), &inputs[i].data);
    if (status != nullptr) return status;
    inputs[i].given = true;
  }
  const Invocation node(op.dynamic, kernel.attributes, inputs, op.quantised);
  const std::string problem = node.check();
  if (!problem.empty()) return error(api, op, problem);
  const Shape shape = node.output();
  Value* output = nullptr;
  void* data = nullptr;
  if (Status* status = api.KernelContext_GetOutput(context, 0, shape.data(), shape.size(), &output)) return status;
  if (Status* status = api.GetTensorMutableData(output, &data)) return status;
  Call call{api, context};
  node.run(type_of(op.type), data, {run, &call, cores()});
  return call.failed ? api.CreateStatus(kRuntimeException, "involution: out of memory") : nullptr;
}

Status* compute(void* data, KernelContext* context) {
  const Kernel& kernel = *static_cast<const Kernel*>(data);
  try {
    return compute_node(kernel, context);
  } catch (const std::exception& e) {
    return error(*kernel.op.api, kernel.op, e.what());
  }
}

// one input's sizes while the graph is read: numbers, or names of open sizes
struct Dims {
  ElementType type;
  Shape sizes;
  std::vector<const char*> names;
};

bool dims_of(const Api& api, const ShapeContext* context, size_t input, size_t wanted, Dims* dims) {
  TensorInfo* info = nullptr;
  size_t count = 0;
  if (!succeeds(api, api.ShapeInferContext_GetInputTypeShape(context, input, &info))) return false;
  // an unknown rank counts as 0; the table of the runtime owns `info`
  if (!succeeds(api, api.GetDimensionsCount(info, &count)) || count != wanted) return false;
  dims->sizes.resize(count);
  dims->names.resize(count);
  return succeeds(api, api.GetTensorElementType(info, &dims->type)) &&
         succeeds(api, api.GetDimensions(info, dims->sizes.data(), count)) &&
         succeeds(api, api.GetSymbolicDimensions(info, dims->names.data(), count));
}

// Tells the output's shape where those of the inputs are known; what is wrong is told when the kernel is created or
// runs. The runtime asks the first of all operators of a name.
Status* infer(const CustomOp* base, ShapeContext* context) {
  const Operator& op = self(base);
  const Api& api = *op.api;
  const Attribute* attribute = nullptr;
  int64_t last = 0;
  size_t bytes = 0;
  if (succeeds(api, api.ShapeInferContext_GetAttribute(context, "channels_last", &attribute)) &&
      !succeeds(api, api.ReadOpAttr(attribute, kInt, &last, sizeof last, &bytes))) {
    return nullptr;
  }
  Dims input, map;
  if (!dims_of(api, context, kInput, 4, &input) || !dims_of(api, context, 1, op.dynamic ? 4 : 6, &map)) return nullptr;
  // where the output's sizes come from
  const size_t height = last ? 1 : op.dynamic ? 2 : 4, channels = last ? 3 : 1;
  const struct {
    const Dims& from;
    size_t at;
  } first[4] = {{input, 0}, {input, channels}, {map, height}, {map, height + 1}};
  const int order[2][4] = {{0, 1, 2, 3}, {0, 2, 3, 1}};
  Shape sizes;
  std::vector<const char*> names;
  std::deque<std::string> made;
  for (const int i : order[last != 0]) {
    sizes.push_back(first[i].from.sizes[first[i].at]);
    names.push_back(first[i].from.names[first[i].at]);
    if (sizes.back() >= 0 || *names.back() != 0) continue;
    // an open size needs a name, and sizes of one name are taken for equal
    static std::atomic<int64_t> count{0};
    names.back() = made.emplace_back("involution_" + std::to_string(count++)).c_str();
  }
  TensorInfo* info = nullptr;
  if (!succeeds(api, api.CreateTensorTypeAndShapeInfo(&info))) return nullptr;
  if (succeeds(api, api.SetTensorElementType(info, input.type)) &&
      succeeds(api, api.SetDimensions(info, sizes.data(), 4)) &&
      succeeds(api, api.SetSymbolicDimensions(info, names.data(), 4))) {
    succeeds(api, api.ShapeInferContext_SetOutputTypeShape(context, 0, info));
  }
  api.ReleaseTensorTypeAndShapeInfo(info);
  return nullptr;
}

Operator describe(const Api* api, bool infers, bool dynamic, ElementType type, bool quantised = false) {
  Operator o{};
  o.api = api;
  o.dynamic = dynamic;
  o.quantised = quantised;
  o.type = type;
  o.version = kVersion;
  o.GetName = name_of;
  o.GetExecutionProviderType = [](const CustomOp*) { return "CPUExecutionProvider"; };
  o.GetInputType = input_type;
  o.GetInputTypeCount = input_count;
  o.GetOutputType = [](const CustomOp* op, size_t) { return self(op).type; };
  o.GetOutputTypeCount = [](const CustomOp*) { return size_t(1); };
  o.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  o.GetInputCharacteristic = [](const CustomOp* op, size_t i) {
    return i < kSpanBias || self(op).quantised ? kRequired : kOptional;
  };
  o.GetOutputCharacteristic = [](const CustomOp*, size_t) { return kRequired; };
  o.GetInputMemoryType = [](const CustomOp*, size_t) { return 0; };
  o.GetVariadicInputMinArity = o.GetVariadicInputHomogeneity = [](const CustomOp*) { return 0; };
  o.GetVariadicOutputMinArity = o.GetVariadicOutputHomogeneity = [](const CustomOp*) { return 0; };
  o.CreateKernelV2 = create;
  o.KernelComputeV2 = compute;
  if (infers) o.InferOutputShapeFn = infer;
  o.GetStartVersion = o.GetEndVersion = [](const CustomOp*) { return 1; };
  return o;
}

// the operators of one runtime; a process may hold several
struct Registration {
  Api api;
  std::deque<Operator> operators;

  Registration(void* const* table, const char* version) : api(table) {
    // older ones read past absent inputs before they infer a shape
    int minor = 0;
    const bool infers = std::sscanf(version, "1.%d", &minor) == 0 || minor >= 24;
    for (const bool dynamic : {false, true}) {
      for (const ElementType type : {kFloat, kFloat16, kBFloat16, kDouble}) {
        operators.push_back(describe(&api, infers, dynamic, type));
      }
    }
    operators.push_back(describe(&api, infers, true, kUInt8, true));
  }
};

// kept until the process ends: sessions refer to it
const Registration& registration(void* const* table, const char* version) {
  static std::mutex mutex;
  static auto& all = *new std::vector<std::unique_ptr<Registration>>;
  const std::lock_guard<std::mutex> lock(mutex);
  for (const auto& known : all) {
    if (known->api.table == table) return *known;
  }
  all.push_back(std::make_unique<Registration>(table, version));
  return *all.back();
}

}  // namespace

// what a session calls: register_custom_ops_library in Python, RegisterCustomOpsLibrary_V2 in C
extern "C" __attribute__((visibility("default"))) Status* RegisterCustomOps(SessionOptions* options,
                                                                            const ApiBase* base) {
  void* const* table = base->GetApi(kVersion);
  if (table == nullptr) {
    // every version has its first entries
    const std::string message =
        std::string("involution needs ONNX Runtime 1.17 or later; this is ") + base->GetVersionString();
    return Api(base->GetApi(1)).CreateStatus(kFail, message.c_str());
  }
  const Registration& ours = registration(table, base->GetVersionString());
  if (kernels() == nullptr) {
    std::string names;
    for (const Kernels* set : available()) names += (names.empty() ? "" : ", ") + std::string(set->name);
    return ours.api.CreateStatus(kFail, ("INVOLUTION_CPU must be one of " + names + " on this processor").c_str());
  }
  Domain* domain = nullptr;
  if (Status* status = ours.api.CreateCustomOpDomain("involution", &domain)) return status;
  for (const Operator& op : ours.operators) {
    if (Status* status = ours.api.CustomOpDomain_Add(domain, &op)) return status;
  }
  return ours.api.AddCustomOpDomain(options, domain);
}

// What register_onnxruntime.cpp uses of ONNX Runtime's C API, so that the library builds where the headers are not, and
// one file serves every version from 1.17. The API is a table of functions that only grows: an entry keeps its place
// and its type, so these two are all there is to know.
#pragma once

#include <cstddef>
#include <cstdint>

namespace involution::ort {

struct Status;
struct Value;
struct Domain;
struct SessionOptions;
struct KernelInfo;
struct KernelContext;
struct ShapeContext;
struct TensorInfo;
struct Attribute;

// the first with shape inference of custom operators and the session's threads
constexpr uint32_t kVersion = 17;

enum ErrorCode { kFail = 1, kInvalidArgument = 2, kRuntimeException = 6 };
enum ElementType { kUndefined = 0, kFloat = 1, kUInt8 = 2, kInt8 = 3, kFloat16 = 10, kDouble = 11, kBFloat16 = 16 };
enum AttributeType { kInt = 1 };
enum Characteristic { kRequired = 0, kOptional = 1 };

// place, name, type
#define INVOLUTION_ORT_ENTRIES(ENTRY)                                                                       \
  ENTRY(0, CreateStatus, Status*(ErrorCode, const char*))                                                   \
  ENTRY(26, CreateCustomOpDomain, Status*(const char*, Domain**))                                           \
  ENTRY(27, CustomOpDomain_Add, Status*(Domain*, const struct CustomOp*))                                   \
  ENTRY(28, AddCustomOpDomain, Status*(SessionOptions*, Domain*))                                           \
  ENTRY(51, GetTensorMutableData, Status*(Value*, void**))                                                  \
  ENTRY(57, CreateTensorTypeAndShapeInfo, Status*(TensorInfo**))                                            \
  ENTRY(58, SetTensorElementType, Status*(TensorInfo*, ElementType))                                        \
  ENTRY(59, SetDimensions, Status*(TensorInfo*, const int64_t*, size_t))                                    \
  ENTRY(60, GetTensorElementType, Status*(const TensorInfo*, ElementType*))                                 \
  ENTRY(61, GetDimensionsCount, Status*(const TensorInfo*, size_t*))                                        \
  ENTRY(62, GetDimensions, Status*(const TensorInfo*, int64_t*, size_t))                                    \
  ENTRY(63, GetSymbolicDimensions, Status*(const TensorInfo*, const char**, size_t))                        \
  ENTRY(65, GetTensorTypeAndShape, Status*(const Value*, TensorInfo**))                                     \
  ENTRY(86, KernelInfoGetAttribute_int64, Status*(const KernelInfo*, const char*, int64_t*))                \
  ENTRY(88, KernelContext_GetInputCount, Status*(const KernelContext*, size_t*))                            \
  ENTRY(90, KernelContext_GetInput, Status*(const KernelContext*, size_t, const Value**))                   \
  ENTRY(91, KernelContext_GetOutput, Status*(KernelContext*, size_t, const int64_t*, size_t, Value**))      \
  ENTRY(93, ReleaseStatus, void(Status*))                                                                   \
  ENTRY(99, ReleaseTensorTypeAndShapeInfo, void(TensorInfo*))                                               \
  ENTRY(163, KernelInfoGetAttributeArray_int64, Status*(const KernelInfo*, const char*, int64_t*, size_t*)) \
  ENTRY(268, ShapeInferContext_GetInputTypeShape, Status*(const ShapeContext*, size_t, TensorInfo**))       \
  ENTRY(269, ShapeInferContext_GetAttribute, Status*(const ShapeContext*, const char*, const Attribute**))  \
  ENTRY(270, ShapeInferContext_SetOutputTypeShape, Status*(const ShapeContext*, size_t, const TensorInfo*)) \
  ENTRY(271, SetSymbolicDimensions, Status*(TensorInfo*, const char**, size_t))                             \
  ENTRY(272, ReadOpAttr, Status*(const Attribute*, AttributeType, void*, size_t, size_t*))                  \
  ENTRY(274, KernelContext_ParallelFor,                                                                     \
        Status*(const KernelContext*, void (*)(void*, size_t), size_t total, size_t batches, void* user))

template <class Function>
using Pointer = Function*;

struct Api {
  explicit Api(void* const* table)
      :
#define ENTRY(place, name, ...) name(reinterpret_cast<Pointer<__VA_ARGS__>>(table[place])),
        INVOLUTION_ORT_ENTRIES(ENTRY)
#undef ENTRY
            table(table) {
  }

#define ENTRY(place, name, ...) Pointer<__VA_ARGS__> const name;
  INVOLUTION_ORT_ENTRIES(ENTRY)
#undef ENTRY
  void* const* const table;
};

struct ApiBase {
  // the table, or null if the runtime is older than the version
  void* const* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

// what describes an operator to the runtime, as of version 17; it reads no further
struct CustomOp {
  uint32_t version;
  void* (*CreateKernel)(const CustomOp*, void* const* table, const KernelInfo*);
  const char* (*GetName)(const CustomOp*);
  const char* (*GetExecutionProviderType)(const CustomOp*);
  ElementType (*GetInputType)(const CustomOp*, size_t);
  size_t (*GetInputTypeCount)(const CustomOp*);
  ElementType (*GetOutputType)(const CustomOp*, size_t);
  size_t (*GetOutputTypeCount)(const CustomOp*);
  void (*KernelCompute)(void*, KernelContext*);
  void (*KernelDestroy)(void*);
  Characteristic (*GetInputCharacteristic)(const CustomOp*, size_t);
  Characteristic (*GetOutputCharacteristic)(const CustomOp*, size_t);
  int (*GetInputMemoryType)(const CustomOp*, size_t);
  int (*GetVariadicInputMinArity)(const CustomOp*);
  int (*GetVariadicInputHomogeneity)(const CustomOp*);
  int (*GetVariadicOutputMinArity)(const CustomOp*);
  int (*GetVariadicOutputHomogeneity)(const CustomOp*);
  Status* (*CreateKernelV2)(const CustomOp*, void* const* table, const KernelInfo*, void**);
  Status* (*KernelComputeV2)(void*, KernelContext*);
  Status* (*InferOutputShapeFn)(const CustomOp*, ShapeContext*);
  int (*GetStartVersion)(const CustomOp*);
  int (*GetEndVersion)(const CustomOp*);
};

}  // namespace involution::ort

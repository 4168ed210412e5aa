// Chooses the instruction set on first use of the library. With INVOLUTION_INFERENCE the library has no gradients,
// whose code the linker then leaves out. A set that was not compiled has no address.
#include <cstdlib>
#include <cstring>
#include <vector>

#include "problem.h"

#define INVOLUTION_ON_any(...) __VA_ARGS__
#if defined(__x86_64__)
#define INVOLUTION_ON_x86_64(...) __VA_ARGS__
#else
#define INVOLUTION_ON_x86_64(...)
#endif

#if defined(INVOLUTION_INFERENCE)
#define INVOLUTION_TABLE(name) name##_inference
#else
#define INVOLUTION_TABLE(name) name##_training
#endif

namespace involution {

#define INVOLUTION_SET(name, architecture, features) \
  INVOLUTION_ON_##architecture(extern const Kernels INVOLUTION_TABLE(name) __attribute__((weak));)
#include "sets/list.h"
#undef INVOLUTION_SET

const std::vector<const Kernels*>& available() {
  static const std::vector<const Kernels*> sets = [] {
    std::vector<const Kernels*> found;
#define F(feature) &&__builtin_cpu_supports(#feature)
#define INVOLUTION_SET(name, architecture, features)                            \
  INVOLUTION_ON_##architecture(if (&INVOLUTION_TABLE(name) != nullptr features) \
                                   found.push_back(&INVOLUTION_TABLE(name));)
#include "sets/list.h"
#undef INVOLUTION_SET
#undef F
    return found;
  }();
  return sets;
}

const Kernels* kernels() {
  static const Kernels* const chosen = []() -> const Kernels* {
    const char* wanted = std::getenv("INVOLUTION_CPU");
    if (wanted == nullptr || *wanted == 0) return available().front();
    for (const Kernels* set : available()) {
      if (std::strcmp(wanted, set->name) == 0) return set;
    }
    return nullptr;
  }();
  return chosen;
}

}  // namespace involution

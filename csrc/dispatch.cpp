// Chooses the instruction set when the library is first used.
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "problem.h"

namespace involution {

extern const Kernels baseline_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
#endif

namespace {

struct Candidate {
  const Kernels* kernels;
  bool runs;
};

const Kernels& choose() {
  const Candidate candidates[] = {
#if defined(__x86_64__)
      {&avx512_kernels, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                            __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")},
      {&avx2_kernels,
       __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")},
#endif
      {&baseline_kernels, true},
  };
  const char* wanted = std::getenv("INVOLUTION_CPU");
  std::string names;
  for (const Candidate& candidate : candidates) {
    if (!candidate.runs) continue;
    if (wanted == nullptr || std::strcmp(wanted, candidate.kernels->name) == 0) return *candidate.kernels;
    names += names.empty() ? candidate.kernels->name : std::string(", ") + candidate.kernels->name;
  }
  throw std::runtime_error("INVOLUTION_CPU must be one of " + names + " on this processor; got " + wanted);
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace involution

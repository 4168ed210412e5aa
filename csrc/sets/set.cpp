// The kernels of one instruction set. Compiled once for each set, with its flags and its name as INVOLUTION_NAME.
#include "../kernels/gather.h"
#include "../kernels/generate_backward.h"
#include "../kernels/map_gradient.h"

#define INVOLUTION_TABLE(name, kind) INVOLUTION_JOIN(name, kind)
#define INVOLUTION_JOIN(name, kind) name##_##kind
#define INVOLUTION_STRING(name) INVOLUTION_QUOTED(name)
#define INVOLUTION_QUOTED(name) #name

namespace involution {

extern const Kernels INVOLUTION_TABLE(INVOLUTION_NAME, training), INVOLUTION_TABLE(INVOLUTION_NAME, inference);
const Kernels INVOLUTION_TABLE(INVOLUTION_NAME, training) = {INVOLUTION_STRING(INVOLUTION_NAME),
                                                             gather<false>,
                                                             gather<true>,
                                                             map_gradient,
                                                             dynamic_forward,
                                                             dynamic_backward,
                                                             quantised_forward};
const Kernels INVOLUTION_TABLE(INVOLUTION_NAME, inference) = {
    INVOLUTION_STRING(INVOLUTION_NAME), gather<false>, nullptr, nullptr, dynamic_forward, nullptr, quantised_forward};

}  // namespace involution

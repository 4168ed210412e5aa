// The kernels of one instruction set. Compiled once for each set, with its flags and its name as INVOLUTION_NAME.
#include "../kernels/gather.h"
#include "../kernels/generate_backward.h"
#include "../kernels/map_gradient.h"

#define INVOLUTION_KERNELS(name) INVOLUTION_JOIN(name, _kernels)
#define INVOLUTION_JOIN(name, rest) name##rest
#define INVOLUTION_STRING(name) INVOLUTION_QUOTED(name)
#define INVOLUTION_QUOTED(name) #name

namespace involution {

extern const Kernels INVOLUTION_KERNELS(INVOLUTION_NAME);
const Kernels INVOLUTION_KERNELS(INVOLUTION_NAME) = {
    INVOLUTION_STRING(INVOLUTION_NAME), gather<false>, gather<true>, map_gradient, dynamic_forward, dynamic_backward};

}  // namespace involution

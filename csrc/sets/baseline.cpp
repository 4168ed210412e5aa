#include "../kernels/set.h"

INVOLUTION_KERNELS(baseline)

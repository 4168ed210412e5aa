#include "../kernels/set.h"

INVOLUTION_KERNELS(avx512)

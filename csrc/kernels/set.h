// One instruction set's kernels under a name of its own.
#pragma once

#include "gather.h"
#include "generate_backward.h"
#include "map_gradient.h"

#define INVOLUTION_KERNELS(set)                                                                             \
  namespace involution {                                                                                    \
  extern const Kernels set##_kernels;                                                                       \
  const Kernels set##_kernels = {#set,         gather<false>,   gather<true>,                               \
                                 map_gradient, dynamic_forward, dynamic_backward};                          \
  }

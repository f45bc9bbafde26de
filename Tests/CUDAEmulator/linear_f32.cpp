#define APUS_CUDA_EMULATION
#include "../../Sources/ApusCUDA/Kernels/linear_f32.cu"

#include "register.h"

KERNELS(KERNEL(linear_f32))

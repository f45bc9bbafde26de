#define APUS_CUDA_EMULATION
#include "../../Sources/ApusCUDA/Kernels/linear_bf16.cu"

#include "register.h"

KERNELS(KERNEL(linear_bf16))

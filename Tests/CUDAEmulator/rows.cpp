#define APUS_CUDA_EMULATION
#include "../../Sources/ApusCUDA/Kernels/rows.cu"

#include "register.h"

KERNELS(KERNEL(gather_f32), KERNEL(gather_bf16), KERNEL(layer_norm_f32), KERNEL(layer_norm_bf16),
        KERNEL(activate_f32), KERNEL(activate_bf16), KERNEL(add_f32), KERNEL(add_bf16), KERNEL(pool_f32),
        KERNEL(pool_bf16))

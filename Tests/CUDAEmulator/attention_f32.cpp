#define APUS_CUDA_EMULATION
#include "../../Sources/ApusCUDA/Kernels/attention_f32.cu"

#include "register.h"

KERNELS(KERNEL(attention_f32_16), KERNEL(attention_f32_32), KERNEL(attention_f32_48), KERNEL(attention_f32_64))

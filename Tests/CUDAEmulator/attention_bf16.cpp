#define APUS_CUDA_EMULATION
#include "../../Sources/ApusCUDA/Kernels/attention_bf16.cu"

#include "register.h"

KERNELS(KERNEL(attention_bf16_16), KERNEL(attention_bf16_32), KERNEL(attention_bf16_48), KERNEL(attention_bf16_64))

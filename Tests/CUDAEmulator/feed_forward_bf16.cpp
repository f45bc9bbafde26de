#define APUS_CUDA_EMULATION
#include "../../Sources/ApusCUDA/Kernels/feed_forward_bf16.cu"

#include "register.h"

KERNELS(KERNEL(feed_forward_bf16_128), KERNEL(feed_forward_bf16_192), KERNEL(feed_forward_bf16_256))

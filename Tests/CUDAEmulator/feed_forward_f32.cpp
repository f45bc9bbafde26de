#define APUS_CUDA_EMULATION
#include "../../Sources/ApusCUDA/Kernels/feed_forward_f32.cu"

#include "register.h"

KERNELS(KERNEL(feed_forward_f32_128), KERNEL(feed_forward_f32_192), KERNEL(feed_forward_f32_256))

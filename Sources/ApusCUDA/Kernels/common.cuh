// What every kernel shares: element types, 16-byte asynchronous copies, reductions over lanes.
//
// Compiled by NVRTC without any CUDA header, and by a C++ compiler with an emulation header in place of the built-ins.
#pragma once

#ifdef APUS_CUDA_EMULATION
#include "emulation.h"
#else
#define APUS_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

typedef unsigned int u32;
typedef unsigned long long u64;

// Threads of a block, in every kernel.
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// A bf16 number: the upper half of an f32.
struct bf16 {
  unsigned short bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }

// Rounds to nearest, ties to even; a NaN stays one.
__device__ __forceinline__ void from_float(float x, float &out) { out = x; }
__device__ __forceinline__ void from_float(float x, bf16 &out) {
  u32 bits = __float_as_uint(x);
  out.bits = x != x ? (unsigned short)0x7fff : (unsigned short)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// MARK: asynchronous copies

#ifndef APUS_CUDA_EMULATION
// Copies `bytes` (at most 16) from global to shared memory and fills up to 16 with zeros; both addresses are multiples
// of 16.
__device__ __forceinline__ void copy_async_16(void *shared, const void *global, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((u32)__cvta_generic_to_shared(shared)),
               "l"(global), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `N` of this thread's latest groups of copies are under way.
template <int N>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
#endif

// Whether rows `ld` elements apart may be copied in pieces of 16 bytes.
template <class T>
__device__ __forceinline__ bool copies_in_16(const T *p, int ld) {
  return (((u64)p | (u64)ld * sizeof(T)) & 15) == 0;
}

// Brings `[ROWS, COLUMNS]` of a row-major matrix in global memory to shared rows of `stride` elements, by all threads.
// Rows from `rows` on and columns from `columns` on become zero. Ends without waiting.
template <int ROWS, int COLUMNS, class T>
__device__ __forceinline__ void stage(T *shared, int stride, const T *global, int ld, int rows, int columns) {
  constexpr int kPiece = 16 / sizeof(T);
  constexpr int kPieces = COLUMNS / kPiece;
  static_assert(COLUMNS % kPiece == 0, "whole pieces");
  const bool whole = copies_in_16(global, ld);
  for (int i = threadIdx.x; i < ROWS * kPieces; i += kThreads) {
    const int row = i / kPieces, column = i % kPieces * kPiece;
    int valid = row < rows ? columns - column : 0;
    valid = valid < 0 ? 0 : valid > kPiece ? kPiece : valid;
    T *to = shared + row * stride + column;
    // What is not copied is not addressed either.
    const T *from = valid > 0 ? global + (u64)row * ld + column : global;
    if (whole) {
      copy_async_16(to, from, valid * sizeof(T));
    } else {
      for (int e = 0; e < kPiece; e++) {
        T zero = {};
        to[e] = e < valid ? from[e] : zero;
      }
    }
  }
}

// MARK: reductions

// Over the `LANES` lanes that differ in their lowest bits; every one of them gets the result.
template <int LANES>
__device__ __forceinline__ float lanes_max(float x) {
#pragma unroll
  for (int step = LANES / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
}

template <int LANES>
__device__ __forceinline__ float lanes_sum(float x) {
#pragma unroll
  for (int step = LANES / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// Over all threads of the block; `partial` is shared memory for `kWarps` numbers.
__device__ __forceinline__ float block_sum(float x, float *partial) {
  x = lanes_sum<32>(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; w++) sum += partial[w];
  return sum;
}

// MARK: activations

// Numbers as `ApusKernels.Activation` has them.
enum : int { kSiLU = 0, kGELU = 1, kGELUTanh = 2, kReLU = 3 };

__device__ __forceinline__ float activated(int activation, float x) {
  switch (activation) {
    case kGELU: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case kReLU: return x > 0 ? x : 0;
    default: break;
  }
  // (1 + tanh t) / 2 is the logistic function of 2 t.
  const float t = activation == kSiLU ? x : 2 * 0.79788456080286536f * (x + 0.044715f * x * x * x);
  return x / (1.0f + expf(-t));
}

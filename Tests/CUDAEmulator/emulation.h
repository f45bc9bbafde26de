// What the kernels' sources need where no CUDA compiler is: built-ins, and in software what they say in PTX.
//
// A block's threads are fibers of one thread of the process. A thread leaves the processor only where it waits for
// others: at a barrier of the block, or of its warp. Threads that wait for each other in vain are reported.
#pragma once
#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef __clang__
#pragma clang diagnostic ignored "-Wpass-failed"
#endif

#define __device__
#define __global__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(n)

namespace emulation {
struct Index {
  unsigned x, y, z;
};

// What lanes of a warp exchange at one of their barriers.
struct Exchange {
  unsigned words[32][8];
  const void *rows[32];
};

extern Index thread, block;
extern unsigned char *shared;

// Waits for all threads of the block that have not ended.
void block_barrier();
// The words of this lane's warp for its next exchange; they are whole after `warp_barrier`, until the exchange after
// next.
Exchange &exchange();
void warp_barrier();
// Traps unless `bytes` at `p` lie in the block's shared memory.
void check_shared(const void *p, unsigned long bytes);
}  // namespace emulation

#define threadIdx emulation::thread
#define blockIdx emulation::block
#define APUS_SHARED(name) unsigned char *name = emulation::shared

inline void __syncthreads() { emulation::block_barrier(); }
inline void __syncwarp() {
  emulation::exchange();
  emulation::warp_barrier();
}

inline float __uint_as_float(unsigned x) {
  float f;
  memcpy(&f, &x, 4);
  return f;
}

inline unsigned __float_as_uint(float f) {
  unsigned x;
  memcpy(&x, &f, 4);
  return x;
}

inline float __shfl_xor_sync(unsigned, float x, int mask) {
  const unsigned lane = threadIdx.x % 32;
  emulation::Exchange &e = emulation::exchange();
  e.words[lane][0] = __float_as_uint(x);
  emulation::warp_barrier();
  return __uint_as_float(e.words[lane ^ mask][0]);
}

// Rounded twice: the kernels' bars do not need once, and many processors have it only as a call.
inline float emulated_fma(float a, float b, float c) { return a * b + c; }
#define fmaf emulated_fma

// Copies arrive when the thread waits for them; until then the place holds NaNs.
void copy_async_16(void *shared, const void *global, int bytes);
void copy_async_commit();
void copy_async_wait_groups(int n);
template <int N>
inline void copy_async_wait() {
  copy_async_wait_groups(N);
}

struct bf16;
inline float emulated_bf16(unsigned bits) { return __uint_as_float(bits << 16); }

inline unsigned emulated_round(float x) {
  unsigned bits = __float_as_uint(x);
  return x != x ? 0x7fff : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

inline unsigned pack(float low, float high) { return emulated_round(low) | emulated_round(high) << 16; }

inline void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  const unsigned lane = threadIdx.x % 32;
  emulation::Exchange &e = emulation::exchange();
  for (int i = 0; i < 4; i++) e.words[lane][i] = a[i];
  e.words[lane][4] = b0;
  e.words[lane][5] = b1;
  emulation::warp_barrier();
  for (int i = 0; i < 4; i++) {
    const int row = lane / 4, column = lane % 4 * 2 + i % 2;
    float sum = c[i];
    for (int k = 0; k < 16; k++) {
      const int pair = k % 8 / 2, shift = k % 2 * 16;
      const unsigned left = e.words[row * 4 + pair][i / 2 + k / 8 * 2] >> shift & 0xffff;
      const unsigned right = e.words[column * 4 + pair][4 + k / 8] >> shift & 0xffff;
      sum += emulated_bf16(left) * emulated_bf16(right);
    }
    c[i] = sum;
  }
}

inline emulation::Exchange &exchange_rows(const void *row) {
  emulation::check_shared(row, 16);
  if ((unsigned long)row % 16 != 0) abort();
  emulation::Exchange &e = emulation::exchange();
  e.rows[threadIdx.x % 32] = row;
  emulation::warp_barrier();
  return e;
}

inline void load_matrices(unsigned (&r)[4], const bf16 *row) {
  const unsigned lane = threadIdx.x % 32;
  emulation::Exchange &e = exchange_rows(row);
  for (int i = 0; i < 4; i++) memcpy(&r[i], (const char *)e.rows[i * 8 + lane / 4] + lane % 4 * 4, 4);
}

inline void load_matrices_transposed(unsigned (&r)[4], const bf16 *row) {
  const unsigned lane = threadIdx.x % 32;
  emulation::Exchange &e = exchange_rows(row);
  for (int i = 0; i < 4; i++) {
    unsigned short pair[2];
    for (int j = 0; j < 2; j++) memcpy(&pair[j], (const char *)e.rows[i * 8 + lane % 4 * 2 + j] + lane / 4 * 2, 2);
    r[i] = pair[0] | (unsigned)pair[1] << 16;
  }
}

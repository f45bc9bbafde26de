// Products of tiles in shared memory on the tensor cores: bf16 factors, f32 sums, `mma.sync.m16n8k16`.
//
// Lane t of a warp holds, of a 16 × 8 result, rows t / 4 and t / 4 + 8, columns 2 · (t % 4) and the next: the layout of
// a result is the layout of a left factor, so that results are factors of the next product without leaving registers.
#pragma once
#include "common.cuh"

constexpr int kTileRows = 128;
// Rows in shared memory are eight elements longer than they need, so that eight of them fall into different banks.
constexpr int kPad16 = 8;

#ifndef APUS_CUDA_EMULATION
// c += a · b for a `[16, 16]`, b `[16, 8]`.
__device__ __forceinline__ void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8 × 8 matrices; lane t names row t % 8 of matrix t / 8 and gets two neighbours of row t / 4 of each.
__device__ __forceinline__ void load_matrices(u32 (&r)[4], const bf16 *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"((u32)__cvta_generic_to_shared(row))
               : "memory");
}

// The same with each matrix transposed.
__device__ __forceinline__ void load_matrices_transposed(u32 (&r)[4], const bf16 *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"((u32)__cvta_generic_to_shared(row))
               : "memory");
}

// Two numbers rounded to bf16, the first in the lower half.
__device__ __forceinline__ u32 pack(float low, float high) {
  u32 packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
#endif

__device__ __forceinline__ int lane() { return threadIdx.x % 32; }
__device__ __forceinline__ int warp() { return threadIdx.x / 32; }

// The `[16, 16]` left factor at `tile`, rows `stride` elements apart.
__device__ __forceinline__ void load_left(u32 (&a)[4], const bf16 *tile, int stride) {
  load_matrices(a, tile + lane() % 16 * stride + lane() / 16 * 8);
}

// The right factors of two neighbouring 8-column results, from 16 rows that each hold a column: b[0], b[1] and b[2],
// b[3].
__device__ __forceinline__ void load_right_rows(u32 (&b)[4], const bf16 *tile, int stride) {
  load_matrices(b, tile + (lane() / 16 * 8 + lane() % 8) * stride + lane() / 8 % 2 * 8);
}

// The same from 16 rows of the inner dimension, each 16 columns long.
__device__ __forceinline__ void load_right_columns(u32 (&b)[4], const bf16 *tile, int stride) {
  load_matrices_transposed(b, tile + lane() % 16 * stride + lane() / 16 * 8);
}

// A left factor as the sum of two, the second of what rounding the first left over: as good as 16 bits. A right factor
// is read once for both, and reading it is what products of 16 rows wait for.
struct Left {
  u32 high[4], low[4];
};

__device__ __forceinline__ void split(u32 &high, u32 &low, float first, float second) {
  high = pack(first, second);
  low = pack(first - __uint_as_float(high << 16), second - __uint_as_float(high & 0xffff0000u));
}

// Two neighbouring 8-column results as the left factor of 16 inner columns.
__device__ __forceinline__ Left as_left(const float (&left)[4], const float (&right)[4]) {
  Left a;
  split(a.high[0], a.low[0], left[0], left[1]);
  split(a.high[1], a.low[1], left[2], left[3]);
  split(a.high[2], a.low[2], right[0], right[1]);
  split(a.high[3], a.low[3], right[2], right[3]);
  return a;
}

__device__ __forceinline__ void mma(float (&c)[4], const Left &a, u32 b0, u32 b1) {
  mma(c, a.low, b0, b1);
  mma(c, a.high, b0, b1);
}

// c `[16, TILES · 8]` += a `[16, 16]` · bᵀ, b being `[TILES · 8, 16]` in shared memory.
template <int TILES, class A>
__device__ __forceinline__ void multiply_rows(float (&c)[TILES][4], const A &a, const bf16 *b, int stride) {
  static_assert(TILES % 2 == 0, "right factors come in pairs");
#pragma unroll
  for (int n = 0; n < TILES; n += 2) {
    u32 r[4];
    load_right_rows(r, b + n * 8 * stride, stride);
    mma(c[n], a, r[0], r[1]);
    mma(c[n + 1], a, r[2], r[3]);
  }
}

// c `[16, TILES · 8]` += a `[16, 16]` · b, b being `[16, TILES · 8]` in shared memory.
template <int TILES, class A>
__device__ __forceinline__ void multiply_columns(float (&c)[TILES][4], const A &a, const bf16 *b, int stride) {
  static_assert(TILES % 2 == 0, "right factors come in pairs");
#pragma unroll
  for (int n = 0; n < TILES; n += 2) {
    u32 r[4];
    load_right_columns(r, b + n * 8, stride);
    mma(c[n], a, r[0], r[1]);
    mma(c[n + 1], a, r[2], r[3]);
  }
}

template <int TILES>
__device__ __forceinline__ void set_zero(float (&c)[TILES][4]) {
#pragma unroll
  for (int n = 0; n < TILES; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) c[n][e] = 0;
}

// Row and column, within a 16 × 8 result, of this lane's element `e`.
__device__ __forceinline__ int result_row(int e) { return lane() / 4 + e / 2 * 8; }
__device__ __forceinline__ int result_column(int e) { return lane() % 4 * 2 + e % 2; }

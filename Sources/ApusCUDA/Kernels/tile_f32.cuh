// Products of tiles in shared memory in f32, by the 16 × 16 threads of a block.
//
// Thread (ty, tx) owns the rows ty·8 … ty·8 + 7 and the columns tx, tx + 16, …: the eight rows are the same address for
// half a warp, and rows of columns that are a multiple of four but not of eight words apart fall into different banks.
#pragma once
#include "common.cuh"

constexpr int kTileRows = 128;
constexpr int kRowsPerThread = 8;

__device__ __forceinline__ int tile_row() { return threadIdx.x / 16 * kRowsPerThread; }
__device__ __forceinline__ int tile_column() { return threadIdx.x % 16; }

struct __align__(16) float4_t {
  float x, y, z, w;
};

__device__ __forceinline__ float4_t load4(const float *p) { return *(const float4_t *)p; }

// acc[i][j] += Σ_k a[row i][k] · b[column j][k], k in steps of four.
template <int COLUMNS>
__device__ __forceinline__ void multiply_rows(float (&acc)[kRowsPerThread][COLUMNS], const float *a, int lda,
                                              const float *b, int ldb, int k) {
  a += tile_row() * lda;
  b += tile_column() * ldb;
#pragma unroll 2
  for (int kk = 0; kk < k; kk += 4) {
    float4_t x[kRowsPerThread];
#pragma unroll
    for (int i = 0; i < kRowsPerThread; i++) x[i] = load4(a + i * lda + kk);
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) {
      const float4_t y = load4(b + j * 16 * ldb + kk);
#pragma unroll
      for (int i = 0; i < kRowsPerThread; i++) {
        acc[i][j] = fmaf(x[i].x, y.x, acc[i][j]);
        acc[i][j] = fmaf(x[i].y, y.y, acc[i][j]);
        acc[i][j] = fmaf(x[i].z, y.z, acc[i][j]);
        acc[i][j] = fmaf(x[i].w, y.w, acc[i][j]);
      }
    }
  }
}

// acc[i][j] += Σ_k a[row i][k] · b[k][column j].
template <int COLUMNS>
__device__ __forceinline__ void multiply_columns(float (&acc)[kRowsPerThread][COLUMNS], const float *a, int lda,
                                                 const float *b, int ldb, int k) {
  a += tile_row() * lda;
  b += tile_column();
#pragma unroll 2
  for (int kk = 0; kk < k; kk += 4) {
    float4_t x[kRowsPerThread];
#pragma unroll
    for (int i = 0; i < kRowsPerThread; i++) x[i] = load4(a + i * lda + kk);
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) {
      const float *y = b + kk * ldb + j * 16;
#pragma unroll
      for (int i = 0; i < kRowsPerThread; i++) {
        acc[i][j] = fmaf(x[i].x, y[0], acc[i][j]);
        acc[i][j] = fmaf(x[i].y, y[ldb], acc[i][j]);
        acc[i][j] = fmaf(x[i].z, y[2 * ldb], acc[i][j]);
        acc[i][j] = fmaf(x[i].w, y[3 * ldb], acc[i][j]);
      }
    }
  }
}

template <int COLUMNS>
__device__ __forceinline__ void set_zero(float (&acc)[kRowsPerThread][COLUMNS]) {
#pragma unroll
  for (int i = 0; i < kRowsPerThread; i++)
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) acc[i][j] = 0;
}

// Elements of a row of k numbers in shared memory: with four more, rows start in different banks.
constexpr int kPad32 = 4;
// Columns of a piece of the inner dimension.
constexpr int kInner32 = 32;
constexpr int kInnerStride32 = kInner32 + kPad32;

// acc += x · wᵀ of `[128, inner]` and `[COLUMNS · 16, inner]` in global memory, in pieces of `kInner32` that are copied
// while the one before is multiplied. `shared` holds 2 · (128 + COLUMNS · 16) · kInnerStride32 numbers, free to use on
// entry for all threads, and again on return.
template <int COLUMNS>
__device__ __forceinline__ void multiply_global(float (&acc)[kRowsPerThread][COLUMNS], const float *x, int ldx,
                                                int rows, const float *w, int ldw, int columns, int inner,
                                                float *shared) {
  constexpr int kStage = (kTileRows + COLUMNS * 16) * kInnerStride32;
  auto bring = [&](int first, int buffer) {
    float *at = shared + buffer * kStage;
    stage<kTileRows, kInner32>(at, kInnerStride32, x + first, ldx, rows, inner - first);
    stage<COLUMNS * 16, kInner32>(at + kTileRows * kInnerStride32, kInnerStride32, w + first, ldw, columns,
                                  inner - first);
    copy_async_commit();
  };
  bring(0, 0);
  for (int first = 0, buffer = 0; first < inner; first += kInner32, buffer ^= 1) {
    const bool more = first + kInner32 < inner;
    if (more) {
      bring(first + kInner32, buffer ^ 1);
      copy_async_wait<1>();
    } else {
      copy_async_wait<0>();
    }
    __syncthreads();
    const float *at = shared + buffer * kStage;
    multiply_rows<COLUMNS>(acc, at, kInnerStride32, at + kTileRows * kInnerStride32, kInnerStride32, kInner32);
    __syncthreads();
  }
}

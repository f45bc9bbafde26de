// out = x · wᵀ + bias, f32.
//
//   x [rows, inner]   w [columns, inner]   bias [columns] or null   out [rows, columns]
//
// A block computes 128 × 128 of out. Grid: (⌈rows / 128⌉, ⌈columns / 128⌉).
#include "tile_f32.cuh"

constexpr int kColumns = 8;

extern "C" __constant__ int linear_f32_shared = 2 * (kTileRows + kColumns * 16) * kInnerStride32 * (int)sizeof(float);

extern "C" __global__ void __launch_bounds__(kThreads)
    linear_f32(const float *x, int ldx, const float *w, int ldw, const float *bias, float *out, int ldo, int rows,
               int columns, int inner) {
  APUS_SHARED(memory);
  const int first = blockIdx.x * kTileRows, column = blockIdx.y * kColumns * 16;
  float sum[kRowsPerThread][kColumns];
  set_zero(sum);
  multiply_global<kColumns>(sum, x + (u64)first * ldx, ldx, rows - first, w + (u64)column * ldw, ldw, columns - column,
                            inner, (float *)memory);
#pragma unroll
  for (int i = 0; i < kRowsPerThread; i++)
#pragma unroll
    for (int j = 0; j < kColumns; j++) {
      const int row = first + tile_row() + i, at = column + tile_column() + j * 16;
      if (row < rows && at < columns) out[(u64)row * ldo + at] = sum[i][j] + (bias ? bias[at] : 0.0f);
    }
}

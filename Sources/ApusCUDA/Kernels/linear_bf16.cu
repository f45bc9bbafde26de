// out = x · wᵀ + bias on the tensor cores.
//
//   x [rows, inner]   w [columns, inner]   bias [columns] f32 or null   out [rows, columns]
//
// A block computes 128 × 128 of out, a warp 64 × 32 of that. Grid: (⌈rows / 128⌉, ⌈columns / 128⌉).
#include "tile_bf16.cuh"

constexpr int kTileColumns = 128;
constexpr int kInner = 32;
constexpr int kStride = kInner + kPad16;
constexpr int kStage = (kTileRows + kTileColumns) * kStride;

extern "C" __constant__ int linear_bf16_shared = 2 * kStage * (int)sizeof(bf16);

extern "C" __global__ void __launch_bounds__(kThreads)
    linear_bf16(const bf16 *x, int ldx, const bf16 *w, int ldw, const float *bias, bf16 *out, int ldo, int rows,
                int columns, int inner) {
  APUS_SHARED(memory);
  bf16 *shared = (bf16 *)memory;
  const int first = blockIdx.x * kTileRows, column = blockIdx.y * kTileColumns;
  const int warpRow = warp() / 4 * 64, warpColumn = warp() % 4 * 32;
  x += (u64)first * ldx;
  w += (u64)column * ldw;
  auto bring = [&](int k, int buffer) {
    bf16 *at = shared + buffer * kStage;
    stage<kTileRows, kInner>(at, kStride, x + k, ldx, rows - first, inner - k);
    stage<kTileColumns, kInner>(at + kTileRows * kStride, kStride, w + k, ldw, columns - column, inner - k);
    copy_async_commit();
  };
  float sum[4][4][4];
#pragma unroll
  for (int m = 0; m < 4; m++) set_zero(sum[m]);
  bring(0, 0);
  for (int k = 0, buffer = 0; k < inner; k += kInner, buffer ^= 1) {
    if (k + kInner < inner) {
      bring(k + kInner, buffer ^ 1);
      copy_async_wait<1>();
    } else {
      copy_async_wait<0>();
    }
    __syncthreads();
    const bf16 *left = shared + buffer * kStage + warpRow * kStride;
    const bf16 *right = shared + buffer * kStage + (kTileRows + warpColumn) * kStride;
#pragma unroll
    for (int s = 0; s < kInner; s += 16) {
      u32 b[2][4];
#pragma unroll
      for (int n = 0; n < 2; n++) load_right_rows(b[n], right + n * 16 * kStride + s, kStride);
#pragma unroll
      for (int m = 0; m < 4; m++) {
        u32 a[4];
        load_left(a, left + m * 16 * kStride + s, kStride);
#pragma unroll
        for (int n = 0; n < 2; n++) {
          mma(sum[m][2 * n], a, b[n][0], b[n][1]);
          mma(sum[m][2 * n + 1], a, b[n][2], b[n][3]);
        }
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int m = 0; m < 4; m++)
#pragma unroll
    for (int n = 0; n < 4; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int row = first + warpRow + m * 16 + result_row(e), at = column + warpColumn + n * 8 + result_column(e);
        if (row < rows && at < columns) {
          from_float(sum[m][n][e] + (bias ? bias[at] : 0.0f), out[(u64)row * ldo + at]);
        }
      }
}

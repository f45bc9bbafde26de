// The wide middle of a feed-forward part of low rank, f32: from rank to rank, without its inner activations in memory.
//
//   s = act(p · upᵀ + upBias) · downᵀ                                                  not gated (gate null)
//   s = (act(gateP · gateᵀ + gateBias) ⊙ (p · upᵀ + upBias)) · downᵀ                   gated
//
//   p      [rows, rank]         gateP  [rows, gateRank]; may be p
//   up     [inner, rank]        gate   [inner, gateRank]
//   down   [outRank, inner]     s      [rows, outRank]
//
// A block owns 128 rows and OUT columns of s, which stay in registers while inner goes by in tiles of 64; where outRank
// is greater than OUT, blocks of the same rows compute the same tiles anew.
//
// Grid: (⌈rows / 128⌉, ⌈outRank / OUT⌉).
#include "tile_f32.cuh"

constexpr int kInnerTile = 64;
constexpr int kInnerTileStride = kInnerTile + kPad32;
constexpr int kProductShared = 2 * (kTileRows + kInnerTile) * kInnerStride32;

template <int OUT>
__device__ __forceinline__ void feed_forward(const float *p, int ldp, int rank, const float *up, int ldu,
                                             const float *upBias, const float *gateP, int ldgp, int gateRank,
                                             const float *gate, int ldg, const float *gateBias, int activation,
                                             const float *down, int ldd, float *s, int lds, int rows, int inner,
                                             int outRank) {
  APUS_SHARED(memory);
  constexpr int kColumns = kInnerTile / 16;
  float *products = (float *)memory;
  float *tile = products + kProductShared;
  float *factor = tile + kTileRows * kInnerTileStride;

  const int first = blockIdx.x * kTileRows, column = blockIdx.y * OUT;
  p += (u64)first * ldp;
  if (gate) gateP += (u64)first * ldgp;
  down += (u64)column * ldd;
  float sum[kRowsPerThread][OUT / 16];
  set_zero(sum);
  for (int d = 0; d < inner; d += kInnerTile) {
    // Arrives with the first piece of the product.
    stage<OUT, kInnerTile>(factor, kInnerTileStride, down + d, ldd, outRank - column, inner - d);
    float z[kRowsPerThread][kColumns];
    set_zero(z);
    multiply_global<kColumns>(z, p, ldp, rows - first, up + (u64)d * ldu, ldu, inner - d, rank, products);
    auto plus = [&](float (&x)[kRowsPerThread][kColumns], const float *bias) {
#pragma unroll
      for (int j = 0; j < kColumns; j++) {
        const int at = d + tile_column() + j * 16;
        const float more = bias && at < inner ? bias[at] : 0;
#pragma unroll
        for (int i = 0; i < kRowsPerThread; i++) x[i][j] += more;
      }
    };
    plus(z, upBias);
    if (gate) {
      float g[kRowsPerThread][kColumns];
      set_zero(g);
      multiply_global<kColumns>(g, gateP, ldgp, rows - first, gate + (u64)d * ldg, ldg, inner - d, gateRank, products);
      plus(g, gateBias);
#pragma unroll
      for (int i = 0; i < kRowsPerThread; i++)
#pragma unroll
        for (int j = 0; j < kColumns; j++) z[i][j] *= activated(activation, g[i][j]);
    } else {
#pragma unroll
      for (int i = 0; i < kRowsPerThread; i++)
#pragma unroll
        for (int j = 0; j < kColumns; j++) z[i][j] = activated(activation, z[i][j]);
    }
#pragma unroll
    for (int i = 0; i < kRowsPerThread; i++)
#pragma unroll
      for (int j = 0; j < kColumns; j++)
        tile[(tile_row() + i) * kInnerTileStride + tile_column() + j * 16] = z[i][j];
    // A row of the tile is written and read by the same half of a warp; columns past `inner` meet zeros of `down`.
    __syncwarp();
    multiply_rows<OUT / 16>(sum, tile, kInnerTileStride, factor, kInnerTileStride, kInnerTile);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kRowsPerThread; i++)
#pragma unroll
    for (int j = 0; j < OUT / 16; j++) {
      const int row = first + tile_row() + i, at = column + tile_column() + j * 16;
      if (row < rows && at < outRank) s[(u64)row * lds + at] = sum[i][j];
    }
}

// Bytes of shared memory that a launch must give.
#define SHARED(OUT) (kProductShared + (kTileRows + OUT) * kInnerTileStride) * (int)sizeof(float)

#define FEED_FORWARD(OUT)                                                                                              \
  extern "C" __constant__ int feed_forward_f32_##OUT##_shared = SHARED(OUT);                                           \
  extern "C" __global__ void __launch_bounds__(kThreads) feed_forward_f32_##OUT(                                       \
      const float *p, int ldp, int rank, const float *up, int ldu, const float *upBias, const float *gateP, int ldgp,  \
      int gateRank, const float *gate, int ldg, const float *gateBias, int activation, const float *down, int ldd,     \
      float *s, int lds, int rows, int inner, int outRank) {                                                           \
    feed_forward<OUT>(p, ldp, rank, up, ldu, upBias, gateP, ldgp, gateRank, gate, ldg, gateBias, activation, down,     \
                      ldd, s, lds, rows, inner, outRank);                                                              \
  }

FEED_FORWARD(128)
FEED_FORWARD(192)
FEED_FORWARD(256)

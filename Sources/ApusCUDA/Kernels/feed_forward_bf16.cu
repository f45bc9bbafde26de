// The wide middle of a feed-forward part of low rank on the tensor cores: from rank to rank, without its inner
// activations in memory.
//
//   s = act(p · upᵀ + upBias) · downᵀ                                                  not gated (gate null)
//   s = (act(gateP · gateᵀ + gateBias) ⊙ (p · upᵀ + upBias)) · downᵀ                   gated
//
//   p      [rows, rank]         gateP  [rows, gateRank]; may be p
//   up     [inner, rank]        gate   [inner, gateRank]
//   down   [outRank, inner]     s      [rows, outRank]      biases [inner] f32
//
// A block owns 128 rows and OUT columns of s, a warp 16 of the rows; sums stay in registers while inner goes by in
// tiles of 64, and a tile goes from one product to the next in registers too. Where outRank is greater than OUT, blocks
// of the same rows compute the same tiles anew.
//
// Grid: (⌈rows / 128⌉, ⌈outRank / OUT⌉).
#include "tile_bf16.cuh"

constexpr int kInnerTile = 64;
constexpr int kInner = 64;
constexpr int kStride = kInner + kPad16;
constexpr int kStage = (kTileRows + kInnerTile) * kStride;

// z `[16 rows of this warp, 64]` += x · wᵀ of `[128, inner]` and `[64, inner]` in global memory.
__device__ __forceinline__ void multiply_global(float (&z)[kInnerTile / 8][4], const bf16 *x, int ldx, int rows,
                                                const bf16 *w, int ldw, int columns, int inner, bf16 *shared) {
  auto bring = [&](int first, int buffer) {
    bf16 *at = shared + buffer * kStage;
    stage<kTileRows, kInner>(at, kStride, x + first, ldx, rows, inner - first);
    stage<kInnerTile, kInner>(at + kTileRows * kStride, kStride, w + first, ldw, columns, inner - first);
    copy_async_commit();
  };
  bring(0, 0);
  for (int first = 0, buffer = 0; first < inner; first += kInner, buffer ^= 1) {
    if (first + kInner < inner) {
      bring(first + kInner, buffer ^ 1);
      copy_async_wait<1>();
    } else {
      copy_async_wait<0>();
    }
    __syncthreads();
    const bf16 *left = shared + buffer * kStage + warp() * 16 * kStride;
    const bf16 *right = shared + buffer * kStage + kTileRows * kStride;
#pragma unroll
    for (int s = 0; s < kInner; s += 16) {
      u32 a[4];
      load_left(a, left + s, kStride);
      multiply_rows<kInnerTile / 8>(z, a, right + s, kStride);
    }
    __syncthreads();
  }
}

template <int OUT>
__device__ __forceinline__ void feed_forward(const bf16 *p, int ldp, int rank, const bf16 *up, int ldu,
                                             const float *upBias, const bf16 *gateP, int ldgp, int gateRank,
                                             const bf16 *gate, int ldg, const float *gateBias, int activation,
                                             const bf16 *down, int ldd, bf16 *s, int lds, int rows, int inner,
                                             int outRank) {
  APUS_SHARED(memory);
  constexpr int kTiles = kInnerTile / 8;
  bf16 *products = (bf16 *)memory;
  bf16 *factor = products + 2 * kStage;

  const int first = blockIdx.x * kTileRows, column = blockIdx.y * OUT;
  p += (u64)first * ldp;
  if (gate) gateP += (u64)first * ldgp;
  down += (u64)column * ldd;
  float sum[OUT / 8][4];
  set_zero(sum);
  for (int d = 0; d < inner; d += kInnerTile) {
    // Arrives with the first piece of the product.
    stage<OUT, kInnerTile>(factor, kStride, down + d, ldd, outRank - column, inner - d);
    float z[kTiles][4];
    set_zero(z);
    multiply_global(z, p, ldp, rows - first, up + (u64)d * ldu, ldu, inner - d, rank, products);
    auto plus = [&](float (&x)[kTiles][4], const float *bias) {
#pragma unroll
      for (int n = 0; n < kTiles; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const int at = d + n * 8 + result_column(e);
          if (bias && at < inner) x[n][e] += bias[at];
        }
    };
    plus(z, upBias);
    if (gate) {
      float g[kTiles][4];
      set_zero(g);
      multiply_global(g, gateP, ldgp, rows - first, gate + (u64)d * ldg, ldg, inner - d, gateRank, products);
      plus(g, gateBias);
#pragma unroll
      for (int n = 0; n < kTiles; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) z[n][e] *= activated(activation, g[n][e]);
    } else {
#pragma unroll
      for (int n = 0; n < kTiles; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) z[n][e] = activated(activation, z[n][e]);
    }
    // Columns past `inner` meet zeros of `down`.
#pragma unroll
    for (int t = 0; t < kInnerTile / 16; t++) {
      multiply_rows<OUT / 8>(sum, as_left(z[2 * t], z[2 * t + 1]), factor + t * 16, kStride);
    }
    __syncthreads();
  }
#pragma unroll
  for (int n = 0; n < OUT / 8; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const int row = first + warp() * 16 + result_row(e), at = column + n * 8 + result_column(e);
      if (row < rows && at < outRank) from_float(sum[n][e], s[(u64)row * lds + at]);
    }
}

// Bytes of shared memory that a launch must give.
#define SHARED(OUT) (2 * kStage + OUT * kStride) * (int)sizeof(bf16)

#define FEED_FORWARD(OUT)                                                                                              \
  extern "C" __constant__ int feed_forward_bf16_##OUT##_shared = SHARED(OUT);                                          \
  extern "C" __global__ void __launch_bounds__(kThreads) feed_forward_bf16_##OUT(                                      \
      const bf16 *p, int ldp, int rank, const bf16 *up, int ldu, const float *upBias, const bf16 *gateP, int ldgp,     \
      int gateRank, const bf16 *gate, int ldg, const float *gateBias, int activation, const bf16 *down, int ldd,       \
      bf16 *s, int lds, int rows, int inner, int outRank) {                                                            \
    feed_forward<OUT>(p, ldp, rank, up, ldu, upBias, gateP, ldgp, gateRank, gate, ldg, gateBias, activation, down,     \
                      ldd, s, lds, rows, inner, outRank);                                                              \
  }

FEED_FORWARD(128)
FEED_FORWARD(192)
FEED_FORWARD(256)

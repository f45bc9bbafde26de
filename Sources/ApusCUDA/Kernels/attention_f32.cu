// Flash attention in rank space, f32 (Dao et al. 2022 for the running softmax).
//
//   q, k, v    [rows, heads · …]   row i of head h at  i · ld + h · head  elements; head is 0 for what heads share
//   mix        [heads, rank, rank] or null    the product of the two factors of a score, so that
//   shift      [heads, rank] or null          score(i, j) = (q_i · mix + shift) · k_j
//   lift, bias [heads, rank, headDim], [heads, headDim] or null: out = (Σ_j weight_ij v_j) · lift + bias
//   seen       [rows] or null       0 for keys that nobody sees
//   starts     [sequences + 1]      first row of each sequence
//   out        [rows, heads · headDim]
//
// Weights add up to 1, so a bias of values is added once, and one of keys changes nothing. Without mix and lift this is
// ordinary attention of head size `rank`. A row that sees no key becomes 0.
//
// Grid: (⌈longest / 128⌉, heads, sequences). Rank padded to RANK; keys in tiles of 64, copied while the one before is
// used.
#include "tile_f32.cuh"

constexpr int kKeys = 64;
constexpr int kWeightStride = kKeys + kPad32;
constexpr int kHeadDim = 64;
constexpr float kUnseen = -1e30f;

template <int RANK>
__device__ __forceinline__ void attention(const float *q, int ldq, int qHead, const float *k, int ldk, int kHead,
                                          const float *v, int ldv, int vHead, const float *mix, const float *shift,
                                          const float *lift, const float *bias, const unsigned char *seen,
                                          const int *starts, float *out, int ldo, int rank, int headDim, float scale) {
  APUS_SHARED(memory);
  constexpr int kStride = RANK + kPad32;
  constexpr int kColumns = RANK / 16;
  float *queries = (float *)memory;
  float *keys = queries + kTileRows * kStride;
  float *values = keys + 2 * kKeys * kStride;
  float *weights = values + 2 * kKeys * kStride;
  float *visible = weights + kTileRows * kWeightStride;

  const int head = blockIdx.y, start = starts[blockIdx.z], length = starts[blockIdx.z + 1] - start;
  const int first = blockIdx.x * kTileRows;
  if (first >= length) return;
  const int rows = length - first;
  q += (u64)(start + first) * ldq + head * qHead;
  k += (u64)start * ldk + head * kHead;
  v += (u64)start * ldv + head * vHead;

  auto bring = [&](int key, int buffer) {
    stage<kKeys, RANK>(keys + buffer * kKeys * kStride, kStride, k + (u64)key * ldk, ldk, length - key, rank);
    stage<kKeys, RANK>(values + buffer * kKeys * kStride, kStride, v + (u64)key * ldv, ldv, length - key, rank);
    copy_async_commit();
    const int i = threadIdx.x;
    if (i < kKeys) visible[buffer * kKeys + i] = key + i < length && (!seen || seen[start + key + i]) ? 1.0f : 0.0f;
  };

  stage<kTileRows, RANK>(queries, kStride, q, ldq, rows, rank);
  if (mix) stage<RANK, RANK>(weights, RANK, mix + (u64)head * rank * rank, rank, rank, rank);
  bring(0, 0);
  if (mix) {
    copy_async_wait<0>();
    __syncthreads();
    float mixed[kRowsPerThread][kColumns];
    set_zero(mixed);
    multiply_columns<kColumns>(mixed, queries, kStride, weights, RANK, RANK);
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kColumns; j++) {
      const int column = tile_column() + j * 16;
      const float more = shift && column < rank ? shift[head * rank + column] : 0;
#pragma unroll
      for (int i = 0; i < kRowsPerThread; i++) queries[(tile_row() + i) * kStride + column] = mixed[i][j] + more;
    }
  }

  float sum[kRowsPerThread][kColumns], greatest[kRowsPerThread], total[kRowsPerThread];
  set_zero(sum);
#pragma unroll
  for (int i = 0; i < kRowsPerThread; i++) greatest[i] = kUnseen, total[i] = 0;

  for (int key = 0, buffer = 0; key < length; key += kKeys, buffer ^= 1) {
    if (key + kKeys < length) {
      bring(key + kKeys, buffer ^ 1);
      copy_async_wait<1>();
    } else {
      copy_async_wait<0>();
    }
    __syncthreads();
    float score[kRowsPerThread][kKeys / 16];
    set_zero(score);
    multiply_rows<kKeys / 16>(score, queries, kStride, keys + buffer * kKeys * kStride, kStride, RANK);
#pragma unroll
    for (int i = 0; i < kRowsPerThread; i++) {
      float best = kUnseen;
#pragma unroll
      for (int j = 0; j < kKeys / 16; j++) {
        const bool sees = visible[buffer * kKeys + tile_column() + j * 16] != 0;
        score[i][j] = sees ? score[i][j] * scale : kUnseen;
        best = fmaxf(best, score[i][j]);
      }
      best = fmaxf(greatest[i], lanes_max<16>(best));
      const float before = expf(greatest[i] - best);
      greatest[i] = best;
      float added = 0;
#pragma unroll
      for (int j = 0; j < kKeys / 16; j++) {
        // Where no key was seen yet, an unseen one is as great as the greatest.
        const float weight = expf(score[i][j] - best) * visible[buffer * kKeys + tile_column() + j * 16];
        weights[(tile_row() + i) * kWeightStride + tile_column() + j * 16] = weight;
        added += weight;
      }
      total[i] = total[i] * before + added;
#pragma unroll
      for (int j = 0; j < kColumns; j++) sum[i][j] *= before;
    }
    // A row's weights are written and read by the same half of a warp.
    __syncwarp();
    multiply_columns<kColumns>(sum, weights, kWeightStride, values + buffer * kKeys * kStride, kStride, kKeys);
    __syncthreads();
  }

  out += (u64)(start + first) * ldo + head * headDim;
  float inverse[kRowsPerThread];
#pragma unroll
  for (int i = 0; i < kRowsPerThread; i++) {
    const float all = lanes_sum<16>(total[i]);
    inverse[i] = all > 0 ? 1 / all : 0;
  }
  if (!lift) {
#pragma unroll
    for (int i = 0; i < kRowsPerThread; i++)
#pragma unroll
      for (int j = 0; j < kColumns; j++) {
        const int row = tile_row() + i, column = tile_column() + j * 16;
        if (row < rows && column < headDim) out[(u64)row * ldo + column] = sum[i][j] * inverse[i];
      }
    return;
  }
  stage<RANK, kHeadDim>(weights, kHeadDim, lift + (u64)head * rank * headDim, headDim, rank, headDim);
  copy_async_commit();
#pragma unroll
  for (int i = 0; i < kRowsPerThread; i++)
#pragma unroll
    for (int j = 0; j < kColumns; j++)
      queries[(tile_row() + i) * kStride + tile_column() + j * 16] = sum[i][j] * inverse[i];
  copy_async_wait<0>();
  __syncthreads();
  float lifted[kRowsPerThread][kHeadDim / 16];
  set_zero(lifted);
  multiply_columns<kHeadDim / 16>(lifted, queries, kStride, weights, kHeadDim, RANK);
#pragma unroll
  for (int j = 0; j < kHeadDim / 16; j++) {
    const int column = tile_column() + j * 16;
    const float more = bias && column < headDim ? bias[head * headDim + column] : 0;
#pragma unroll
    for (int i = 0; i < kRowsPerThread; i++) {
      const int row = tile_row() + i;
      if (row < rows && column < headDim) {
        out[(u64)row * ldo + column] = lifted[i][j] + (inverse[i] > 0 ? more : 0.0f);
      }
    }
  }
}

// Bytes of shared memory that a launch must give.
#define SHARED(RANK)                                                                                                   \
  ((kTileRows + 4 * kKeys) * (RANK + kPad32) + kTileRows * kWeightStride + 2 * kKeys) * (int)sizeof(float)

#define ATTENTION(RANK)                                                                                                \
  extern "C" __constant__ int attention_f32_##RANK##_shared = SHARED(RANK);                                            \
  extern "C" __global__ void __launch_bounds__(kThreads) attention_f32_##RANK(                                         \
      const float *q, int ldq, int qHead, const float *k, int ldk, int kHead, const float *v, int ldv, int vHead,      \
      const float *mix, const float *shift, const float *lift, const float *bias, const unsigned char *seen,           \
      const int *starts, float *out, int ldo, int rank, int headDim, float scale) {                                    \
    attention<RANK>(q, ldq, qHead, k, ldk, kHead, v, ldv, vHead, mix, shift, lift, bias, seen, starts, out, ldo, rank, \
                    headDim, scale);                                                                                   \
  }

ATTENTION(16)
ATTENTION(32)
ATTENTION(48)
ATTENTION(64)

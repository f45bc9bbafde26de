// Flash attention in rank space on the tensor cores: bf16 factors, f32 sums and softmax (Dao 2023, FlashAttention-2).
//
//   q, k, v    [rows, heads · …]   row i of head h at  i · ld + h · head  elements; head is 0 for what heads share
//   mix        [heads, rank, rank] or null    the product of the two factors of a score, so that
//   shift      [heads, rank] f32 or null      score(i, j) = (q_i · mix + shift) · k_j
//   lift, bias [heads, rank, headDim], [heads, headDim] f32 or null: out = (Σ_j weight_ij v_j) · lift + bias
//   seen       [rows] or null       0 for keys that nobody sees
//   starts     [sequences + 1]      first row of each sequence
//   out        [rows, heads · headDim]
//
// As attention_f32.cu; what differs is that each warp owns 16 of the 128 rows and keeps queries, scores and sums of
// theirs in registers.
//
// Grid: (⌈longest / 128⌉, heads, sequences). Rank padded to RANK; keys in tiles of 64, copied while the one before is
// used.
#include "tile_bf16.cuh"

constexpr int kKeys = 64;
constexpr int kHeadDim = 64;
constexpr int kHeadStride = kHeadDim + kPad16;
constexpr float kUnseen = -1e30f;

template <int RANK>
__device__ __forceinline__ void attention(const bf16 *q, int ldq, int qHead, const bf16 *k, int ldk, int kHead,
                                          const bf16 *v, int ldv, int vHead, const bf16 *mix, const float *shift,
                                          const bf16 *lift, const float *bias, const unsigned char *seen,
                                          const int *starts, bf16 *out, int ldo, int rank, int headDim, float scale) {
  APUS_SHARED(memory);
  constexpr int kStride = RANK + kPad16;
  constexpr int kSteps = RANK / 16;
  bf16 *queries = (bf16 *)memory;
  bf16 *keys = queries + kTileRows * kStride;
  bf16 *values = keys + 2 * kKeys * kStride;
  bf16 *factor = values + 2 * kKeys * kStride;
  float *visible = (float *)(factor + RANK * kHeadStride);

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
  if (mix) stage<RANK, RANK>(factor, kHeadStride, mix + (u64)head * rank * rank, rank, rank, rank);
  bring(0, 0);
  copy_async_wait<0>();
  __syncthreads();
  // Queries as they come are bf16 and have no second term.
  Left query[kSteps];
#pragma unroll
  for (int s = 0; s < kSteps; s++) load_left(query[s].high, queries + warp() * 16 * kStride + s * 16, kStride);
  if (mix) {
    float mixed[RANK / 8][4];
    set_zero(mixed);
#pragma unroll
    for (int s = 0; s < kSteps; s++) {
      multiply_columns<RANK / 8>(mixed, query[s].high, factor + s * 16 * kHeadStride, kHeadStride);
    }
#pragma unroll
    for (int n = 0; n < RANK / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int column = n * 8 + result_column(e);
        if (shift && column < rank) mixed[n][e] += shift[head * rank + column];
      }
#pragma unroll
    for (int s = 0; s < kSteps; s++) query[s] = as_left(mixed[2 * s], mixed[2 * s + 1]);
    __syncthreads();
  }
  // On its way while the keys are gone through.
  if (lift) {
    stage<RANK, kHeadDim>(factor, kHeadStride, lift + (u64)head * rank * headDim, headDim, rank, headDim);
    copy_async_commit();
  }

  float sum[RANK / 8][4], greatest[2] = {kUnseen, kUnseen}, total[2] = {0, 0};
  set_zero(sum);
  for (int key = 0, buffer = 0; key < length; key += kKeys, buffer ^= 1) {
    if (key + kKeys < length) {
      bring(key + kKeys, buffer ^ 1);
      copy_async_wait<1>();
    } else {
      copy_async_wait<0>();
    }
    __syncthreads();
    const bf16 *tile = keys + buffer * kKeys * kStride;
    const float *sees = visible + buffer * kKeys;
    float score[kKeys / 8][4];
    set_zero(score);
#pragma unroll
    for (int s = 0; s < kSteps; s++) {
      if (mix) {
        multiply_rows<kKeys / 8>(score, query[s], tile + s * 16, kStride);
      } else {
        multiply_rows<kKeys / 8>(score, query[s].high, tile + s * 16, kStride);
      }
    }
    float best[2] = {kUnseen, kUnseen}, before[2];
#pragma unroll
    for (int n = 0; n < kKeys / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        score[n][e] = sees[n * 8 + result_column(e)] != 0 ? score[n][e] * scale : kUnseen;
        best[e / 2] = fmaxf(best[e / 2], score[n][e]);
      }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      best[half] = fmaxf(greatest[half], lanes_max<4>(best[half]));
      before[half] = expf(greatest[half] - best[half]);
      greatest[half] = best[half];
      total[half] *= before[half];
    }
#pragma unroll
    for (int n = 0; n < kKeys / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        // Where no key was seen yet, an unseen one is as great as the greatest.
        score[n][e] = expf(score[n][e] - best[e / 2]) * sees[n * 8 + result_column(e)];
        total[e / 2] += score[n][e];
      }
#pragma unroll
    for (int n = 0; n < RANK / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) sum[n][e] *= before[e / 2];
    tile = values + buffer * kKeys * kStride;
#pragma unroll
    for (int s = 0; s < kKeys / 16; s++) {
      multiply_columns<RANK / 8>(sum, as_left(score[2 * s], score[2 * s + 1]), tile + s * 16 * kStride, kStride);
    }
    __syncthreads();
  }

  float inverse[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float all = lanes_sum<4>(total[half]);
    inverse[half] = all > 0 ? 1 / all : 0;
  }
#pragma unroll
  for (int n = 0; n < RANK / 8; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) sum[n][e] *= inverse[e / 2];
  out += (u64)(start + first) * ldo + head * headDim;
  if (!lift) {
#pragma unroll
    for (int n = 0; n < RANK / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int row = warp() * 16 + result_row(e), column = n * 8 + result_column(e);
        if (row < rows && column < headDim) from_float(sum[n][e], out[(u64)row * ldo + column]);
      }
    return;
  }
  float lifted[kHeadDim / 8][4];
  set_zero(lifted);
#pragma unroll
  for (int s = 0; s < kSteps; s++) {
    const Left part = as_left(sum[2 * s], sum[2 * s + 1]);
    multiply_columns<kHeadDim / 8>(lifted, part, factor + s * 16 * kHeadStride, kHeadStride);
  }
#pragma unroll
  for (int n = 0; n < kHeadDim / 8; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const int row = warp() * 16 + result_row(e), column = n * 8 + result_column(e);
      if (row < rows && column < headDim) {
        const float more = bias && inverse[e / 2] > 0 ? bias[head * headDim + column] : 0;
        from_float(lifted[n][e] + more, out[(u64)row * ldo + column]);
      }
    }
}

// Bytes of shared memory that a launch must give.
#define SHARED(RANK)                                                                                                   \
  ((kTileRows + 4 * kKeys) * (RANK + kPad16) + RANK * kHeadStride) * (int)sizeof(bf16) + 2 * kKeys * (int)sizeof(float)

#define ATTENTION(RANK)                                                                                                \
  extern "C" __constant__ int attention_bf16_##RANK##_shared = SHARED(RANK);                                           \
  extern "C" __global__ void __launch_bounds__(kThreads) attention_bf16_##RANK(                                        \
      const bf16 *q, int ldq, int qHead, const bf16 *k, int ldk, int kHead, const bf16 *v, int ldv, int vHead,         \
      const bf16 *mix, const float *shift, const bf16 *lift, const float *bias, const unsigned char *seen,             \
      const int *starts, bf16 *out, int ldo, int rank, int headDim, float scale) {                                     \
    attention<RANK>(q, ldq, qHead, k, ldk, kHead, v, ldv, vHead, mix, shift, lift, bias, seen, starts, out, ldo, rank, \
                    headDim, scale);                                                                                   \
  }

ATTENTION(16)
ATTENTION(32)
ATTENTION(48)
ATTENTION(64)

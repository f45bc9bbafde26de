// What a BERT encoder does by rows, for elements of f32 and bf16; sums are f32.
//
// Matrices are [rows, columns], rows ld elements apart. One block a row, in grids of (rows).
#include "common.cuh"

// out = table[ids[row]], or table[row] where ids is null (+ out when `accumulate`).
template <class T>
__device__ __forceinline__ void gather(const T *table, int ldt, const int *ids, T *out, int ldo, int columns,
                                       int accumulate) {
  table += (u64)(ids ? ids[blockIdx.x] : (int)blockIdx.x) * ldt;
  out += (u64)blockIdx.x * ldo;
  for (int c = threadIdx.x; c < columns; c += kThreads) {
    from_float(to_float(table[c]) + (accumulate ? to_float(out[c]) : 0.0f), out[c]);
  }
}

// out = (y − mean) / √(variance + ε) · weight + bias of y = x (+ residual); weight and bias [columns] f32 or null.
template <class T>
__device__ __forceinline__ void layer_norm(const T *x, int ldx, const T *residual, int ldr, const float *weight,
                                           const float *bias, float epsilon, T *out, int ldo, int columns) {
  APUS_SHARED(memory);
  x += (u64)blockIdx.x * ldx;
  if (residual) residual += (u64)blockIdx.x * ldr;
  out += (u64)blockIdx.x * ldo;
  auto at = [&](int c) { return to_float(x[c]) + (residual ? to_float(residual[c]) : 0.0f); };
  float sum = 0, squares = 0;
  for (int c = threadIdx.x; c < columns; c += kThreads) sum += at(c);
  const float mean = block_sum(sum, (float *)memory) / columns;
  for (int c = threadIdx.x; c < columns; c += kThreads) {
    const float off = at(c) - mean;
    squares += off * off;
  }
  const float inverse = 1 / sqrtf(block_sum(squares, (float *)memory) / columns + epsilon);
  for (int c = threadIdx.x; c < columns; c += kThreads) {
    const float normed = (at(c) - mean) * inverse;
    from_float(normed * (weight ? weight[c] : 1.0f) + (bias ? bias[c] : 0.0f), out[c]);
  }
}

// out = activation(gate) · up; up null means 1. May be in place.
template <class T>
__device__ __forceinline__ void activate(int activation, const T *gate, int ldg, const T *up, int ldu, T *out, int ldo,
                                         int columns) {
  gate += (u64)blockIdx.x * ldg;
  if (up) up += (u64)blockIdx.x * ldu;
  out += (u64)blockIdx.x * ldo;
  for (int c = threadIdx.x; c < columns; c += kThreads) {
    from_float(activated(activation, to_float(gate[c])) * (up ? to_float(up[c]) : 1.0f), out[c]);
  }
}

// out = a + b.
template <class T>
__device__ __forceinline__ void add(const T *a, int lda, const T *b, int ldb, T *out, int ldo, int columns) {
  a += (u64)blockIdx.x * lda;
  b += (u64)blockIdx.x * ldb;
  out += (u64)blockIdx.x * ldo;
  for (int c = threadIdx.x; c < columns; c += kThreads) from_float(to_float(a[c]) + to_float(b[c]), out[c]);
}

// out[row] = the mean of x over rows starts[row] ..< ends[row] (as it is with `one`, which takes row `row`), divided by
// its Euclidean length when `normalize`. In place when `one`.
template <class T>
__device__ __forceinline__ void pool(const T *x, int ldx, const int *starts, const int *ends, T *out, int ldo,
                                     int columns, int one, int normalize) {
  APUS_SHARED(memory);
  const int start = one ? (int)blockIdx.x : starts[blockIdx.x];
  const int end = one ? start + 1 : ends[blockIdx.x];
  const float count = end > start ? end - start : 1;
  out += (u64)blockIdx.x * ldo;
  float squares = 0;
  for (int c = threadIdx.x; c < columns; c += kThreads) {
    float sum = 0;
    for (int row = start; row < end; row++) sum += to_float(x[(u64)row * ldx + c]);
    const float mean = sum / count;
    squares += mean * mean;
    from_float(mean, out[c]);
  }
  if (!normalize) return;
  const float inverse = 1 / fmaxf(sqrtf(block_sum(squares, (float *)memory)), 1e-12f);
  // Each thread reads back what it wrote.
  for (int c = threadIdx.x; c < columns; c += kThreads) from_float(to_float(out[c]) * inverse, out[c]);
}

// Bytes of shared memory that a launch must give.
#define SHARED kWarps * (int)sizeof(float)

#define ROWS(T, NAME)                                                                                                  \
  extern "C" __constant__ int gather_##NAME##_shared = SHARED;                                                         \
  extern "C" __constant__ int layer_norm_##NAME##_shared = SHARED;                                                     \
  extern "C" __constant__ int activate_##NAME##_shared = SHARED;                                                       \
  extern "C" __constant__ int add_##NAME##_shared = SHARED;                                                            \
  extern "C" __constant__ int pool_##NAME##_shared = SHARED;                                                           \
  extern "C" __global__ void __launch_bounds__(kThreads)                                                               \
      gather_##NAME(const T *table, int ldt, const int *ids, T *out, int ldo, int columns, int accumulate) {           \
    gather(table, ldt, ids, out, ldo, columns, accumulate);                                                            \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(kThreads)                                                               \
      layer_norm_##NAME(const T *x, int ldx, const T *residual, int ldr, const float *weight, const float *bias,       \
                        float epsilon, T *out, int ldo, int columns) {                                                 \
    layer_norm(x, ldx, residual, ldr, weight, bias, epsilon, out, ldo, columns);                                       \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(kThreads) activate_##NAME(int activation, const T *gate, int ldg,       \
                                                                         const T *up, int ldu, T *out, int ldo,        \
                                                                         int columns) {                                \
    activate(activation, gate, ldg, up, ldu, out, ldo, columns);                                                       \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(kThreads)                                                               \
      add_##NAME(const T *a, int lda, const T *b, int ldb, T *out, int ldo, int columns) {                             \
    add(a, lda, b, ldb, out, ldo, columns);                                                                            \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(kThreads)                                                               \
      pool_##NAME(const T *x, int ldx, const int *starts, const int *ends, T *out, int ldo, int columns, int one,      \
                  int normalize) {                                                                                     \
    pool(x, ldx, starts, ends, out, ldo, columns, one, normalize);                                                     \
  }

ROWS(float, f32)
ROWS(bf16, bf16)

#pragma once
#include <stdint.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define CSIMD_INLINE static inline __attribute__((always_inline))

// Everything here is inlined, so how vectors are passed does not matter.
#pragma clang diagnostic ignored "-Wpsabi"

// The level that the including module is compiled for.
#if defined(__AVX512VNNI__)
#define CSIMD_LEVEL 4
#elif defined(__AVX2__) && defined(__FMA__)
#define CSIMD_LEVEL 3
#else
#define CSIMD_LEVEL 2
#endif

// The same for Swift; the optimiser drops the branches of other levels.
CSIMD_INLINE int csimd_compiled_level(void) { return CSIMD_LEVEL; }

// Vectors as Swift's SIMD types import them.
typedef uint8_t csimd_u8x16 __attribute__((ext_vector_type(16)));
typedef uint8_t csimd_u8x64 __attribute__((ext_vector_type(64)));
typedef uint16_t csimd_u16x16 __attribute__((ext_vector_type(16)));
typedef int16_t csimd_i16x16 __attribute__((ext_vector_type(16)));
typedef int32_t csimd_i32x8 __attribute__((ext_vector_type(8)));
typedef int32_t csimd_i32x16 __attribute__((ext_vector_type(16)));
typedef uint32_t csimd_u32x4 __attribute__((ext_vector_type(4)));
typedef uint32_t csimd_u32x16 __attribute__((ext_vector_type(16)));
typedef float csimd_f32x8 __attribute__((ext_vector_type(8)));
typedef float csimd_f32x16 __attribute__((ext_vector_type(16)));

CSIMD_INLINE csimd_u32x4 csimd_load_u32x4(const void *p) {
  csimd_u32x4 v;
  __builtin_memcpy(&v, p, 16);
  return v;
}

// Makes the compiler believe that the memory at `p` is read and written.
CSIMD_INLINE void csimd_touch(void *p) { __asm__ volatile("" : : "r"(p) : "memory"); }

// Fetches the cache line at `p` into L2.
CSIMD_INLINE void csimd_prefetch(const void *p) { __builtin_prefetch(p, 0, 2); }

// Fetches the cache line at `p` into L1, to be written.
CSIMD_INLINE void csimd_prefetch_near(const void *p) { __builtin_prefetch(p, 1, 3); }

// 1024 zero bytes.
CSIMD_INLINE const void *csimd_zeros(void) {
  static const uint8_t zeros[1024] __attribute__((aligned(64)));
  return zeros;
}

// Four 128-bit lanes as one vector. Opaque to the optimiser, which else merges these insertions with the shuffles that
// follow into several times as many instructions.
CSIMD_INLINE csimd_u32x16 csimd_join_lanes(csimd_u32x4 a, csimd_u32x4 b, csimd_u32x4 c, csimd_u32x4 d) {
#if CSIMD_LEVEL == 4
  __m256i ab = _mm256_inserti128_si256(_mm256_castsi128_si256((__m128i)a), (__m128i)b, 1);
  __m256i cd = _mm256_inserti128_si256(_mm256_castsi128_si256((__m128i)c), (__m128i)d, 1);
  __m512i abcd = _mm512_inserti64x4(_mm512_castsi256_si512(ab), cd, 1);
  __asm__("" : "+v"(abcd));
  return (csimd_u32x16)abcd;
#else
  typedef uint32_t u32x8 __attribute__((ext_vector_type(8)));
  u32x8 ab = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7);
  u32x8 cd = __builtin_shufflevector(c, d, 0, 1, 2, 3, 4, 5, 6, 7);
#if CSIMD_LEVEL == 3
  __asm__("" : "+x"(ab));
  __asm__("" : "+x"(cd));
#endif
  return __builtin_shufflevector(ab, cd, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#endif
}

// 16 bytes of each of the rows i, i + 4, i + 8, i + 12, one row a 128-bit lane.
CSIMD_INLINE csimd_u32x16 csimd_load_lanes(const void *base, long stride) {
  const uint8_t *p = (const uint8_t *)base;
  return csimd_join_lanes(csimd_load_u32x4(p), csimd_load_u32x4(p + 4 * stride), csimd_load_u32x4(p + 8 * stride),
                          csimd_load_u32x4(p + 12 * stride));
}

// Interleave the lower or upper two dwords of each 128-bit lane, or take the lower or upper qwords.
CSIMD_INLINE csimd_u32x16 csimd_unpack_low(csimd_u32x16 a, csimd_u32x16 b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
}
CSIMD_INLINE csimd_u32x16 csimd_unpack_high(csimd_u32x16 a, csimd_u32x16 b) {
  return __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
}
CSIMD_INLINE csimd_u32x16 csimd_low_qwords(csimd_u32x16 a, csimd_u32x16 b) {
  return __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
}
CSIMD_INLINE csimd_u32x16 csimd_high_qwords(csimd_u32x16 a, csimd_u32x16 b) {
  return __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
}

// The inverse of csimd_load_lanes.
CSIMD_INLINE void csimd_store_lanes(void *p, long stride, csimd_u32x16 v) {
  uint8_t *q = (uint8_t *)p;
  csimd_u32x4 a = __builtin_shufflevector(v, v, 0, 1, 2, 3), b = __builtin_shufflevector(v, v, 4, 5, 6, 7);
  csimd_u32x4 c = __builtin_shufflevector(v, v, 8, 9, 10, 11), d = __builtin_shufflevector(v, v, 12, 13, 14, 15);
  __builtin_memcpy(q, &a, 16);
  __builtin_memcpy(q + 4 * stride, &b, 16);
  __builtin_memcpy(q + 8 * stride, &c, 16);
  __builtin_memcpy(q + 12 * stride, &d, 16);
}

// One dword of each of 16 rows.
CSIMD_INLINE csimd_u32x4 csimd_load_4_dwords(const uint8_t *p, long stride) {
  uint32_t x[4];
  for (int i = 0; i < 4; i++) __builtin_memcpy(&x[i], p + i * stride, 4);
  return (csimd_u32x4){x[0], x[1], x[2], x[3]};
}
CSIMD_INLINE csimd_u32x16 csimd_load_dwords(const void *base, long stride) {
  const uint8_t *p = (const uint8_t *)base;
  return csimd_join_lanes(csimd_load_4_dwords(p, stride), csimd_load_4_dwords(p + 4 * stride, stride),
                          csimd_load_4_dwords(p + 8 * stride, stride), csimd_load_4_dwords(p + 12 * stride, stride));
}

// Dwords 0 and 2, or 1 and 3, of each 128-bit lane of two vectors.
CSIMD_INLINE csimd_u32x16 csimd_even_dwords(csimd_u32x16 a, csimd_u32x16 b) {
  return __builtin_shufflevector(a, b, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30);
}
CSIMD_INLINE csimd_u32x16 csimd_odd_dwords(csimd_u32x16 a, csimd_u32x16 b) {
  return __builtin_shufflevector(a, b, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31);
}
// 8 bytes of each of the rows 0, 1; 4, 5; 8, 9; 12, 13, two rows a 128-bit lane.
CSIMD_INLINE csimd_u32x4 csimd_load_2_qwords(const uint8_t *p, long stride) {
  uint64_t a, b;
  __builtin_memcpy(&a, p, 8);
  __builtin_memcpy(&b, p + stride, 8);
  typedef uint64_t u64x2 __attribute__((ext_vector_type(2)));
  return (csimd_u32x4)(u64x2){a, b};
}
CSIMD_INLINE csimd_u32x16 csimd_load_qword_lanes(const void *base, long stride) {
  const uint8_t *p = (const uint8_t *)base;
  return csimd_join_lanes(csimd_load_2_qwords(p, stride), csimd_load_2_qwords(p + 4 * stride, stride),
                          csimd_load_2_qwords(p + 8 * stride, stride), csimd_load_2_qwords(p + 12 * stride, stride));
}

// w with 16 added to byte i of every dword where bit 4 * column + i of the dword of `bits` is set; `column` is a constant.
CSIMD_INLINE csimd_u32x16 csimd_add_fifth_bits(csimd_u32x16 w, csimd_u32x16 bits, int column) {
#if CSIMD_LEVEL == 4
  // A table of the 16 cases; the permutation looks at the lowest four bits of each dword.
  const __m512i spread = _mm512_setr_epi32(0, 0x10, 0x1000, 0x1010, 0x100000, 0x100010, 0x101000, 0x101010, 0x10000000,
                                           0x10000010, 0x10001000, 0x10001010, 0x10100000, 0x10100010, 0x10101000,
                                           0x10101010);
  return w | (csimd_u32x16)_mm512_permutexvar_epi32((__m512i)(bits >> (4 * column)), spread);
#else
  // The multiplication sends bit i (of 4) to bit 8 * i + 4.
  return w | ((((bits >> (4 * column)) & 15) * 0x02040810u) & 0x10101010u);
#endif
}

// 16 half-precision numbers to f32.
CSIMD_INLINE csimd_f32x16 csimd_half_to_float(csimd_u16x16 h) {
#if CSIMD_LEVEL == 4
  return (csimd_f32x16)_mm512_cvtph_ps((__m256i)h);
#elif CSIMD_LEVEL == 3
  csimd_f32x8 a = (csimd_f32x8)_mm256_cvtph_ps((__m128i)__builtin_shufflevector(h, h, 0, 1, 2, 3, 4, 5, 6, 7));
  csimd_f32x8 b = (csimd_f32x8)_mm256_cvtph_ps((__m128i)__builtin_shufflevector(h, h, 8, 9, 10, 11, 12, 13, 14, 15));
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#else
  csimd_u32x16 x = __builtin_convertvector(h, csimd_u32x16);
  // The exponent is rebased by a multiplication with 2^112, which also normalises subnormals.
  csimd_f32x16 f = (csimd_f32x16)((x & 0x7fff) << 13) * 0x1p112f;
  csimd_u32x16 special = (csimd_u32x16)(f >= 65536.0f) & 0x7f800000;
  return (csimd_f32x16)((csimd_u32x16)f | special | ((x & 0x8000) << 16));
#endif
}

// One half-precision number of each of 16 rows, as f32.
CSIMD_INLINE csimd_f32x16 csimd_load_halves(const void *p, long stride) {
  const uint8_t *q = (const uint8_t *)p;
  csimd_u16x16 v = 0;
#pragma unroll
  for (int i = 0; i < 16; i++) {
    uint16_t x;
    __builtin_memcpy(&x, q + i * stride, 2);
    v[i] = x;
  }
  return csimd_half_to_float(v);
}

// The low and the high half of 16 dwords, as f32.
CSIMD_INLINE csimd_f32x16 csimd_low_half(csimd_u32x16 x) {
  return csimd_half_to_float(__builtin_convertvector(x, csimd_u16x16));
}
CSIMD_INLINE csimd_f32x16 csimd_high_half(csimd_u32x16 x) {
  return csimd_half_to_float(__builtin_convertvector(x >> 16, csimd_u16x16));
}

// Whole-vector arithmetic: Swift's operators on SIMD types are loops over lanes, which the optimiser does not always put
// together again.
CSIMD_INLINE csimd_u32x16 csimd_and(csimd_u32x16 a, csimd_u32x16 b) { return a & b; }
CSIMD_INLINE csimd_u32x16 csimd_or(csimd_u32x16 a, csimd_u32x16 b) { return a | b; }
CSIMD_INLINE csimd_u32x16 csimd_xor(csimd_u32x16 a, csimd_u32x16 b) { return a ^ b; }
CSIMD_INLINE csimd_u32x16 csimd_multiply_dwords(csimd_u32x16 a, csimd_u32x16 b) { return a * b; }
CSIMD_INLINE csimd_i32x16 csimd_add_ints(csimd_i32x16 a, csimd_i32x16 b) { return a + b; }
CSIMD_INLINE csimd_i32x16 csimd_subtract_ints(csimd_i32x16 a, csimd_i32x16 b) { return a - b; }
CSIMD_INLINE csimd_i16x16 csimd_add_shorts(csimd_i16x16 a, csimd_i16x16 b) { return a + b; }
CSIMD_INLINE csimd_f32x16 csimd_add(csimd_f32x16 a, csimd_f32x16 b) { return a + b; }
CSIMD_INLINE csimd_f32x16 csimd_subtract(csimd_f32x16 a, csimd_f32x16 b) { return a - b; }
CSIMD_INLINE csimd_f32x16 csimd_multiply(csimd_f32x16 a, csimd_f32x16 b) { return a * b; }
CSIMD_INLINE csimd_f32x16 csimd_negate(csimd_f32x16 a) { return -a; }

CSIMD_INLINE csimd_u32x16 csimd_shift_right(csimd_u32x16 x, int n) { return x >> n; }
CSIMD_INLINE csimd_u32x16 csimd_shift_left(csimd_u32x16 x, int n) { return x << n; }
// Byte `i` of every dword, as f32.
CSIMD_INLINE csimd_f32x16 csimd_byte_to_float(csimd_u32x16 x, int i) {
  return __builtin_convertvector((x >> (8 * i)) & 0xff, csimd_f32x16);
}
// Byte `i` of every dword, read as signed, as f32.
CSIMD_INLINE csimd_f32x16 csimd_signed_byte_to_float(csimd_u32x16 x, int i) {
  return __builtin_convertvector((csimd_i32x16)(x << (24 - 8 * i)) >> 24, csimd_f32x16);
}
CSIMD_INLINE csimd_f32x16 csimd_int_to_float(csimd_i32x16 x) { return __builtin_convertvector(x, csimd_f32x16); }
CSIMD_INLINE csimd_u8x16 csimd_truncate_to_bytes(csimd_u32x16 x) { return __builtin_convertvector(x, csimd_u8x16); }
CSIMD_INLINE csimd_f32x16 csimd_splat_float(const float *p) { return (csimd_f32x16)(*p); }
CSIMD_INLINE csimd_i32x16 csimd_splat_int(const int32_t *p) { return (csimd_i32x16)(*p); }

// The greatest lane of two vectors, and the sum of the lanes.
CSIMD_INLINE uint32_t csimd_max_dword(csimd_u32x16 a, csimd_u32x16 b) {
  return __builtin_reduce_max(__builtin_elementwise_max(a, b));
}
CSIMD_INLINE int32_t csimd_sum_ints(csimd_i32x16 a) { return __builtin_reduce_add(a); }

// a * b + c, one rounding where the level has it. (Swift's addProduct is a loop over lanes.)
CSIMD_INLINE csimd_f32x16 csimd_fma(csimd_f32x16 a, csimd_f32x16 b, csimd_f32x16 c) {
#if CSIMD_LEVEL >= 3 || defined(__aarch64__)
  return __builtin_elementwise_fma(a, b, c);
#else
  return a * b + c;
#endif
}

// acc[n] + the dot product of the unsigned bytes w[4n ..< 4n + 4] and the four signed bytes at `a`.
CSIMD_INLINE csimd_i32x16 csimd_dot4(csimd_i32x16 acc, csimd_u8x64 w, const void *a) {
  int32_t dword;
  __builtin_memcpy(&dword, a, 4);
#if CSIMD_LEVEL == 4
  return (csimd_i32x16)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, _mm512_set1_epi32(dword));
#else
  typedef int16_t i16x32 __attribute__((ext_vector_type(32)));
  // Even and odd bytes; a product is at most 255 * 127 < 2^15.
  i16x32 even = (i16x32)w & 0xff, odd = (i16x32)((csimd_u32x16)w >> 8) & 0xff;
  csimd_i32x16 pair = (csimd_i32x16)(dword);
  i16x32 a_even = (i16x32)(pair << 8) >> 8, a_odd = (i16x32)pair >> 8;
  csimd_i32x16 p = (csimd_i32x16)(even * a_even), q = (csimd_i32x16)(odd * a_odd);
  return acc + ((p << 16) >> 16) + (p >> 16) + ((q << 16) >> 16) + (q >> 16);
#endif
}

// The AVX2 dot product: eight dwords of w (at a pointer, or the lower or upper half of a vector) times the four signed
// bytes at `a`, as sums of two neighbouring products that saturate at 16 bits.
#if defined(__AVX2__)
CSIMD_INLINE csimd_i16x16 csimd_dot2_vectors(__m256i w, const void *a) {
  int32_t dword;
  __builtin_memcpy(&dword, a, 4);
  return (csimd_i16x16)_mm256_maddubs_epi16(w, _mm256_set1_epi32(dword));
}
// For signed w: its sign moves to the other factor.
CSIMD_INLINE csimd_i16x16 csimd_dot2_signed_vectors(__m256i w, const void *a) {
  int32_t dword;
  __builtin_memcpy(&dword, a, 4);
  return (csimd_i16x16)_mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(_mm256_set1_epi32(dword), w));
}
CSIMD_INLINE __m256i csimd_low_half_of(csimd_u32x16 w) {
  return (__m256i)__builtin_shufflevector(w, w, 0, 1, 2, 3, 4, 5, 6, 7);
}
CSIMD_INLINE __m256i csimd_high_half_of(csimd_u32x16 w) {
  return (__m256i)__builtin_shufflevector(w, w, 8, 9, 10, 11, 12, 13, 14, 15);
}
CSIMD_INLINE csimd_i16x16 csimd_dot2(const void *w, const void *a) {
  return csimd_dot2_vectors(_mm256_loadu_si256((const __m256i *)w), a);
}
CSIMD_INLINE csimd_i16x16 csimd_dot2_signed(const void *w, const void *a) {
  return csimd_dot2_signed_vectors(_mm256_loadu_si256((const __m256i *)w), a);
}
CSIMD_INLINE csimd_i16x16 csimd_dot2_low(csimd_u32x16 w, const void *a) {
  return csimd_dot2_vectors(csimd_low_half_of(w), a);
}
CSIMD_INLINE csimd_i16x16 csimd_dot2_high(csimd_u32x16 w, const void *a) {
  return csimd_dot2_vectors(csimd_high_half_of(w), a);
}
CSIMD_INLINE csimd_i16x16 csimd_dot2_signed_low(csimd_u32x16 w, const void *a) {
  return csimd_dot2_signed_vectors(csimd_low_half_of(w), a);
}
CSIMD_INLINE csimd_i16x16 csimd_dot2_signed_high(csimd_u32x16 w, const void *a) {
  return csimd_dot2_signed_vectors(csimd_high_half_of(w), a);
}
// Sums of neighbours, exact.
CSIMD_INLINE csimd_i32x8 csimd_widen_pairs(csimd_i16x16 x) {
  return (csimd_i32x8)_mm256_madd_epi16((__m256i)x, _mm256_set1_epi16(1));
}
#else
// Never called below AVX2; here so that one Swift source compiles at every level.
CSIMD_INLINE csimd_i16x16 csimd_dot2(const void *w, const void *a) { (void)w; (void)a; __builtin_trap(); }
CSIMD_INLINE csimd_i16x16 csimd_dot2_signed(const void *w, const void *a) { (void)w; (void)a; __builtin_trap(); }
CSIMD_INLINE csimd_i16x16 csimd_dot2_low(csimd_u32x16 w, const void *a) { (void)w; (void)a; __builtin_trap(); }
CSIMD_INLINE csimd_i16x16 csimd_dot2_high(csimd_u32x16 w, const void *a) { (void)w; (void)a; __builtin_trap(); }
CSIMD_INLINE csimd_i16x16 csimd_dot2_signed_low(csimd_u32x16 w, const void *a) { (void)w; (void)a; __builtin_trap(); }
CSIMD_INLINE csimd_i16x16 csimd_dot2_signed_high(csimd_u32x16 w, const void *a) { (void)w; (void)a; __builtin_trap(); }
CSIMD_INLINE csimd_i32x8 csimd_widen_pairs(csimd_i16x16 x) { (void)x; __builtin_trap(); }
#endif
CSIMD_INLINE csimd_i32x16 csimd_join(csimd_i32x8 a, csimd_i32x8 b) {
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

// The highest level that this processor and its operating system run:
// 4 = AVX-512 (F, BW, DQ, VL) with VNNI, 3 = AVX2 with FMA and F16C, 2 = anything else (portable code).
static inline int csimd_cpu_level(void) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni"))
    return 4;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
      __builtin_cpu_supports("bmi2"))
    return 3;
#endif
  return 2;
}

// Tells the core that this is a spin loop.
CSIMD_INLINE void csimd_pause(void) {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

#if defined(__linux__)
// Sleeps while *word == expected; spurious wake-ups happen.
static inline void csimd_futex_wait(const void *word, uint32_t expected) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, (void *)0, (void *)0, 0);
}
static inline void csimd_futex_wake(const void *word, int count) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, (void *)0, (void *)0, 0);
}
// Processors that the calling thread may run on; 0 when the system does not tell.
static inline int csimd_allowed_processors(void) {
  unsigned long mask[128] = {0};
  long bytes = syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
  int count = 0;
  for (long i = 0; i < bytes / (long)sizeof mask[0]; i++) count += __builtin_popcountl(mask[i]);
  return count;
}
// Names the calling thread in ps and gdb; at most 15 characters.
static inline void csimd_name_thread(const char *name) { prctl(PR_SET_NAME, name, 0, 0, 0); }
#endif

// ---- f32 kernels: FMA, lane shuffles, 16-bit conversions ----

// acc + a·b, as csimd_fma.
CSIMD_INLINE csimd_f32x8 csimd_fma8(csimd_f32x8 acc, csimd_f32x8 a, csimd_f32x8 b) {
#if CSIMD_LEVEL >= 3 || defined(__aarch64__)
  return __builtin_elementwise_fma(a, b, acc);
#else
  return acc + a * b;
#endif
}

// v · 2^n for whole n in -252...254, rounded once where the result falls below the normal range.
CSIMD_INLINE csimd_f32x16 csimd_scale(csimd_f32x16 v, csimd_f32x16 n) {
#if CSIMD_LEVEL == 4
  return (csimd_f32x16)_mm512_scalef_ps((__m512)v, (__m512)n);
#else
  // Two steps, the first of them exact.
  const csimd_i32x16 whole = __builtin_convertvector(n, csimd_i32x16), half = whole >> 1;
  return v * (csimd_f32x16)((half + 127) << 23) * (csimd_f32x16)((whole - half + 127) << 23);
#endif
}

CSIMD_INLINE csimd_f32x16 csimd_divide(csimd_f32x16 a, csimd_f32x16 b) { return a / b; }

// The greater (lesser) of each lane; a NaN in b is dropped, one in a stays.
CSIMD_INLINE csimd_f32x16 csimd_greater(csimd_f32x16 a, csimd_f32x16 b) { return b > a ? b : a; }
CSIMD_INLINE csimd_f32x16 csimd_lesser(csimd_f32x16 a, csimd_f32x16 b) { return b < a ? b : a; }
// Where x < y: a, elsewhere (NaN too) b.
CSIMD_INLINE csimd_f32x16 csimd_where_less(csimd_f32x16 x, csimd_f32x16 y, csimd_f32x16 a, csimd_f32x16 b) {
  return x < y ? a : b;
}
CSIMD_INLINE csimd_f32x16 csimd_absolute(csimd_f32x16 v) { return (csimd_f32x16)((csimd_i32x16)v & 0x7fffffff); }
// The magnitude of v with the sign of s.
CSIMD_INLINE csimd_f32x16 csimd_with_sign(csimd_f32x16 v, csimd_f32x16 s) {
  return (csimd_f32x16)(((csimd_i32x16)v & 0x7fffffff) | ((csimd_i32x16)s & (int32_t)0x80000000));
}
CSIMD_INLINE int csimd_any_equal(csimd_f32x16 v, csimd_f32x16 x) { return __builtin_reduce_or(v == x) != 0; }

// Lane shuffles that Swift's halves spell element by element.
CSIMD_INLINE csimd_f32x16 csimd_interleave_low(csimd_f32x16 a, csimd_f32x16 b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
CSIMD_INLINE csimd_f32x16 csimd_interleave_high(csimd_f32x16 a, csimd_f32x16 b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
CSIMD_INLINE csimd_f32x16 csimd_even_lanes(csimd_f32x16 a, csimd_f32x16 b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}
CSIMD_INLINE csimd_f32x16 csimd_odd_lanes(csimd_f32x16 a, csimd_f32x16 b) {
  return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

// Sums of the halves (then quarters) of the lanes: a's left of b's.
CSIMD_INLINE csimd_f32x16 csimd_half_sums(csimd_f32x16 a, csimd_f32x16 b) {
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
         __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
}
CSIMD_INLINE csimd_f32x16 csimd_quarter_sums(csimd_f32x16 a, csimd_f32x16 b) {
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
         __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
}
// The sum of each of eight vectors of 16 lanes.
CSIMD_INLINE csimd_f32x8 csimd_lane_sums8(csimd_f32x16 a0, csimd_f32x16 a1, csimd_f32x16 a2, csimd_f32x16 a3,
                                          csimd_f32x16 a4, csimd_f32x16 a5, csimd_f32x16 a6, csimd_f32x16 a7) {
  const csimd_f32x16 p = csimd_quarter_sums(csimd_half_sums(a0, a1), csimd_half_sums(a2, a3));
  const csimd_f32x16 q = csimd_quarter_sums(csimd_half_sums(a4, a5), csimd_half_sums(a6, a7));
  const csimd_f32x16 t = __builtin_shufflevector(p, q, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
                         __builtin_shufflevector(p, q, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  return __builtin_shufflevector(t, t, 0, 4, 8, 12, 2, 6, 10, 14) +
         __builtin_shufflevector(t, t, 1, 5, 9, 13, 3, 7, 11, 15);
}
typedef float csimd_f32x4 __attribute__((ext_vector_type(4)));
// The sum of each of four vectors of 8 lanes.
CSIMD_INLINE csimd_f32x4 csimd_lane_sums4(csimd_f32x8 a0, csimd_f32x8 a1, csimd_f32x8 a2, csimd_f32x8 a3) {
  const csimd_f32x8 p = __builtin_shufflevector(a0, a1, 0, 1, 2, 3, 8, 9, 10, 11) +
                        __builtin_shufflevector(a0, a1, 4, 5, 6, 7, 12, 13, 14, 15);
  const csimd_f32x8 q = __builtin_shufflevector(a2, a3, 0, 1, 2, 3, 8, 9, 10, 11) +
                        __builtin_shufflevector(a2, a3, 4, 5, 6, 7, 12, 13, 14, 15);
  const csimd_f32x8 t = __builtin_shufflevector(p, q, 0, 1, 8, 9, 4, 5, 12, 13) +
                        __builtin_shufflevector(p, q, 2, 3, 10, 11, 6, 7, 14, 15);
  return __builtin_shufflevector(t, t, 0, 4, 2, 6) + __builtin_shufflevector(t, t, 1, 5, 3, 7);
}

// 8 f16 values at `p` to 8 f32 at `out`, exact.
CSIMD_INLINE void csimd_f16_to_f32_8(const void *p, float *out) {
#if CSIMD_LEVEL >= 3
  _mm256_storeu_ps(out, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)));
#else
  for (int i = 0; i < 8; i++) {
    uint16_t h;
    __builtin_memcpy(&h, (const char *)p + 2 * i, 2);
    // Exponent and significand in f32's places, times 2^112: right for normal and subnormal values alike.
    uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13, bits;
    float finite;
    __builtin_memcpy(&finite, &magnitude, 4);
    finite *= 0x1p112f;
    __builtin_memcpy(&bits, &finite, 4);
    if ((h & 0x7c00) == 0x7c00) bits = magnitude | 0x7f800000u;
    bits |= (uint32_t)(h & 0x8000) << 16;
    __builtin_memcpy(out + i, &bits, 4);
  }
#endif
}

// 16 f16 values at `p` to 16 f32 at `out`, exact.
CSIMD_INLINE void csimd_f16_to_f32(const void *p, float *out) {
#if CSIMD_LEVEL == 4
  _mm512_storeu_ps(out, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)));
#else
  csimd_f16_to_f32_8(p, out);
  csimd_f16_to_f32_8((const char *)p + 16, out + 8);
#endif
}

// 16 f32 at `x` to f16, round to nearest even; NaN stays NaN, what is too great becomes infinite.
CSIMD_INLINE void csimd_f32_to_f16(const float *x, void *out) {
#if CSIMD_LEVEL == 4
  _mm256_storeu_si256((__m256i *)out, _mm512_cvtps_ph(_mm512_loadu_ps(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif CSIMD_LEVEL == 3
  _mm_storeu_si128((__m128i *)out, _mm256_cvtps_ph(_mm256_loadu_ps(x), _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128((__m128i *)out + 1, _mm256_cvtps_ph(_mm256_loadu_ps(x + 8), _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < 16; i++) {
    uint32_t bits;
    __builtin_memcpy(&bits, x + i, 4);
    const uint32_t magnitude = bits & 0x7fffffffu;
    uint32_t h;
    if (magnitude > 0x7f800000u) {
      h = 0x7e00;
    } else if (magnitude >= 0x477ff000u) {
      h = 0x7c00;
    } else if (magnitude < 0x38800000u) {
      // Subnormal: the addition of 1/2 does the rounding.
      float value;
      __builtin_memcpy(&value, &magnitude, 4);
      value += 0.5f;
      __builtin_memcpy(&h, &value, 4);
      h -= 0x3f000000u;
    } else {
      h = ((magnitude + 0xfff + ((magnitude >> 13) & 1)) >> 13) - (112u << 10);
    }
    const uint16_t result = (uint16_t)(h | ((bits >> 16) & 0x8000));
    __builtin_memcpy((char *)out + 2 * i, &result, 2);
  }
#endif
}

// 8 bf16 values at `p` to 8 f32 at `out`, exact.
CSIMD_INLINE void csimd_bf16_to_f32_8(const void *p, float *out) {
  typedef uint16_t u16x8 __attribute__((ext_vector_type(8)));
  typedef uint32_t u32x8 __attribute__((ext_vector_type(8)));
  u16x8 h;
  __builtin_memcpy(&h, p, 16);
  const u32x8 bits = __builtin_convertvector(h, u32x8) << 16;
  __builtin_memcpy(out, &bits, 32);
}

// 16 bf16 values at `p` to 16 f32 at `out`, exact.
CSIMD_INLINE void csimd_bf16_to_f32(const void *p, float *out) {
  csimd_u16x16 h;
  __builtin_memcpy(&h, p, 32);
  const csimd_u32x16 bits = __builtin_convertvector(h, csimd_u32x16) << 16;
  __builtin_memcpy(out, &bits, 64);
}

// 16 f32 at `x` to bf16, round to nearest even; NaN stays NaN.
CSIMD_INLINE void csimd_f32_to_bf16(const float *x, void *out) {
  for (int i = 0; i < 16; i++) {
    uint32_t bits;
    __builtin_memcpy(&bits, x + i, 4);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const uint16_t h = (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40 : rounded);
    __builtin_memcpy((char *)out + 2 * i, &h, 2);
  }
}

// start, start + 1, …, start + 15.
CSIMD_INLINE csimd_f32x16 csimd_count_from(float start) {
  const csimd_f32x16 lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return lanes + start;
}
CSIMD_INLINE float csimd_greatest(csimd_f32x16 v) { return __builtin_reduce_max(v); }

// Where keep[i] is 0: -infinity instead of v[i].
CSIMD_INLINE csimd_f32x16 csimd_mask_bytes(csimd_f32x16 v, const uint8_t *keep) {
  uint8_t bytes __attribute__((ext_vector_type(16)));
  __builtin_memcpy(&bytes, keep, 16);
  const csimd_i32x16 gone = __builtin_convertvector(bytes, csimd_i32x16) == 0;
  return (csimd_f32x16)(((csimd_i32x16)v & ~gone) | (gone & (int32_t)0xff800000));
}

// Fetches the cache line at `p` into L1, to be read.
CSIMD_INLINE void csimd_prefetch_read(const void *p) { __builtin_prefetch(p, 0, 3); }

// The dot product of `n` signed bytes (a multiple of 32, each in -127 ... 127), exact. `b_sum` is the sum of b.
CSIMD_INLINE int32_t csimd_dot_codes(const void *a, const void *b, long n, int32_t b_sum) {
  const int8_t *x = (const int8_t *)a, *y = (const int8_t *)b;
#if CSIMD_LEVEL == 4
  // vpdpbusd wants unsigned bytes on one side: a + 128, taken back with the sum of b.
  __m512i s = _mm512_setzero_si512(), t = _mm512_setzero_si512();
  const __m512i flip = _mm512_set1_epi8((char)0x80);
  long i = 0;
  for (; i + 128 <= n; i += 128) {
    s = _mm512_dpbusd_epi32(s, _mm512_xor_si512(_mm512_loadu_si512(x + i), flip), _mm512_loadu_si512(y + i));
    t = _mm512_dpbusd_epi32(t, _mm512_xor_si512(_mm512_loadu_si512(x + i + 64), flip), _mm512_loadu_si512(y + i + 64));
  }
  if (i + 64 <= n) {
    s = _mm512_dpbusd_epi32(s, _mm512_xor_si512(_mm512_loadu_si512(x + i), flip), _mm512_loadu_si512(y + i));
    i += 64;
  }
  if (i < n) {
    const __m256i half = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(x + i)), _mm512_castsi512_si256(flip));
    const __m256i r =
        _mm256_dpbusd_epi32(_mm256_setzero_si256(), half, _mm256_loadu_si256((const __m256i *)(y + i)));
    t = _mm512_add_epi32(t, _mm512_zextsi256_si512(r));
  }
  return _mm512_reduce_add_epi32(_mm512_add_epi32(s, t)) - 128 * b_sum;
#elif CSIMD_LEVEL == 3
  (void)b_sum;
  __m256i s = _mm256_setzero_si256();
  const __m256i ones = _mm256_set1_epi16(1);
  for (long i = 0; i < n; i += 32) {
    const __m256i v = _mm256_loadu_si256((const __m256i *)(x + i)), w = _mm256_loadu_si256((const __m256i *)(y + i));
    // The sign of w moves to v; two products of 127 * 127 stay below 2^15.
    s = _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(v, w)), ones));
  }
  __m128i q = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
  q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(q, _mm_shuffle_epi32(q, 0xb1)));
#else
  (void)b_sum;
  int32_t s = 0;
  for (long i = 0; i < n; i++) s += (int32_t)x[i] * y[i];
  return s;
#endif
}

// One step of CRC-32C over 8 bytes or 1.
#if defined(__SSE4_2__)
CSIMD_INLINE uint32_t csimd_crc32c_8(uint32_t crc, uint64_t bytes) { return (uint32_t)_mm_crc32_u64(crc, bytes); }
CSIMD_INLINE uint32_t csimd_crc32c_1(uint32_t crc, uint8_t byte) { return _mm_crc32_u8(crc, byte); }
#else
CSIMD_INLINE uint32_t csimd_crc32c_1(uint32_t crc, uint8_t byte) {
  crc ^= byte;
  for (int i = 0; i < 8; i++) crc = (crc >> 1) ^ (0x82f63b78u & -(crc & 1));
  return crc;
}
CSIMD_INLINE uint32_t csimd_crc32c_8(uint32_t crc, uint64_t bytes) {
  for (int i = 0; i < 8; i++) crc = csimd_crc32c_1(crc, (uint8_t)(bytes >> (8 * i)));
  return crc;
}
#endif

// The sum of the signed bytes at `q` (`n` of them, a multiple of 64) whose bit is set in `bits`.
CSIMD_INLINE int32_t csimd_sum_where_set(const void *bits, const void *q, long n) {
  const uint8_t *b = (const uint8_t *)bits;
  const int8_t *v = (const int8_t *)q;
#if CSIMD_LEVEL == 4
  __m512i s = _mm512_setzero_si512();
  const __m512i ones = _mm512_set1_epi8(1);
  for (long i = 0; i < n; i += 64) {
    uint64_t mask;
    __builtin_memcpy(&mask, b + i / 8, 8);
    s = _mm512_dpbusd_epi32(s, ones, _mm512_maskz_loadu_epi8(mask, v + i));
  }
  return _mm512_reduce_add_epi32(s);
#elif CSIMD_LEVEL == 3
  // Each byte of the bits stands before eight lanes, of which each looks at its own bit.
  const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3,
                                          3, 3, 3, 3, 3);
  const __m256i own = _mm256_set1_epi64x((long long)0x8040201008040201ull);
  const __m256i ones8 = _mm256_set1_epi8(1), ones16 = _mm256_set1_epi16(1);
  __m256i s = _mm256_setzero_si256();
  for (long i = 0; i < n; i += 32) {
    int32_t word;
    __builtin_memcpy(&word, b + i / 8, 4);
    const __m256i lanes = _mm256_shuffle_epi8(_mm256_set1_epi32(word), spread);
    const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(lanes, own), own);
    const __m256i kept = _mm256_and_si256(set, _mm256_loadu_si256((const __m256i *)(v + i)));
    s = _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(ones8, kept), ones16));
  }
  __m128i r = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
  r = _mm_add_epi32(r, _mm_shuffle_epi32(r, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(r, _mm_shuffle_epi32(r, 0xb1)));
#else
  int32_t s = 0;
  for (long i = 0; i < n; i++) s += (b[i / 8] >> (i % 8) & 1) ? v[i] : 0;
  return s;
#endif
}

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

// The level that the including module is compiled for; a constant in Swift, so `if CSIMD_LEVEL == 4` costs nothing.
#if defined(__AVX512VNNI__)
#define CSIMD_LEVEL 4
#elif defined(__AVX2__) && defined(__FMA__)
#define CSIMD_LEVEL 3
#else
#define CSIMD_LEVEL 2
#endif

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

// ---- f32 kernels: the compiled level, half-precision conversions ----

// CSIMD_LEVEL as a call: Swift folds it in LLVM, where a macro in an `if` would warn "will never be executed".
CSIMD_INLINE long csimd_level(void) { return CSIMD_LEVEL; }

// 16 f16 values at `p` to 16 f32 at `out`, exact.
CSIMD_INLINE void csimd_f16_to_f32(const void *p, float *out) {
#if CSIMD_LEVEL == 4
  _mm512_storeu_ps(out, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)));
#elif CSIMD_LEVEL == 3
  _mm256_storeu_ps(out, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)));
  _mm256_storeu_ps(out + 8, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p + 1)));
#else
  for (int i = 0; i < 16; i++) {
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

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

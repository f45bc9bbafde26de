// Makes the kernels of the source file that was included before known to the emulator by name.
#pragma once
#include "emulator.h"

namespace {

template <int... I>
struct Indices {};
template <int N, int... I>
struct MakeIndices : MakeIndices<N - 1, N - 1, I...> {};
template <int... I>
struct MakeIndices<0, I...> {
  typedef Indices<I...> type;
};

template <auto kernel>
struct Call;
template <class... A, void (*kernel)(A...)>
struct Call<kernel> {
  static void run(void **arguments) { run(arguments, typename MakeIndices<sizeof...(A)>::type()); }
  template <int... I>
  static void run(void **arguments, Indices<I...>) {
    kernel(*(A *)arguments[I]...);
  }
};

struct Registration {
  Registration(EmulatedSymbol *symbols, int count) {
    for (int i = 0; i < count; i++) emulated_register(&symbols[i]);
  }
};

}  // namespace

#define KERNEL(name) {#name, Call<name>::run, nullptr, nullptr}, {#name "_shared", nullptr, &name##_shared, nullptr}
#define KERNELS(...)                               \
  static EmulatedSymbol kernels[] = {__VA_ARGS__}; \
  static Registration registration(kernels, sizeof(kernels) / sizeof(kernels[0]));

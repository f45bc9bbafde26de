// A CUDA driver in software for the kernels of ApusCUDA: what tests use where no GPU is.
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

/// The entry point of the driver's interface with this name, or null.
void *emulated_symbol(const char *name);

/// Whether the threads of a block run in descending order from now on: a missing barrier shows in one of the orders.
void emulated_order(int descending);

/// A kernel, or an `int` variable of a module (`call` null).
typedef struct EmulatedSymbol {
  const char *name;
  void (*call)(void **arguments);
  int *variable;
  struct EmulatedSymbol *next;
} EmulatedSymbol;

void emulated_register(EmulatedSymbol *symbol);

#ifdef __cplusplus
}
#endif

#ifndef ALLOCATION_COUNTER_H
#define ALLOCATION_COUNTER_H

#include <stdbool.h>
#include <stdint.h>

// Whether this program's heap allocations are counted: with glibc, and without a sanitizer, which has an allocator of its
// own.
bool allocations_are_counted(void);

// Calls of malloc and its kin by the calling thread so far. Frees are not counted.
uint64_t allocations_of_this_thread(void);

#endif

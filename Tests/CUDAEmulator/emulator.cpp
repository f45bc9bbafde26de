// A CUDA driver in software, of as much of the driver's interface as Apus uses, for exactly the kernels that are linked
// in.
//
// A grid's blocks run one after another. Device memory can only be touched while a kernel or a copy runs: a host that
// reads or writes it by its address is stopped by the processor. Shared memory is as large as the launch says, ends at
// a page that nobody may touch; memory of both kinds starts as NaNs.
#include "emulator.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "emulation.h"

namespace {

[[noreturn]] void fail(const char *what) {
  fprintf(stderr, "CUDA emulator: %s (thread %u of block %u, %u, %u)\n", what, emulation::thread.x, emulation::block.x,
          emulation::block.y, emulation::block.z);
  abort();
}

// MARK: fibers

constexpr int kMostThreads = 1024;
constexpr size_t kStackBytes = 64 << 10;
constexpr int kMostCopies = 256;

struct Copy {
  void *to;
  const void *from;
  int bytes, group;
};

struct Fiber {
  jmp_buf state;
  ucontext_t first;
  bool started, ended;
  // Barriers passed, of the block and of the warp.
  unsigned blockBarriers, warpBarriers;
  Copy copies[kMostCopies];
  int copyCount, group;
};

struct Warp {
  // Of the barrier under way.
  int arrived;
  unsigned passed;
  emulation::Exchange exchanges[2];
};

struct Block {
  Fiber *fibers;
  Warp *warps;
  unsigned char *stacks;
  int threads, current, alive, arrived;
  unsigned passed;
  bool descending;
  void (*body)(void **);
  void **arguments;
  jmp_buf scheduler;
  // Switches without anybody having arrived anywhere.
  long idle;
  unsigned char *sharedEnd;
  size_t sharedBytes;
};

Block running;

// Lets the threads at the block's barrier go when all have come; those that have ended are not waited for.
void open_barrier() {
  if (running.arrived == 0 || running.arrived < running.alive) return;
  running.arrived = 0;
  running.passed++;
}

bool can_run(const Fiber &f) { return !f.ended && f.blockBarriers <= running.passed; }

void enter() {
  running.body(running.arguments);
  Fiber &me = running.fibers[running.current];
  if (me.copyCount > 0) fail("a thread ended without waiting for its asynchronous copies");
  me.ended = true;
  running.alive--;
  open_barrier();
  running.idle = 0;
  _longjmp(running.scheduler, 1);
}

// Leaves the processor to the next thread that has not ended, back at the scheduler.
void give_way() {
  Fiber &me = running.fibers[running.current];
  if (++running.idle > 4L * running.threads) fail("threads wait at a barrier that others do not reach");
  if (_setjmp(me.state) == 0) _longjmp(running.scheduler, 1);
}

void resume(int index) {
  running.current = index;
  emulation::thread = {(unsigned)index, 0, 0};
  Fiber &fiber = running.fibers[index];
  if (_setjmp(running.scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.state, 1);
  fiber.started = true;
  setcontext(&fiber.first);
  fail("setcontext");
}

void run_block() {
  Block &b = running;
  for (int i = 0; i < b.threads; i++) {
    Fiber &f = b.fibers[i];
    f.started = f.ended = false;
    f.blockBarriers = f.warpBarriers = 0;
    f.copyCount = f.group = 0;
    getcontext(&f.first);
    f.first.uc_stack.ss_sp = b.stacks + i * kStackBytes;
    f.first.uc_stack.ss_size = kStackBytes;
    f.first.uc_link = nullptr;
    makecontext(&f.first, enter, 0);
  }
  memset(b.warps, 0, sizeof(Warp) * ((b.threads + 31) / 32));
  b.alive = b.threads;
  b.arrived = 0;
  b.passed = 0;
  b.idle = 0;
  memset(b.sharedEnd - b.sharedBytes, 0xff, b.sharedBytes);
  // A warp runs as far as the block's barriers let it: one that is missing lets it run far ahead of the others.
  const int warps = b.threads / 32;
  while (b.alive > 0) {
    for (int w = 0; w < warps; w++) {
      const int first = 32 * (b.descending ? warps - 1 - w : w);
      for (bool ran = true; ran;) {
        ran = false;
        for (int n = 0; n < 32; n++) {
          const int i = first + (b.descending ? 31 - n : n);
          if (!can_run(b.fibers[i])) continue;
          resume(i);
          ran = true;
        }
      }
    }
  }
}

// MARK: device memory

struct Allocation {
  unsigned char *base;
  size_t bytes;
};

constexpr int kMostAllocations = 1 << 16;
Allocation allocations[kMostAllocations];
int allocationCount;
size_t allocatedBytes;
pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
int order;

void protect(int how) {
  for (int i = 0; i < allocationCount; i++) mprotect(allocations[i].base, allocations[i].bytes, how);
}

// Device memory is open, and nobody else's kernel runs, while one of these lives.
struct Access {
  Access() {
    pthread_mutex_lock(&lock);
    protect(PROT_READ | PROT_WRITE);
  }
  ~Access() {
    protect(PROT_NONE);
    pthread_mutex_unlock(&lock);
  }
};

size_t whole_pages(size_t bytes) {
  const size_t page = sysconf(_SC_PAGESIZE);
  return (bytes + page - 1) / page * page;
}

bool is_allocated(unsigned long address, size_t bytes) {
  for (int i = 0; i < allocationCount; i++) {
    const unsigned long base = (unsigned long)allocations[i].base;
    if (address >= base && address + bytes <= base + allocations[i].bytes) return true;
  }
  return false;
}

constexpr int kSuccess = 0, kInvalidValue = 1, kOutOfMemory = 2, kNotFound = 500, kInvalidImage = 200;

EmulatedSymbol *symbols;

}  // namespace

namespace emulation {

Index thread, block;
unsigned char *shared;

void block_barrier() {
  Block &b = running;
  Fiber &me = b.fibers[b.current];
  me.blockBarriers++;
  b.idle = 0;
  b.arrived++;
  open_barrier();
  while (!can_run(me)) give_way();
}

Exchange &exchange() {
  return running.warps[running.current / 32].exchanges[running.fibers[running.current].warpBarriers % 2];
}

void warp_barrier() {
  Block &b = running;
  Fiber &me = b.fibers[b.current];
  Warp &warp = b.warps[b.current / 32];
  const unsigned mine = ++me.warpBarriers;
  b.idle = 0;
  warp.arrived++;
  if (warp.arrived == 32) {
    warp.arrived = 0;
    warp.passed++;
  }
  while (warp.passed != mine) give_way();
}

void check_shared(const void *p, unsigned long bytes) {
  const unsigned char *at = (const unsigned char *)p;
  if (at < running.sharedEnd - running.sharedBytes || at + bytes > running.sharedEnd) fail("not shared memory");
}

}  // namespace emulation

void copy_async_16(void *shared, const void *global, int bytes) {
  emulation::check_shared(shared, 16);
  if ((unsigned long)shared % 16 != 0 || (unsigned long)global % 16 != 0) fail("a copy of 16 bytes is not aligned");
  if (bytes < 0 || bytes > 16) fail("an asynchronous copy of other than 0 to 16 bytes");
  Fiber &me = running.fibers[running.current];
  if (me.copyCount == kMostCopies) fail("too many asynchronous copies at once");
  memset(shared, 0xff, 16);
  me.copies[me.copyCount++] = {shared, global, bytes, me.group};
}

void copy_async_commit() { running.fibers[running.current].group++; }

void copy_async_wait_groups(int n) {
  Fiber &me = running.fibers[running.current];
  int kept = 0;
  for (int i = 0; i < me.copyCount; i++) {
    const Copy &c = me.copies[i];
    if (c.group >= me.group - n) {
      me.copies[kept++] = c;
      continue;
    }
    memset(c.to, 0, 16);
    memcpy(c.to, c.from, c.bytes);
  }
  me.copyCount = kept;
}

extern "C" {

void emulated_register(EmulatedSymbol *symbol) {
  symbol->next = symbols;
  symbols = symbol;
}

void emulated_order(int descending) { order = descending; }

int emulated_cuInit(unsigned) { return kSuccess; }

int emulated_cuGetErrorName(int code, const char **name) {
  switch (code) {
    case kSuccess: *name = "CUDA_SUCCESS"; break;
    case kInvalidValue: *name = "CUDA_ERROR_INVALID_VALUE"; break;
    case kOutOfMemory: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case kInvalidImage: *name = "CUDA_ERROR_INVALID_IMAGE"; break;
    case kNotFound: *name = "CUDA_ERROR_NOT_FOUND"; break;
    default: return kInvalidValue;
  }
  return kSuccess;
}

int emulated_cuGetErrorString(int code, const char **text) { return emulated_cuGetErrorName(code, text); }

int emulated_cuDriverGetVersion(int *version) {
  *version = 13000;
  return kSuccess;
}

int emulated_cuDeviceGetCount(int *count) {
  *count = 1;
  return kSuccess;
}

int emulated_cuDeviceGet(int *device, int ordinal) {
  *device = ordinal;
  return ordinal == 0 ? kSuccess : kInvalidValue;
}

int emulated_cuDeviceGetName(char *name, int length, int) {
  snprintf(name, length, "emulated device");
  return kSuccess;
}

int emulated_cuDeviceGetAttribute(int *value, int attribute, int) {
  switch (attribute) {
    case 75: *value = 9; break;             // COMPUTE_CAPABILITY_MAJOR
    case 76: *value = 0; break;             // COMPUTE_CAPABILITY_MINOR
    case 97: *value = 227 << 10; break;     // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    default: return kInvalidValue;
  }
  return kSuccess;
}

int emulated_cuDeviceTotalMem_v2(size_t *bytes, int) {
  *bytes = (size_t)1 << 40;
  return kSuccess;
}

int emulated_cuMemGetInfo_v2(size_t *free, size_t *total) {
  *total = (size_t)1 << 40;
  *free = *total - allocatedBytes;
  return kSuccess;
}

int emulated_cuDevicePrimaryCtxRetain(void **context, int) {
  *context = &running;
  return kSuccess;
}

int emulated_cuDevicePrimaryCtxRelease_v2(int) { return kSuccess; }
int emulated_cuCtxSetCurrent(void *) { return kSuccess; }
int emulated_cuCtxSynchronize() { return kSuccess; }
int emulated_cuStreamSynchronize(void *) { return kSuccess; }

// The image is not looked at: the kernels are those of the sources that are linked in.
int emulated_cuModuleLoadData(void **module, const void *image) {
  *module = &running;
  return image ? kSuccess : kInvalidImage;
}

int emulated_cuModuleUnload(void *) { return kSuccess; }

int emulated_cuModuleGetFunction(void **function, void *, const char *name) {
  for (EmulatedSymbol *s = symbols; s; s = s->next) {
    if (s->call && strcmp(s->name, name) == 0) {
      *function = s;
      return kSuccess;
    }
  }
  return kNotFound;
}

int emulated_cuModuleGetGlobal_v2(unsigned long *address, size_t *bytes, void *, const char *name) {
  for (EmulatedSymbol *s = symbols; s; s = s->next) {
    if (!s->call && strcmp(s->name, name) == 0) {
      *address = (unsigned long)s->variable;
      *bytes = sizeof(int);
      return kSuccess;
    }
  }
  return kNotFound;
}

int emulated_cuFuncSetAttribute(void *, int attribute, int value) {
  return attribute == 8 && value <= 227 << 10 ? kSuccess : kInvalidValue;
}

int emulated_cuMemAlloc_v2(unsigned long *address, size_t bytes) {
  pthread_mutex_lock(&lock);
  const size_t size = whole_pages(bytes);
  void *base = bytes == 0 || allocationCount == kMostAllocations
                   ? MAP_FAILED
                   : mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const bool done = base != MAP_FAILED;
  if (done) {
    // NaNs, also between the last byte asked for and the end of the page.
    memset(base, 0xff, size);
    mprotect(base, size, PROT_NONE);
    allocations[allocationCount++] = {(unsigned char *)base, size};
    allocatedBytes += size;
    *address = (unsigned long)base;
  }
  pthread_mutex_unlock(&lock);
  return done ? kSuccess : kOutOfMemory;
}

int emulated_cuMemFree_v2(unsigned long address) {
  pthread_mutex_lock(&lock);
  int result = kInvalidValue;
  for (int i = 0; i < allocationCount; i++) {
    if ((unsigned long)allocations[i].base != address) continue;
    munmap(allocations[i].base, allocations[i].bytes);
    allocatedBytes -= allocations[i].bytes;
    allocations[i] = allocations[--allocationCount];
    result = kSuccess;
    break;
  }
  pthread_mutex_unlock(&lock);
  return result;
}

int emulated_cuMemcpyHtoD_v2(unsigned long to, const void *from, size_t bytes) {
  Access access;
  if (!is_allocated(to, bytes)) return kInvalidValue;
  memcpy((void *)to, from, bytes);
  return kSuccess;
}

int emulated_cuMemcpyDtoH_v2(void *to, unsigned long from, size_t bytes) {
  Access access;
  // A module's variable is not allocated memory.
  memcpy(to, (void *)from, bytes);
  return kSuccess;
}

int emulated_cuMemsetD8_v2(unsigned long to, unsigned char value, size_t bytes) {
  Access access;
  if (!is_allocated(to, bytes)) return kInvalidValue;
  memset((void *)to, value, bytes);
  return kSuccess;
}

int emulated_cuEventCreate(void **event, unsigned) {
  *event = &running;
  return kSuccess;
}
int emulated_cuEventRecord(void *, void *) { return kSuccess; }
int emulated_cuEventSynchronize(void *) { return kSuccess; }
int emulated_cuEventElapsedTime(float *milliseconds, void *, void *) {
  *milliseconds = 0;
  return kSuccess;
}

int emulated_cuLaunchKernel(void *function, unsigned gridX, unsigned gridY, unsigned gridZ, unsigned blockX,
                            unsigned blockY, unsigned blockZ, unsigned sharedBytes, void *, void **arguments, void **) {
  if (blockX % 32 != 0 || blockX > kMostThreads || blockY != 1 || blockZ != 1) return kInvalidValue;
  if (gridX == 0 || gridY == 0 || gridZ == 0 || gridY > 65535 || gridZ > 65535) return kInvalidValue;
  Access access;
  Block &b = running;
  b.threads = (int)blockX;
  b.body = ((EmulatedSymbol *)function)->call;
  b.arguments = arguments;
  b.descending = order != 0;
  b.fibers = (Fiber *)calloc(blockX, sizeof(Fiber));
  b.warps = (Warp *)calloc(blockX / 32, sizeof(Warp));
  b.stacks = (unsigned char *)mmap(nullptr, blockX * kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                                   -1, 0);
  const size_t room = whole_pages(sharedBytes + 1), page = whole_pages(1);
  unsigned char *memory =
      (unsigned char *)mmap(nullptr, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  mprotect(memory + room, page, PROT_NONE);
  b.sharedEnd = memory + room;
  b.sharedBytes = (sharedBytes + 15) / 16 * 16;
  emulation::shared = b.sharedEnd - b.sharedBytes;
  for (unsigned z = 0; z < gridZ; z++)
    for (unsigned y = 0; y < gridY; y++)
      for (unsigned x = 0; x < gridX; x++) {
        emulation::block = {x, y, z};
        run_block();
      }
  munmap(memory, room + page);
  munmap(b.stacks, blockX * kStackBytes);
  free(b.warps);
  free(b.fibers);
  return kSuccess;
}

#define ENTRY(name) {#name, (void *)emulated_##name}

void *emulated_symbol(const char *name) {
  static const struct {
    const char *name;
    void *entry;
  } entries[] = {
      ENTRY(cuInit), ENTRY(cuGetErrorName), ENTRY(cuGetErrorString), ENTRY(cuDriverGetVersion),
      ENTRY(cuDeviceGetCount), ENTRY(cuDeviceGet), ENTRY(cuDeviceGetName), ENTRY(cuDeviceGetAttribute),
      ENTRY(cuDeviceTotalMem_v2), ENTRY(cuMemGetInfo_v2), ENTRY(cuDevicePrimaryCtxRetain),
      ENTRY(cuDevicePrimaryCtxRelease_v2), ENTRY(cuCtxSetCurrent), ENTRY(cuCtxSynchronize),
      ENTRY(cuModuleLoadData), ENTRY(cuModuleUnload), ENTRY(cuModuleGetFunction), ENTRY(cuModuleGetGlobal_v2),
      ENTRY(cuFuncSetAttribute), ENTRY(cuMemAlloc_v2), ENTRY(cuMemFree_v2), ENTRY(cuMemcpyHtoD_v2),
      ENTRY(cuMemcpyDtoH_v2), ENTRY(cuMemsetD8_v2), ENTRY(cuEventCreate), ENTRY(cuEventRecord),
      ENTRY(cuEventSynchronize), ENTRY(cuEventElapsedTime), ENTRY(cuLaunchKernel),
  };
  for (const auto &e : entries) {
    if (strcmp(e.name, name) == 0) return e.entry;
  }
  return nullptr;
}
}

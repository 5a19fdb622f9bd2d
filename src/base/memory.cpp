#include "base/memory.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>  // says whether this is glibc
#include <fstream>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace unigrpo {

void keep_freed_memory() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_MAX, 0);              // large blocks come from the heap, where they can be used again
  mallopt(M_TRIM_THRESHOLD, 1 << 30);  // bytes free at the heap's end before it shrinks
  mallopt(M_TOP_PAD, 64 << 20);
#endif
}

void return_free_memory() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

uint64_t memory_of_machine() {
  auto bytes = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  // Control groups, second and first version; "max" and absent files leave what the machine has.
  for (const char* file : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    uint64_t limit = 0;
    if (std::ifstream(file) >> limit) bytes = std::min(bytes, limit);
  }
  return bytes;
}

}  // namespace unigrpo

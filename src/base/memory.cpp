#include "base/memory.h"

#include <cstdlib>  // says whether this is glibc

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

}  // namespace unigrpo

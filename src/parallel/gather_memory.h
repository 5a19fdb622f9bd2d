#pragma once

#include <c10/core/Allocator.h>

#include <cstddef>

namespace unigrpo::parallel {

/// Memory of the CPU for a buffer that comes and goes with its layer, not from the heap: that keeps what is freed
/// (base/memory.h), and the holes that such buffers leave between activations add up (a rank of a model with 51 M
/// weights took 0.2 GiB more). The few blocks given back last are kept for the next ones of their sizes, so that a
/// layer gets the pages of the one that ran before it. Safe from several threads. Throws std::bad_alloc.
c10::DataPtr gather_memory(size_t bytes);

}  // namespace unigrpo::parallel

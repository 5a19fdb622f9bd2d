#pragma once

#include <cstdint>

namespace unigrpo {

/// Memory that is freed stays with the process. A training step frees hundreds of megabytes and takes them again;
/// giving them back to the kernel in between costs about a tenth of its time in page faults (docs/BENCHMARKS.md). Call
/// it before the first large allocation; it does nothing where the C library is not glibc.
void keep_freed_memory();

/// Nevertheless: after something large that will not come again, such as a model read whole that is then shared, or where
/// memory counts more than that time, as where ranks share weights.
void return_free_memory();

/// Bytes of memory that this process may use: the machine's, or what its control group allows where that is less.
uint64_t memory_of_machine();

}  // namespace unigrpo

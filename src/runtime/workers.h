#pragma once

#include <cstdint>
#include <functional>

namespace unigrpo {

/// Runs task(0) .. task(num_tasks - 1), each once, on up to `workers` threads in which an operation has one thread;
/// `worker` is below `workers`, and a worker runs one task at a time. Tasks begin in their order, as workers become
/// free: beside other busy processes a slow worker holds nobody up but at the end. With one worker: in the caller's
/// thread, whose operations keep their threads.
///
/// Returns when all are done. What a task throws is thrown here, that of the first such task; no new ones begin then.
void run_tasks(int64_t workers, int64_t num_tasks, const std::function<void(int64_t task, int64_t worker)>& run);

}  // namespace unigrpo

#include "runtime/workers.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace unigrpo {
namespace {

/// Hands out tasks in order, and keeps the failure of the first one that failed.
class Tasks {
 public:
  explicit Tasks(int64_t count) : count_(count) {}

  /// The next task, or -1 where there is none.
  int64_t take() {
    const std::lock_guard lock(mutex_);
    return failure_ || next_ == count_ ? -1 : next_++;
  }
  void failed(int64_t task, std::exception_ptr failure) {
    const std::lock_guard lock(mutex_);
    if (failure_ && failed_ < task) return;
    failed_ = task;
    failure_ = std::move(failure);
  }
  void rethrow() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  std::mutex mutex_;
  const int64_t count_;
  int64_t next_ = 0, failed_ = 0;
  std::exception_ptr failure_;
};

}  // namespace

void run_tasks(int64_t workers, int64_t num_tasks, const std::function<void(int64_t task, int64_t worker)>& run) {
  if (workers <= 1) {
    for (int64_t task = 0; task < num_tasks; ++task) run(task, 0);
    return;
  }
  Tasks tasks(num_tasks);
  const int threads = at::get_num_threads();
  {
    std::vector<std::jthread> team;
    for (int64_t worker = 0; worker < std::min(workers, num_tasks); ++worker) {
      team.emplace_back([&tasks, &run, worker] {
        at::set_num_threads(1);  // of this thread, and what threads made from now on begin with
        for (int64_t task = tasks.take(); task >= 0; task = tasks.take()) {
          try {
            run(task, worker);
          } catch (...) {
            tasks.failed(task, std::current_exception());
          }
        }
      });
    }
  }
  at::set_num_threads(threads);
  tasks.rethrow();
}

}  // namespace unigrpo

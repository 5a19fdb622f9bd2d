#include "runtime/workers.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <stdexcept>
#include <thread>
#include <vector>

namespace unigrpo {
namespace {

TEST(Workers, RunEachTaskOnceWithOneThreadAnOperation) {
  const int before = at::get_num_threads();
  for (const int64_t workers : {2, 3, 8}) {
    std::vector<std::atomic<int>> runs(20);
    std::atomic<int> threads_seen{0};
    run_tasks(workers, 20, [&](int64_t task, int64_t worker) {
      EXPECT_LT(worker, workers);
      ++runs[task];
      threads_seen = std::max(threads_seen.load(), at::get_num_threads());
    });
    for (const auto& count : runs) EXPECT_EQ(count, 1);
    EXPECT_EQ(threads_seen, 1);
  }
  EXPECT_EQ(at::get_num_threads(), before);
  int seen = 0;  // made later than the workers, with what threads begin with again
  std::jthread([&] { seen = at::get_num_threads(); }).join();
  EXPECT_EQ(seen, before);
}

TEST(Workers, RunAtTheSameTime) {
  std::latch together(3);
  run_tasks(3, 3, [&](int64_t, int64_t) { together.arrive_and_wait(); });  // or it would wait for ever
}

TEST(Workers, OneRunsInTheCallersThreadInOrder) {
  const auto caller = std::this_thread::get_id();
  std::vector<int64_t> order;
  run_tasks(1, 4, [&](int64_t task, int64_t) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    order.push_back(task);
  });
  EXPECT_EQ(order, (std::vector<int64_t>{0, 1, 2, 3}));
  run_tasks(4, 0, [](int64_t, int64_t) { FAIL(); });
}

TEST(Workers, ThrowWhatTheFirstFailingTaskThrewAndBeginNoOthers) {
  for (const int64_t workers : {1, 2}) {
    std::atomic<int> begun{0};
    try {
      run_tasks(workers, 100, [&](int64_t task, int64_t) {
        ++begun;
        if (task < 3) throw std::runtime_error(std::to_string(task));
      });
      FAIL() << "nothing was thrown";
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "0");
    }
    EXPECT_LE(begun, workers);
  }
}

}  // namespace
}  // namespace unigrpo

#include "base/stacks.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace unigrpo {
namespace {

TEST(Stacks, NameEveryThreadWithItsFrames) {
  std::mutex mutex;
  std::condition_variable changed;
  bool ended = false;
  std::atomic<bool> waiting = false;
  std::thread sleeper([&] {
    std::unique_lock lock(mutex);
    waiting = true;
    changed.wait(lock, [&] { return ended; });
  });
  while (!waiting) std::this_thread::yield();
  { const std::lock_guard lock(mutex); }  // it is in wait() then
  const std::string text = thread_stacks();
  {
    const std::lock_guard lock(mutex);
    ended = true;
  }
  changed.notify_all();
  sleeper.join();
  EXPECT_NE(text.find("thread " + std::to_string(getpid()) + " ("), std::string::npos) << text;
  EXPECT_EQ(text.find("does not answer"), std::string::npos) << text;
  size_t threads = 0, frames = 0;
  for (size_t at = text.find("thread "); at != std::string::npos; at = text.find("\nthread ", at + 1)) ++threads;
  for (size_t at = text.find("+0x"); at != std::string::npos; at = text.find("+0x", at + 1)) ++frames;
  EXPECT_GE(threads, 2U) << text;
  EXPECT_GE(frames, 6U) << text;
}

}  // namespace
}  // namespace unigrpo

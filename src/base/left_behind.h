#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "base/signals.h"

namespace unigrpo {

/// A thread that runs code of others, which may never come back. Once a stop is asked for it is waited for no longer
/// than half a second, and in any case no longer than for `patience_s` from its start; then it is left behind: C++
/// cannot end a thread from outside.
class LeavableThread {
 public:
  /// `work` owns what it uses, since it may outlive its owner; it must not throw.
  LeavableThread(StopToken stop, std::function<void()> work, std::optional<double> patience_s = {});
  /// Waits for the end of the work, or leaves it behind.
  ~LeavableThread();
  LeavableThread(const LeavableThread&) = delete;
  LeavableThread& operator=(const LeavableThread&) = delete;

 private:
  struct State;
  StopToken stop_;
  std::chrono::steady_clock::time_point deadline_;
  std::shared_ptr<State> state_;
  std::thread thread_;
};

/// Runs `work` in such a thread and waits for it. Throws what it throws, and Interrupted("<signal>: <what>") where it
/// was left behind at a stop. False: its time was up.
bool run_leavable(StopToken stop, const std::string& what, std::function<void()> work,
                  std::optional<double> patience_s = {});

/// Whether any thread was left behind. Then main must end the process without the destructors of static objects, which
/// that thread may be using.
bool any_left_behind();

}  // namespace unigrpo

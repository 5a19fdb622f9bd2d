#include "base/left_behind.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <utility>

namespace unigrpo {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr auto kPoll = 20ms;       // how soon a stop is noticed
constexpr auto kPatience = 500ms;  // with work under way once it is, until some was left behind

std::atomic<bool> left_behind{false};

}  // namespace

struct LeavableThread::State {
  std::mutex mutex;
  std::condition_variable changed;
  bool ended = false;
};

LeavableThread::LeavableThread(StopToken stop, std::function<void()> work, std::optional<double> patience_s)
    : stop_(stop),
      deadline_(patience_s ? Clock::now() +
                                 std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(*patience_s))
                           : Clock::time_point::max()),
      state_(std::make_shared<State>()),
      thread_([state = state_, work = std::move(work)]() mutable {
        work();
        work = nullptr;  // what it owns goes before anybody is told
        {
          const std::lock_guard lock(state->mutex);
          state->ended = true;
        }
        state->changed.notify_all();
      }) {}

LeavableThread::~LeavableThread() {
  std::unique_lock lock(state_->mutex);
  auto deadline = deadline_;
  bool asked = false;
  while (!state_->ended && Clock::now() < deadline) {
    state_->changed.wait_for(lock, kPoll);
    if (!stop_.requested() || asked) continue;
    asked = true;
    deadline = std::min<Clock::time_point>(deadline, Clock::now() + (left_behind ? kPoll : kPatience));
  }
  const bool ended = state_->ended;
  lock.unlock();
  if (ended) {
    thread_.join();
  } else {
    left_behind = true;
    thread_.detach();
  }
}

bool run_leavable(StopToken stop, const std::string& what, std::function<void()> work,
                  std::optional<double> patience_s) {
  struct Outcome {
    std::atomic<bool> done{false};
    std::exception_ptr failure;
  };
  const auto outcome = std::make_shared<Outcome>();
  {
    const LeavableThread thread(
        stop,
        [outcome, work = std::move(work)] {
          try {
            work();
          } catch (...) {
            outcome->failure = std::current_exception();
          }
          outcome->done = true;
        },
        patience_s);
  }
  if (!outcome->done) {
    if (!stop.requested()) return false;
    throw Interrupted(std::string(stop.signal()) + ": " + what);
  }
  if (outcome->failure) std::rethrow_exception(outcome->failure);
  return true;
}

bool any_left_behind() { return left_behind; }

}  // namespace unigrpo

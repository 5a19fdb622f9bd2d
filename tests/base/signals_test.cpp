#include "base/signals.h"

#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>

namespace unigrpo {
namespace {

// In a child process, since the flag cannot be taken back.
void raise_and_exit(int first, int second) {
  const StopToken stop = signals::install();
  if (stop.requested() || !stop.signal().empty() || StopToken().requested()) std::_Exit(1);
  std::raise(first);
  if (!stop.requested()) std::_Exit(2);
  if (second != 0) std::raise(second);
  std::_Exit(stop.signal() == "SIGTERM" ? 10 : 11);
}

TEST(Signals, TheFirstOneSetsAFlag) {
  EXPECT_EXIT(raise_and_exit(SIGTERM, 0), ::testing::ExitedWithCode(10), "");
  EXPECT_EXIT(raise_and_exit(SIGUSR1, 0), ::testing::ExitedWithCode(11), "");
}

// Kernels compiled at run time may have the stack pointer elsewhere when a signal comes.
void install_and_look_at_stacks() {
  signals::install();
  stack_t stack{};
  if (sigaltstack(nullptr, &stack) != 0 || (stack.ss_flags & SS_DISABLE) != 0 || stack.ss_size < (64 << 10))
    std::_Exit(1);
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGUSR1}) {
    struct sigaction action {};
    if (sigaction(number, nullptr, &action) != 0 || (action.sa_flags & SA_ONSTACK) == 0) std::_Exit(2);
  }
  std::_Exit(0);
}

TEST(Signals, HandlersHaveAStackOfTheirOwn) {
  EXPECT_EXIT(install_and_look_at_stacks(), ::testing::ExitedWithCode(0), "");
}

TEST(Signals, TheSecondOneEndsTheProcess) {
  EXPECT_EXIT(raise_and_exit(SIGINT, SIGINT), ::testing::ExitedWithCode(130), "");
  EXPECT_EXIT(raise_and_exit(SIGHUP, SIGTERM), ::testing::ExitedWithCode(130), "");
}

}  // namespace
}  // namespace unigrpo

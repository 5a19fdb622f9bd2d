#include "base/signals.h"

#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>

namespace unigrpo {
namespace {

// In a child process, since the flag cannot be taken back.
void raise_and_exit(int first, int second) {
  signals::install();
  if (signals::stop_requested() || !signals::stop_signal().empty()) std::_Exit(1);
  std::raise(first);
  if (!signals::stop_requested()) std::_Exit(2);
  if (second != 0) std::raise(second);
  std::_Exit(signals::stop_signal() == "SIGTERM" ? 10 : 11);
}

TEST(Signals, TheFirstOneSetsAFlag) {
  EXPECT_EXIT(raise_and_exit(SIGTERM, 0), ::testing::ExitedWithCode(10), "");
  EXPECT_EXIT(raise_and_exit(SIGUSR1, 0), ::testing::ExitedWithCode(11), "");
}

TEST(Signals, TheSecondOneEndsTheProcess) {
  EXPECT_EXIT(raise_and_exit(SIGINT, SIGINT), ::testing::ExitedWithCode(130), "");
  EXPECT_EXIT(raise_and_exit(SIGHUP, SIGTERM), ::testing::ExitedWithCode(130), "");
}

}  // namespace
}  // namespace unigrpo

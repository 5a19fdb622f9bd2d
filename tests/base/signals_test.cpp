#include "base/signals.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <vector>

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

// The child's own signals are not its parent's; those that the parent sends count by themselves.
void get_from_parent(const std::vector<int>& own, size_t from_parent) {
  int ready[2];
  if (pipe(ready) != 0) std::_Exit(1);
  const pid_t child = fork();
  if (child == 0) {
    const StopToken stop = signals::install();
    signals::expect_from_parent();
    for (const int number : own) std::raise(number);
    [[maybe_unused]] const ssize_t told = write(ready[1], "x", 1);
    for (int i = 0; i < 200 && from_parent > 1; ++i) usleep(10000);  // the last one ends it
    for (int i = 0; i < 500 && !stop.requested(); ++i) usleep(10000);
    usleep(100000);
    std::_Exit(stop.requested() ? 10 : 11);
  }
  close(ready[1]);
  char byte = 0;
  [[maybe_unused]] const ssize_t heard = read(ready[0], &byte, 1);
  for (size_t i = 0; i < from_parent; ++i) {
    kill(child, SIGTERM);
    usleep(50000);  // two that wait are one
  }
  int status = 0;
  waitpid(child, &status, 0);
  std::_Exit(WIFEXITED(status) ? WEXITSTATUS(status) : 3);
}

TEST(Signals, OneThatComesBothByItselfAndFromTheLauncherIsOne) {
  EXPECT_EXIT(get_from_parent({SIGTERM}, 1), ::testing::ExitedWithCode(10), "");
  EXPECT_EXIT(get_from_parent({}, 1), ::testing::ExitedWithCode(10), "");
  EXPECT_EXIT(get_from_parent({SIGTERM}, 2), ::testing::ExitedWithCode(130), "");
  EXPECT_EXIT(get_from_parent({SIGINT, SIGTERM}, 0), ::testing::ExitedWithCode(130), "");
}

}  // namespace
}  // namespace unigrpo

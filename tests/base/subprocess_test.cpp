#include "base/subprocess.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <string>

#include "base/error.h"

namespace unigrpo {
namespace {

constexpr double kLong_s = 60;  // nothing waits this long unless something is wrong

std::unique_ptr<Subprocess> shell(const std::string& command) {
  return std::make_unique<Subprocess>(
      Subprocess::Options{.command = {UNIGRPO_SUPERVISED_PROGRAM, command}, .descriptors = {}});
}

/// Output up to the first line end.
std::string first_line(const Subprocess& process) {
  std::string line;
  pollfd event = {process.output(), POLLIN, 0};
  while (line.find('\n') == std::string::npos && poll(&event, 1, static_cast<int>(kLong_s * 1e3)) > 0) {
    std::array<char, 256> block;
    const ssize_t size = read(process.output(), block.data(), block.size());
    if (size <= 0) break;
    line.append(block.data(), static_cast<size_t>(size));
  }
  return line.substr(0, line.find('\n'));
}

/// Waits until a process is gone.
bool is_gone(pid_t pid) {
  for (int i = 0; i < 1000; ++i) {
    if (kill(pid, 0) != 0) return true;
    usleep(10'000);
  }
  return false;
}

TEST(Subprocess, SaysHowTheProgramEnded) {
  const auto code = shell("exit 3");
  ASSERT_TRUE(code->wait(kLong_s));
  EXPECT_EQ(code->ending(), "exited with code 3");
  const auto signal = shell("kill -SEGV $$");
  ASSERT_TRUE(signal->wait(kLong_s));
  EXPECT_EQ(signal->ending(), "was killed by SIGSEGV");
}

TEST(Subprocess, GivesItsOutputAndItsErrors) {
  EXPECT_EQ(first_line(*shell("echo out")), "out");
  EXPECT_EQ(first_line(*shell("echo err >&2")), "err");
}

TEST(Subprocess, HasNoInputAndNoneOfOurDescriptors) {
  EXPECT_EQ(first_line(*shell("cat; ls /proc/self/fd | tr '\\n' ' '")), "0 1 2 3 ");  // 3: ls reads the folder
}

TEST(Subprocess, WaitsNoLongerThanTold) {
  const auto process = shell("sleep 1000");
  EXPECT_FALSE(process->wait(0.05));
}

TEST(Subprocess, KillsWhatIsInASessionOfItsOwn) {
  const auto process = shell("setsid sh -c 'trap \"\" TERM HUP; echo $$; sleep 1000 & wait'; wait");
  const pid_t stray = std::stoi(first_line(*process));
  process->kill();
  EXPECT_TRUE(is_gone(stray));
}

TEST(Subprocess, LeavesNothingBehindWhenTheProgramEnds) {
  const auto process = shell("setsid sleep 1000 & echo $!; exit 0");
  const pid_t stray = std::stoi(first_line(*process));
  ASSERT_TRUE(process->wait(kLong_s));
  EXPECT_TRUE(is_gone(stray));
  EXPECT_EQ(process->ending(), "exited with code 0");
}

TEST(Subprocess, LeavesNothingBehindWhenItsOwnerIsKilled) {
  std::array<int, 2> channel{};
  ASSERT_EQ(pipe(channel.data()), 0);
  const pid_t owner = fork();
  if (owner == 0) {
    const auto process = shell("setsid sleep 1000 & echo $!; sleep 1000");
    const std::string line = first_line(*process) + "\n";
    if (write(channel[1], line.data(), line.size()) < 0) _exit(1);
    for (;;) pause();
  }
  std::array<char, 64> line{};
  ASSERT_GT(read(channel[0], line.data(), line.size() - 1), 0);
  kill(owner, SIGKILL);
  waitpid(owner, nullptr, 0);
  EXPECT_TRUE(is_gone(std::stoi(line.data())));
  close(channel[0]);
  close(channel[1]);
}

TEST(Subprocess, RefusesAProgramThatIsNotThere) {
  EXPECT_THROW(Subprocess({.command = {"/no/such/program"}, .descriptors = {}}), RuntimeFailure);
}

}  // namespace
}  // namespace unigrpo

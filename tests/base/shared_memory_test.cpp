#include "base/shared_memory.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <string>

#include "base/error.h"

namespace unigrpo {
namespace {

TEST(SharedMemory, IsSeenByTheOtherSideAfterItHasGrown) {
  SharedMemory ours;
  ours.reserve(100);
  SharedMemory theirs(dup(ours.descriptor()));
  ASSERT_GE(theirs.bytes().size(), 100u);
  std::memcpy(ours.bytes().data(), "first", 5);
  EXPECT_EQ(std::memcmp(theirs.bytes().data(), "first", 5), 0);

  const size_t more = size_t{5} << 20;
  ours.reserve(more);
  EXPECT_EQ(std::memcmp(ours.bytes().data(), "first", 5), 0);
  theirs.refresh();
  ASSERT_GE(theirs.bytes().size(), more);
  theirs.bytes()[more - 1] = std::byte{7};
  EXPECT_EQ(ours.bytes()[more - 1], std::byte{7});
}

TEST(SharedMemory, CannotBeShrunkByTheOtherSide) {
  SharedMemory ours;
  ours.reserve(1);
  EXPECT_NE(ftruncate(ours.descriptor(), 0), 0);
}

TEST(SharedMemory, SaysWhatItCannotReserve) {
  SharedMemory ours;
  // Far below the machine's memory: without such a limit the system would look for all that is asked for.
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small = {.rlim_cur = size_t{4} << 20, .rlim_max = before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  std::string message = "reserved";
  try {
    ours.reserve(size_t{8} << 20);
  } catch (const RuntimeFailure& error) {
    message = error.what();
  }
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(message, "cannot reserve 8.0 MiB of shared memory: File too large");
}

}  // namespace
}  // namespace unigrpo

#include "base/shared_memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>

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
  try {
    ours.reserve(size_t{1} << 60);
    ADD_FAILURE();
  } catch (const RuntimeFailure& error) {
    EXPECT_NE(std::string(error.what()).find("cannot reserve"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace unigrpo

#include "parallel/gather_memory.h"

#include <gtest/gtest.h>

#include <cstring>
#include <utility>
#include <vector>

namespace unigrpo::parallel {
namespace {

constexpr size_t kBytes = 3 << 20;

TEST(GatherMemory, ABlockOfTheSameSizeIsUsedAgain) {
  const void* first = nullptr;
  {
    c10::DataPtr block = gather_memory(kBytes);
    first = block.get();
    std::memset(block.mutable_get(), 7, kBytes);
  }
  const c10::DataPtr other = gather_memory(kBytes / 2);
  EXPECT_NE(other.get(), first);
  const c10::DataPtr again = gather_memory(kBytes);
  EXPECT_EQ(again.get(), first);
  EXPECT_EQ(again.device(), c10::Device(c10::kCPU));
}

TEST(GatherMemory, OnlyTheLastFewAreKept) {
  std::vector<c10::DataPtr> blocks;
  for (int i = 0; i < 12; ++i) {
    blocks.push_back(gather_memory(kBytes));
    std::memset(blocks.back().mutable_get(), i, kBytes);
  }
  std::vector<const void*> given;
  while (!blocks.empty()) {
    given.push_back(blocks.back().get());
    blocks.pop_back();
  }
  // Those kept are had again, the last four given back, oldest first.
  for (size_t i = given.size() - 4; i < given.size(); ++i) {
    blocks.push_back(gather_memory(kBytes));
    EXPECT_EQ(blocks.back().get(), given[i]) << i;
  }
}

}  // namespace
}  // namespace unigrpo::parallel

#include "policy/kv_cache.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

namespace unigrpo::policy {
namespace {

constexpr int64_t kBlock = KvCache::kBlockTokens;

class Cache : public ::testing::Test {
 protected:
  KvCache cache{2, 3, 4, at::TensorOptions(at::kFloat)};
};

TEST_F(Cache, ReleasedBlocksAreUsedAgain) {
  Context a;
  cache.extend(a, kBlock + 1);
  EXPECT_EQ(cache.tokens_in_use(), 2 * kBlock);
  std::vector<int64_t> first = a.slots;
  cache.release(a);
  EXPECT_EQ(cache.tokens_in_use(), 0);
  EXPECT_TRUE(a.slots.empty() && a.blocks.empty());
  Context b;
  EXPECT_EQ(cache.extend(b, kBlock + 1), first);
}

TEST_F(Cache, NoTwoContextsShareARowOfTheirOwn) {
  std::vector<Context> rows(40);
  std::set<int64_t> slots;
  int64_t total = 0;
  for (size_t round = 0; round < 5; ++round) {
    for (size_t i = 0; i < rows.size(); ++i) {
      const auto fresh = cache.extend(rows[i], static_cast<int64_t>(1 + i % 23));
      slots.insert(fresh.begin(), fresh.end());
      total += static_cast<int64_t>(fresh.size());
    }
  }
  EXPECT_EQ(static_cast<int64_t>(slots.size()), total);
  for (const int64_t layer : {0, 1}) {
    EXPECT_GT(cache.keys(layer).size(0), *slots.rbegin());
    EXPECT_EQ(cache.values(layer).size(0), cache.keys(layer).size(0));
  }
  for (Context& row : rows) cache.release(row);
  EXPECT_EQ(cache.tokens_in_use(), 0);
}

TEST_F(Cache, AForkSeesItsParentsRowsAndOwnsItsOwn) {
  Context parent;
  cache.extend(parent, 5);
  parent.position = 5;
  Context left = cache.fork(parent), right = cache.fork(parent);
  EXPECT_EQ(left.slots, parent.slots);
  EXPECT_EQ(left.position, 5);
  const auto l = cache.extend(left, 3), r = cache.extend(right, 3);
  for (const int64_t slot : l) EXPECT_EQ(std::ranges::count(r, slot), 0);
  EXPECT_TRUE(std::equal(parent.slots.begin(), parent.slots.end(), left.slots.begin()));
  EXPECT_EQ(left.slots.size(), 8U);
  cache.release(left);
  EXPECT_EQ(cache.tokens_in_use(), 2 * kBlock);  // the parent's and the other fork's
  cache.release(right);
  cache.release(parent);
  EXPECT_EQ(cache.tokens_in_use(), 0);
}

TEST_F(Cache, GrowingKeepsWhatIsInThePool) {
  Context a;
  const auto slots = cache.extend(a, 3);
  cache.keys(1)[slots[2]].fill_(7);
  cache.values(0)[slots[0]].fill_(8);
  Context b;
  cache.extend(b, 200 * kBlock);
  EXPECT_EQ(cache.keys(1)[slots[2]].min().item<double>(), 7);
  EXPECT_EQ(cache.values(0)[slots[0]].max().item<double>(), 8);
}

}  // namespace
}  // namespace unigrpo::policy

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

TEST_F(Cache, WhatIsReservedIsMadeOnceAndHandedOutAsWithoutIt) {
  KvCache growing{2, 3, 4, at::TensorOptions(at::kFloat)};
  Context early, same;
  EXPECT_EQ(cache.extend(early, 5 * kBlock), growing.extend(same, 5 * kBlock));  // while blocks are free
  cache.reserve(1000 * kBlock);
  EXPECT_EQ(cache.allocations(), 2);
  std::vector<Context> a(30), b(30);
  for (int round = 0; round < 4; ++round) {
    for (size_t i = 0; i < a.size(); ++i) {
      const auto tokens = static_cast<int64_t>(1 + 7 * i % 90);
      EXPECT_EQ(cache.extend(a[i], tokens), growing.extend(b[i], tokens));
    }
    for (size_t i = static_cast<size_t>(round); i < a.size(); i += 3) {
      cache.release(a[i]);
      growing.release(b[i]);
    }
  }
  EXPECT_EQ(cache.allocations(), 2);
  EXPECT_GT(growing.allocations(), 2);
  cache.reserve(1000 * kBlock);  // is there
  cache.reserve(0);
  EXPECT_EQ(cache.allocations(), 2);
}

TEST_F(Cache, WhatIsReservedIsAQuarterMoreAtMost) {
  EXPECT_EQ(KvCache::pool_tokens(0), 64 * kBlock);
  EXPECT_EQ(KvCache::pool_tokens(1024), 1024);
  EXPECT_EQ(KvCache::pool_tokens(1025), 1280);
  EXPECT_EQ(KvCache::pool_tokens(16384), 16384);
  for (int64_t tokens = 1024; tokens < 40000; tokens += 371) {
    const int64_t pool = KvCache::pool_tokens(tokens);
    EXPECT_GE(pool, tokens);
    EXPECT_LE(4 * pool, 5 * tokens);
    EXPECT_EQ(pool % kBlock, 0);
  }
  cache.reserve(1025);
  EXPECT_EQ(cache.keys(1).size(0), 1280);
  cache.reserve(1200);  // has room
  EXPECT_EQ(cache.allocations(), 1);
}

}  // namespace
}  // namespace unigrpo::policy

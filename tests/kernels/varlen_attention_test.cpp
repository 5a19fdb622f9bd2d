// The lists of blocks that a device takes, run by a plain loop, against the CPU's attention over the same blocks.
#include "kernels/varlen_attention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <random>
#include <vector>

#include "support/tensors.h"

namespace unigrpo::kernels {
namespace {

using testing::close;

struct Layout {
  std::vector<QueryBlock> blocks;
  int64_t num_rows = 0;
  bool detached = false;  // keys of a noisy state's context are the copies behind the rows
};

/// What packing makes: prefixes that several sequences share, each going on with texts, images that it reads, and
/// several noisy states of the image that it draws, which see all before but not one another.
Layout random_layout(uint64_t seed) {
  std::mt19937_64 random(seed);
  auto below = [&](int64_t limit) { return static_cast<int64_t>(random() % static_cast<uint64_t>(limit)); };
  Layout layout;
  layout.detached = below(2) == 1;
  auto take = [&](int64_t count) {
    std::vector<int64_t> rows;
    for (int64_t i = 0; i < count; ++i) rows.push_back(layout.num_rows++);
    return rows;
  };
  auto read = [&](std::vector<int64_t>& seen, int64_t count, bool causal) {
    const std::vector<int64_t> own = take(count);
    seen.insert(seen.end(), own.begin(), own.end());
    layout.blocks.push_back({own, seen, causal});
  };
  std::vector<std::vector<int64_t>> prefixes(1 + below(3));
  for (auto& prefix : prefixes) {
    for (int64_t k = below(3); k >= 0; --k) read(prefix, 1 + below(9), below(3) > 0);
  }
  std::vector<QueryBlock> drawn;
  for (int64_t sequence = below(4); sequence >= 0; --sequence) {
    std::vector<int64_t> seen = prefixes[below(static_cast<int64_t>(prefixes.size()))];
    for (int64_t turn = below(3); turn >= 0; --turn) {
      read(seen, 1 + below(12), true);
      for (int64_t state = below(4); state > 0; --state) {
        const std::vector<int64_t> own = take(3 + below(6));
        drawn.push_back({own, seen, false});
        drawn.back().keys.insert(drawn.back().keys.end(), own.begin(), own.end());
      }
      read(seen, 2 + below(7), false);
    }
  }
  for (QueryBlock& block : drawn) {
    const size_t context = block.keys.size() - block.queries.size();
    for (size_t k = 0; layout.detached && k < context; ++k) block.keys[k] += layout.num_rows;
    layout.blocks.push_back(std::move(block));
  }
  std::shuffle(layout.blocks.begin(), layout.blocks.end(), random);
  return layout;
}

TEST(VarlenAttention, ListsOfRandomLayoutsAreTheBlocks) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    const Layout layout = random_layout(seed);
    const int64_t kv_heads = 1 + static_cast<int64_t>(seed % 2), share = 1 + static_cast<int64_t>(seed % 3);
    at::manual_seed(seed);
    auto input = [&](int64_t heads) { return at::randn({layout.num_rows, heads, 8}).requires_grad_(); };
    const at::Tensor q = input(kv_heads * share), k = input(kv_heads), v = input(kv_heads);
    const at::Tensor upstream = at::randn_like(q);
    auto pool = [&](const at::Tensor& rows) { return layout.detached ? at::cat({rows, rows.detach()}) : rows; };
    auto with_gradients = [&](const at::Tensor& out) {
      std::vector<at::Tensor> all = torch::autograd::grad({(out * upstream).sum()}, {q, k, v});
      all.push_back(out);
      return all;
    };
    const auto got = with_gradients(varlen_attention(q, pool(k), pool(v), block_lists(layout.blocks)));
    const auto want = with_gradients(block_attention(q, pool(k), pool(v), block_index(layout.blocks)));
    for (size_t i = 0; i < want.size(); ++i) EXPECT_TRUE(close(got[i], want[i], 2e-5)) << i;  // float32, 100 keys
  }
}

TEST(VarlenAttention, AKindWithoutBlocksHasNoList) {
  const std::vector<QueryBlock> causal = {{{0, 1}, {0, 1}, true}};
  const auto lists = block_lists(causal);
  ASSERT_EQ(lists.size(), 1U);
  EXPECT_TRUE(lists[0].causal);
  EXPECT_EQ(lists[0].key_starts, (std::vector<int64_t>{0, 2}));
  EXPECT_EQ(lists[0].key_start.scalar_type(), at::kInt);  // what PyTorch's kernels take
}

TEST(VarlenAttention, LowPrecisionIsSummedInFloat32) {
  const Layout layout = random_layout(3);
  at::manual_seed(3);
  const at::Tensor q = at::randn({layout.num_rows, 4, 16}), pool = at::randn({2 * layout.num_rows, 2, 16});
  const auto lists = block_lists(layout.blocks);
  const at::Tensor narrow =
      varlen_attention(q.to(at::kBFloat16), pool.to(at::kBFloat16), pool.to(at::kBFloat16), lists);
  EXPECT_EQ(narrow.scalar_type(), at::kBFloat16);
  const at::Tensor wide = varlen_attention(q.to(at::kBFloat16).to(at::kFloat), pool.to(at::kBFloat16).to(at::kFloat),
                                           pool.to(at::kBFloat16).to(at::kFloat), lists);
  EXPECT_TRUE(at::equal(narrow, wide.to(at::kBFloat16)));
}

TEST(VarlenAttention, RefusesHeadsThatDoNotFit) {
  const auto lists = block_lists(random_layout(1).blocks);
  EXPECT_THROW(varlen_attention(at::zeros({9, 3, 8}), at::zeros({9, 2, 8}), at::zeros({9, 2, 8}), lists), c10::Error);
}

}  // namespace
}  // namespace unigrpo::kernels

#include "nn/sequence_share.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "nn/attention.h"
#include "support/ranks.h"
#include "support/tensors.h"
#include "tensor/convert.h"

namespace unigrpo::nn {
namespace {

using testing::close;

void on_ranks(int64_t ranks, const std::function<void(const RankGroup&)>& work) {
  const auto errors =
      test::run_ranks(ranks, [&](parallel::Comm& comm) { work(RankGroup(&comm, [](parallel::Comm*) {})); });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST(SequenceShare, PutsEachRowInOnePlace) {
  on_ranks(3, [](const RankGroup& group) {
    for (int64_t num_und = 0; num_und < 7; ++num_und) {
      for (int64_t num_rows = std::max<int64_t>(num_und, 1); num_rows < 12; ++num_rows) {
        const SequenceShare share(group, num_und, num_rows);
        std::vector<int64_t> all(static_cast<size_t>(num_rows)), places, held;
        for (int64_t row = 0; row < num_rows; ++row) all[row] = row;
        for (const int64_t row : all) places.push_back(share.place(row));
        std::ranges::sort(places);
        ASSERT_EQ(places, all);
        const std::vector<int64_t> rows = share.rows();
        for (size_t i = 0; i < rows.size(); ++i) held.push_back(static_cast<int64_t>(i));
        ASSERT_EQ(share.held(rows), held);
        ASSERT_EQ(share.held(all), held);
        ASSERT_EQ(std::ranges::count_if(rows, [&](int64_t row) { return row < num_und; }), share.num_und());
        // Rank order: this rank's rows stand one after another.
        for (size_t i = 1; i < rows.size(); ++i) ASSERT_EQ(share.place(rows[i]), share.place(rows[i - 1]) + 1);
      }
    }
  });
}

TEST(SequenceShare, GathersOutputsInTheOrderAskedFor) {
  on_ranks(3, [](const RankGroup& group) {
    const SequenceShare share(group, 5, 9);
    const std::vector<int64_t> asked = {8, 0, 4, 3, 6, 1};
    const at::Tensor whole = at::arange(9, at::kDouble).unsqueeze(1);
    const at::Tensor own = whole.index_select(0, tensor::index_tensor(share.rows()));
    const at::Tensor held = own.index_select(0, tensor::index_tensor(share.held(asked)));
    EXPECT_TRUE(at::equal(share.gathered(held, asked, GatheredGradient::alike),
                          whole.index_select(0, tensor::index_tensor(asked))));
  });
}

TEST(SequenceShare, KeyHeadsFollowTheQueryHeads) {
  using Heads = std::vector<int64_t>;
  EXPECT_EQ(key_heads_of(1, 2, 8, 4), (Heads{2, 3}));         // whole groups
  EXPECT_EQ(key_heads_of(3, 8, 8, 2), (Heads{0}));            // shared by four ranks
  EXPECT_EQ(key_heads_of(3, 14, 28, 4), (Heads{0, 1}));       // query heads 6 and 7 of groups of 7
  EXPECT_EQ(key_heads_of(2, 7, 28, 4), (Heads{1, 1, 1, 1}));  // 8..11
  EXPECT_EQ(key_heads_of(3, 7, 28, 4), (Heads{1, 1, 2, 2}));  // 12..15
  EXPECT_THROW(key_heads_of(0, 3, 8, 4), std::invalid_argument);
}

struct Case {
  int64_t ranks, heads, kv_heads, num_und, num_rows;
};

/// Two sequences over a shared prefix, the understanding rows first.
std::vector<QueryBlock> blocks_of(int64_t num_und, int64_t num_rows, bool detached) {
  std::vector<QueryBlock> blocks(3);
  const int64_t half = num_und / 2, middle = (num_und + num_rows) / 2, shift = detached ? num_rows : 0;
  for (int64_t row = 0; row < half; ++row) blocks[0].queries.push_back(row);
  blocks[0].keys = blocks[0].queries;
  blocks[1].causal = blocks[2].causal = false;
  for (int64_t row = half; row < num_und; ++row) blocks[1].queries.push_back(row);
  for (int64_t row = num_und; row < middle; ++row) blocks[1].queries.push_back(row);
  for (int64_t row = middle; row < num_rows; ++row) blocks[2].queries.push_back(row);
  for (QueryBlock* block : {&blocks[1], &blocks[2]}) {
    for (const int64_t row : blocks[0].queries) block->keys.push_back(row + shift);
    block->keys.insert(block->keys.end(), block->queries.begin(), block->queries.end());
  }
  return blocks;
}

void expect_equal_to_one_process(const Case& c, bool detached) {
  SCOPED_TRACE(::testing::Message() << c.ranks << " ranks, " << c.heads << " / " << c.kv_heads << " heads");
  constexpr int64_t kDh = 8;
  const at::TensorOptions options = at::kFloat;
  const auto random = [&](int64_t heads) { return at::randn({c.num_rows, heads, kDh}, options); };
  const AttentionHeads whole{random(c.heads), random(c.kv_heads), random(c.kv_heads)};
  const at::Tensor upstream = random(c.heads);
  const auto attend = [&](const AttentionLayout& layout, const AttentionHeads& h) {
    if (!detached) return layout.attend(h.q, h.k, h.v);
    return layout.attend(h.q, at::cat({h.k, h.k.detach()}, 0), at::cat({h.v, h.v.detach()}, 0));
  };
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& x : {whole.q, whole.k, whole.v}) leaves.push_back(x.clone().requires_grad_());
  const AttentionLayout plain(blocks_of(c.num_und, c.num_rows, detached), {}, c.num_rows, options);
  const at::Tensor expected = attend(plain, {leaves[0], leaves[1], leaves[2]});
  (expected * upstream).sum().backward();

  on_ranks(c.ranks, [&](const RankGroup& group) {
    const SequenceShare share(group, c.num_und, c.num_rows);
    const at::Tensor rows = tensor::index_tensor(share.rows());
    std::vector<QueryBlock> blocks = blocks_of(c.num_und, c.num_rows, detached);
    for (QueryBlock& block : blocks) {
      for (int64_t& row : block.queries) row = share.place(row);
      for (int64_t& row : block.keys) {
        row = row < c.num_rows ? share.place(row) : c.num_rows + share.place(row - c.num_rows);
      }
    }
    const AttentionLayout layout(blocks, {}, c.num_rows, options);
    std::vector<at::Tensor> own;
    for (const at::Tensor& x : {whole.q, whole.k, whole.v}) {
      own.push_back(x.index_select(0, rows).requires_grad_());
    }
    const at::Tensor seen = share.to_rows(attend(layout, share.to_heads({own[0], own[1], own[2]})));
    EXPECT_TRUE(at::equal(seen.detach(), expected.detach().index_select(0, rows)));  // to the bit
    (seen * upstream.index_select(0, rows)).sum().backward();
    for (size_t i = 0; i < own.size(); ++i) {
      EXPECT_TRUE(close(own[i].grad(), leaves[i].grad().index_select(0, rows), 1e-5));
    }
  });
}

TEST(SequenceShare, AttentionAndItsGradientsAreThoseOfOneProcess) {
  const Case cases[] = {{2, 4, 2, 7, 16}, {4, 8, 4, 9, 21},  {4, 4, 2, 6, 17},   {8, 8, 2, 11, 30},
                        {3, 6, 2, 5, 9},  {2, 28, 4, 4, 12}, {14, 28, 4, 8, 40}, {4, 4, 1, 3, 5}};
  for (const Case& c : cases) {
    expect_equal_to_one_process(c, /*detached=*/false);
    expect_equal_to_one_process(c, /*detached=*/true);
  }
}

}  // namespace
}  // namespace unigrpo::nn

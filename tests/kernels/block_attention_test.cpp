#include "kernels/block_attention.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cmath>
#include <limits>

#include "support/tensors.h"

namespace unigrpo::kernels {
namespace {

using unigrpo::testing::close;
using unigrpo::testing::message_of;

BlockIndex index_of(const std::vector<QueryBlock>& blocks) { return block_index(blocks); }

std::vector<int64_t> range(int64_t begin, int64_t end) {
  std::vector<int64_t> rows(end - begin);
  for (int64_t i = begin; i < end; ++i) rows[i - begin] = i;
  return rows;
}

struct Inputs {
  at::Tensor q, k, v;
};

Inputs inputs(int64_t rows, int64_t heads, int64_t kv_heads, int64_t dim) {
  at::manual_seed(5);
  return {3 * at::randn({rows, heads, dim}), at::randn({rows, kv_heads, dim}), at::randn({rows, kv_heads, dim})};
}

/// A token decoded alone over what came before it has the bits that it has in one causal block, whatever the sizes.
TEST(BlockAttention, AQueryAloneHasTheBitsThatItHasInItsBlock) {
  for (const auto& [length, heads, kv_heads, dim] : std::vector<std::tuple<int64_t, int64_t, int64_t, int64_t>>{
           {1, 1, 1, 1}, {70, 8, 4, 16}, {33, 6, 1, 8}, {40, 4, 4, 48}, {17, 3, 3, 5}}) {
    const Inputs in = inputs(length, heads, kv_heads, dim);
    const at::Tensor packed = block_attention(in.q, in.k, in.v, index_of({{range(0, length), range(0, length), true}}));
    for (int64_t i = 0; i < length; ++i) {
      const at::Tensor alone =
          block_attention(in.q.narrow(0, i, 1), in.k, in.v, index_of({{{0}, range(0, i + 1), false}}));
      EXPECT_TRUE(at::equal(alone[0], packed[i])) << "query " << i << " of " << length << ", Dh " << dim;
    }
  }
}

TEST(BlockAttention, OtherBlocksAndThreadsChangeNoBit) {
  const int64_t length = 400;
  const Inputs in = inputs(length, 8, 2, 16);
  std::vector<QueryBlock> blocks;
  for (int64_t start = 0; start < length; start += 23) {
    const int64_t end = std::min(start + 23, length);
    std::vector<int64_t> keys = range(0, start / 3);
    const auto own = range(start, end);
    keys.insert(keys.end(), own.begin(), own.end());
    blocks.push_back({own, keys, start % 2 == 0});
  }
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor together = block_attention(in.q, in.k, in.v, index_of(blocks));
  at::set_num_threads(3);
  EXPECT_TRUE(at::equal(block_attention(in.q, in.k, in.v, index_of(blocks)), together));
  at::set_num_threads(threads);
  for (const QueryBlock& block : blocks) {
    const at::Tensor one = block_attention(in.q, in.k, in.v, index_of({block}));
    const int64_t first = block.queries.front(), count = static_cast<int64_t>(block.queries.size());
    EXPECT_TRUE(at::equal(one.narrow(0, first, count), together.narrow(0, first, count))) << first;
  }
}

TEST(BlockAttention, GradientsAreTheSameWithAnyNumberOfThreads) {
  const int64_t length = 60;
  auto gradients = [&](int count) {
    at::set_num_threads(count);
    Inputs in = inputs(length, 8, 4, 16);
    for (at::Tensor* x : {&in.q, &in.k, &in.v}) x->set_requires_grad(true);
    const auto index = index_of({{range(0, 20), range(0, 20), true}, {range(20, length), range(0, length), false}});
    return torch::autograd::grad({block_attention(in.q, in.k, in.v, index).square().sum()}, {in.q, in.k, in.v});
  };
  const int threads = at::get_num_threads();
  const auto one = gradients(1), three = gradients(3);
  at::set_num_threads(threads);
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(at::equal(one[i], three[i])) << "qkv"[i];
}

TEST(BlockAttention, LargeScoresPickOneKeyAndStayFinite) {
  Inputs in = inputs(20, 2, 2, 16);
  in.q *= 1e4;
  for (at::Tensor* x : {&in.q, &in.k, &in.v}) x->set_requires_grad(true);
  const at::Tensor out = block_attention(in.q, in.k, in.v, index_of({{range(0, 20), range(0, 20), false}}));
  const at::Tensor best = at::einsum("thd,shd->hts", {in.q, in.k}).argmax(-1);  // [H, T]
  const at::Tensor want =
      at::gather(in.v.permute({1, 0, 2}), 1, best.unsqueeze(-1).expand({2, 20, 16})).permute({1, 0, 2});
  EXPECT_TRUE(close(out, want, 1e-5));
  for (const at::Tensor& grad : torch::autograd::grad({out.sum()}, {in.q, in.k, in.v}))
    EXPECT_TRUE(grad.isfinite().all().item<bool>());
}

TEST(BlockAttention, ValuesAndGradientsAreThoseOfTheReference) {
  std::vector<int64_t> context = range(3, 8);
  for (int64_t row = 11; row < 30; ++row) context.push_back(row);
  const std::vector<QueryBlock> blocks = {{range(0, 3), range(0, 3), true},
                                          {range(11, 30), context, true},
                                          {range(3, 8), range(0, 8), false},
                                          {range(8, 11), range(3, 11), true}};
  for (const auto& [heads, kv_heads, dim] : {std::tuple(8, 4, 16), std::tuple(3, 1, 5), std::tuple(2, 2, 48)}) {
    auto results = [&, heads = heads, kv_heads = kv_heads, dim = dim](auto op, at::ScalarType type) {
      const Inputs in = inputs(30, heads, kv_heads, dim);
      std::vector<at::Tensor> leaves;
      for (const at::Tensor& x : {in.q, in.k, in.v}) leaves.push_back(x.to(type).detach().requires_grad_());
      const at::Tensor out = op(leaves[0], leaves[1], leaves[2], index_of(blocks));
      auto all = torch::autograd::grad({out.square().sum()}, leaves);
      all.push_back(out);
      return all;
    };
    const auto got = results(block_attention, at::kFloat), want = results(block_attention_reference, at::kDouble);
    for (size_t i = 0; i < 4; ++i) EXPECT_TRUE(close(got[i], want[i], 1e-4, 1e-4)) << "qkvo"[i];  // float32, |s| < 30
  }
}

/// What is not a number reaches the queries that see it and what these see, nothing else: not the queries that are
/// worked on beside them either.
TEST(BlockAttention, WhatIsNotANumberReachesOnlyThoseWhoSeeIt) {
  const int64_t length = 10, row = 6;
  for (const int64_t which : {0, 1, 2}) {
    const Inputs in = inputs(length, 2, 1, 16);
    std::vector<at::Tensor> leaves = {in.q, in.k, in.v};
    leaves[which][row].fill_(std::numeric_limits<float>::quiet_NaN());
    for (at::Tensor& leaf : leaves) leaf.set_requires_grad(true);
    const at::Tensor out =
        block_attention(leaves[0], leaves[1], leaves[2], index_of({{range(0, length), range(0, length), true}}));
    const auto bad = [](const at::Tensor& x) { return x.isnan().flatten(1).any(1); };
    const at::Tensor reached = bad(out);
    for (int64_t i = 0; i < length; ++i) {
      EXPECT_EQ(reached[i].item<bool>(), which == 0 ? i == row : i >= row) << "qkv"[which] << i;
    }
    const auto grads = torch::autograd::grad({out.square().sum()}, leaves);
    EXPECT_FALSE(bad(grads[0].narrow(0, 0, row)).any().item<bool>()) << "qkv"[which];
    if (which > 0) continue;  // queries that see all keys are lost, and with them the gradients of all keys
    for (const size_t k : {1, 2}) {
      EXPECT_FALSE(bad(grads[k].narrow(0, row + 1, length - row - 1)).any().item<bool>()) << "qkv"[k];
    }
  }
}

TEST(BlockAttention, RowsInNoBlockAreZero) {
  const Inputs in = inputs(4, 2, 2, 8);
  const at::Tensor out = block_attention(in.q, in.k, in.v, index_of({{{1, 2}, {0, 1, 2}, true}}));
  EXPECT_EQ(out[0].abs().sum().item<float>() + out[3].abs().sum().item<float>(), 0);
}

TEST(BlockAttention, RefusesRowsThatAreNotThereAndOtherTypes) {
  const Inputs in = inputs(4, 2, 2, 8);
  auto said = [&](const at::Tensor& q, const QueryBlock& block) {
    return message_of<c10::Error>([&] { block_attention(q, in.k, in.v, index_of({block})); });
  };
  EXPECT_NE(said(in.q, {{0}, {0, 4}, true}).find("row 4 is not in 0..3"), std::string::npos);
  EXPECT_NE(said(in.q, {{-1}, {0}, true}).find("row -1 is not in 0..3"), std::string::npos);
  EXPECT_NE(said(in.q.to(at::kDouble), {{0}, {0}, true}).find("float32 CPU"), std::string::npos);
  EXPECT_NE(said(at::randn({4, 3, 8}), {{0}, {0}, true}).find("do not fit"), std::string::npos);
}

}  // namespace
}  // namespace unigrpo::kernels

#include "nn/attention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <stdexcept>
#include <vector>

#include "support/tensors.h"
#include "tensor/rng.h"

namespace unigrpo::nn {
namespace {

using testing::close;

std::vector<int64_t> range(int64_t begin, int64_t end) {
  std::vector<int64_t> rows;
  for (int64_t i = begin; i < end; ++i) rows.push_back(i);
  return rows;
}

QueryBlock block(std::vector<int64_t> queries, std::vector<int64_t> context, bool causal) {
  context.insert(context.end(), queries.begin(), queries.end());
  return {.queries = std::move(queries), .keys = std::move(context), .causal = causal};
}

/// Query by query and head by head, in float64.
at::Tensor brute_force(const std::vector<QueryBlock>& blocks, const at::Tensor& q, const at::Tensor& k,
                       const at::Tensor& v) {
  const int64_t heads = q.size(1), share = heads / k.size(1);
  std::vector<at::Tensor> rows(q.size(0) * heads);
  for (const QueryBlock& b : blocks) {
    const size_t context = b.keys.size() - b.queries.size();
    for (size_t i = 0; i < b.queries.size(); ++i) {
      std::vector<int64_t> seen(b.keys.begin(),
                                b.keys.begin() + static_cast<int64_t>(b.causal ? context + i + 1 : b.keys.size()));
      const at::Tensor index = at::tensor(seen, at::kLong);
      for (int64_t h = 0; h < heads; ++h) {
        const at::Tensor keys = k.select(1, h / share).index_select(0, index).to(at::kDouble);  // [Lk, Dh]
        const at::Tensor values = v.select(1, h / share).index_select(0, index).to(at::kDouble);
        const at::Tensor scores =
            at::mv(keys, q[b.queries[i]][h].to(at::kDouble)) / std::sqrt(static_cast<double>(q.size(2)));
        rows[b.queries[i] * heads + h] = at::mv(values.t(), scores.softmax(0));
      }
    }
  }
  return at::stack(rows).view({q.size(0), heads, q.size(2)});
}

void expect_brute_force(const std::vector<QueryBlock>& blocks, const std::vector<int64_t>& parts, int64_t num_rows,
                        int64_t heads, int64_t kv_heads) {
  for (const auto& [dtype, dim, tolerance] : {std::tuple(at::kFloat, 8, 2e-5), std::tuple(at::kFloat, 48, 2e-5),
                                              std::tuple(at::kDouble, 8, 1e-12)}) {  // float64 takes the padded path
    auto input = [&, dtype = dtype, dim = dim](int64_t head_count, uint64_t seed) {
      return tensor::normal({num_rows, head_count, dim}, {.seed = seed}).to(dtype).requires_grad_();
    };
    const at::Tensor q = input(heads, 1), k = input(kv_heads, 2), v = input(kv_heads, 3);
    const at::Tensor upstream = input(heads, 4).detach();
    const at::Tensor got = AttentionLayout(blocks, parts, num_rows, q.options()).attend(q, k, v);
    const at::Tensor want = brute_force(blocks, q, k, v);
    EXPECT_TRUE(close(got, want, tolerance)) << dtype;
    const auto grads = torch::autograd::grad({(got * upstream).sum()}, {q, k, v});
    const auto want_grads = torch::autograd::grad({(want * upstream).sum()}, {q, k, v});
    for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(close(grads[i], want_grads[i], tolerance)) << dtype << ' ' << "qkv"[i];
  }
}

/// Two prefixes of 5 and 3 tokens, texts of 4, 1 and 6 tokens under them, image blocks of 6 under
/// prefix and text.
std::vector<QueryBlock> ragged_blocks() {
  const auto first = range(0, 5), second = range(5, 8);
  auto under = [](std::vector<int64_t> context, const std::vector<int64_t>& more) {
    context.insert(context.end(), more.begin(), more.end());
    return context;
  };
  return {block(first, {}, true),
          block(second, {}, true),
          block(range(8, 12), first, true),
          block(range(12, 13), first, true),
          block(range(13, 19), second, true),
          block(range(19, 25), under(first, range(8, 12)), false),
          block(range(25, 31), under(first, range(8, 12)),
                false),  // a second noisy state of the same image
          block(range(31, 37), under(second, range(13, 19)), false)};
}

TEST(Attention, RaggedBlocksInPartsMatchTheLoop) { expect_brute_force(ragged_blocks(), {2, 3, 3}, 37, 4, 4); }

TEST(Attention, EverythingInOnePaddedPartMatchesTheLoop) { expect_brute_force(ragged_blocks(), {}, 37, 4, 4); }

TEST(Attention, GroupedQueryHeadsShareTheirKeys) {
  expect_brute_force(ragged_blocks(), {2, 3, 3}, 37, 4, 2);
  expect_brute_force(ragged_blocks(), {}, 37, 6, 1);
}

TEST(Attention, FullBlocksOfOneShapeNeedNoMask) {
  expect_brute_force({block(range(0, 4), {}, false), block(range(4, 8), {}, false)}, {}, 8, 2, 2);
}

TEST(Attention, FullBlocksWithOneKeyLengthButOtherQueryLengths) {
  expect_brute_force({block(range(0, 4), {}, false), block(range(4, 6), {0, 1}, false)}, {}, 6, 2, 1);
}

TEST(Attention, QueriesMayStandInAnyRows) {
  expect_brute_force({block({5, 0, 3}, {}, true), block({4, 1}, {5, 0}, false), block({2}, {}, true)}, {1, 2}, 6, 2, 2);
}

TEST(Attention, RefusesARowInNoBlockAndABlockWithoutItsOwnKeys) {
  const std::vector<QueryBlock> gap = {block({0}, {}, true)};
  EXPECT_THROW(AttentionLayout(gap, {}, 2, at::kCPU), std::invalid_argument);
  const std::vector<QueryBlock> short_keys = {{.queries = {0, 1}, .keys = {0}, .causal = true}};
  EXPECT_THROW(AttentionLayout(short_keys, {}, 2, at::kCPU), std::invalid_argument);
}

}  // namespace
}  // namespace unigrpo::nn

#include "kernels/padded_attention.h"

#include "support/tensors.h"

namespace unigrpo::kernels {
namespace {

using unigrpo::testing::close;

// Ragged and grouped layouts, and gradients: tests/nn/attention_test.cpp.
TEST(PaddedAttention, IsTheReferenceAndPaddingRepeatsRealRows) {
  at::manual_seed(6);
  const at::Tensor q = at::randn({5, 4, 8}, at::kDouble), k = at::randn({5, 2, 8}, at::kDouble),
                   v = at::randn({5, 2, 8}, at::kDouble);
  const std::vector<QueryBlock> blocks = {{{0, 1, 2}, {0, 1, 2}, true}, {{3, 4}, {0, 3, 4}, false}};
  const PaddedBlocks padded = pad_blocks(blocks, at::kCPU);
  EXPECT_TRUE(at::equal(padded.queries, at::tensor({0, 1, 2, 3, 4, 4}, at::kLong).view({2, 3})));
  const at::Tensor out = padded_attention(q, k, v, padded);
  const at::Tensor want = block_attention_reference(q, k, v, block_index(blocks));
  EXPECT_TRUE(close(out.narrow(0, 0, 5), want, 1e-12));
}

TEST(PaddedAttention, FullBlocksOfOneLengthNeedNoMask) {
  const std::vector<QueryBlock> blocks = {{{0, 1}, {0, 1, 2}, false}, {{2}, {0, 1, 2}, false}};
  EXPECT_FALSE(pad_blocks(blocks, at::kCPU).mask.defined());
}

}  // namespace
}  // namespace unigrpo::kernels

#include "nn/gather_rows.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <vector>

#include "support/tensors.h"
#include "tensor/rng.h"

namespace unigrpo::nn {
namespace {

using testing::close;

void expect_like_index_select(const at::Tensor& rows_in, const at::Tensor& index) {
  const at::Tensor rows = rows_in.detach().requires_grad_();
  const at::Tensor got = gather_rows(rows, index), want = rows.index_select(0, index);
  EXPECT_TRUE(close(got, want, 0));
  const at::Tensor upstream = tensor::normal(want.sizes(), {.seed = 9}).to(rows.scalar_type());
  EXPECT_TRUE(close(torch::autograd::grad({(got * upstream).sum()}, {rows}).at(0),
                    torch::autograd::grad({(want * upstream).sum()}, {rows}).at(0),
                    1e-6));  // another order of sums
}

const at::Tensor kRepeats = at::tensor(std::vector<int64_t>{4, 0, 0, 6, 4, 4, 1}, at::kLong);

TEST(GatherRows, RepeatedRowsAddUpInTheGradient) {
  expect_like_index_select(tensor::normal({7, 5}, {.seed = 1}), kRepeats);
  expect_like_index_select(tensor::normal({7, 2, 3}, {.seed = 2}), kRepeats);
  expect_like_index_select(tensor::normal({7}, {.seed = 3}), kRepeats);
}

TEST(GatherRows, StridedRowsAndOtherDtypes) {
  expect_like_index_select(tensor::normal({5, 7}, {.seed = 4}).t(), kRepeats);
  expect_like_index_select(tensor::normal({7, 5}, {.seed = 5}).to(at::kDouble), kRepeats);
}

TEST(GatherRows, NothingGatheredGivesNoRowsAndAZeroGradient) {
  expect_like_index_select(tensor::normal({7, 5}, {.seed = 6}), at::empty({0}, at::kLong));
}

TEST(GatherRows, AStridedGradientIsRead) {
  const at::Tensor rows = tensor::normal({7, 5}, {.seed = 7}).requires_grad_();
  const at::Tensor got = torch::autograd::grad({gather_rows(rows, kRepeats).sum()}, {rows}).at(0);
  const at::Tensor counts = at::bincount(kRepeats, {}, 7).to(at::kFloat);
  EXPECT_TRUE(close(got, counts.unsqueeze(1).expand({7, 5}), 0));
}

}  // namespace
}  // namespace unigrpo::nn

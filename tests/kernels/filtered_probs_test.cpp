#include "kernels/filtered_probs.h"

#include "support/tensors.h"

namespace unigrpo::kernels {
namespace {

using unigrpo::testing::close;

TEST(FilteredProbs, WithoutFiltersIsTheSoftmax) {
  at::manual_seed(3);
  const at::Tensor logits = at::randn({4, 9});
  EXPECT_TRUE(close(filtered_probs(logits, {.temperature = 0.5}), (logits / 0.5).softmax(-1), 1e-7));
}

TEST(FilteredProbs, TopPKeepsTheTokenThatCrossesTheLimit) {
  const at::Tensor logits = at::tensor({0.5, 0.3, 0.2}, at::kDouble).log().view({1, 3});
  EXPECT_TRUE(
      close(filtered_probs(logits, {.top_p = 0.6}), at::tensor({0.625, 0.375, 0.0}, at::kDouble).view({1, 3}), 1e-12));
  EXPECT_TRUE(
      close(filtered_probs(logits, {.top_p = 1e-9}), at::tensor({1.0, 0.0, 0.0}, at::kDouble).view({1, 3}), 1e-12));
}

TEST(FilteredProbs, TopKKeepsExactlyKAlsoAmongEqualLogits) {
  const at::Tensor probs = filtered_probs(at::zeros({2, 6}), {.top_k = 2});
  EXPECT_TRUE(close(probs, at::tensor({0.5, 0.5, 0.0, 0.0, 0.0, 0.0}, at::kFloat).expand({2, 6}), 1e-7));
}

TEST(FilteredProbs, RefusesValuesOutOfRange) {
  EXPECT_THROW(filtered_probs(at::zeros({1, 3}), {.temperature = 0}), c10::Error);
  EXPECT_THROW(filtered_probs(at::zeros({1, 3}), {.top_k = -1}), c10::Error);
  EXPECT_THROW(filtered_probs(at::zeros({1, 3}), {.top_p = 0}), c10::Error);
}

}  // namespace
}  // namespace unigrpo::kernels

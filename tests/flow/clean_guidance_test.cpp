#include "flow/clean_guidance.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/tensors.h"

namespace unigrpo::flow {
namespace {

TEST(CleanGuidance, EachTermMovesAwayFromItsEstimate) {
  const at::Tensor c = at::full({1, 2, 2}, 2.0), u = at::full({1, 2, 2}, 1.0), p = at::full({1, 2, 2}, 0.5),
                   i = at::full({1, 2, 2}, -1.0);
  const at::Tensor y = guide_clean({.text_scale = 3, .perturbed_scale = 1, .isolated_scale = 3},
                                   {.conditional = c, .negative = u, .perturbed = p, .isolated = i});
  EXPECT_TRUE(testing::close(y, at::full({1, 2, 2}, 2.0 + 2 * 1.0 + 1.5 + 2 * 3.0), 1e-6));
}

TEST(CleanGuidance, RescalingRestoresTheSpreadOfEachSampleAndScalesItsMean) {
  const at::Tensor c =
      at::stack({at::tensor({1.0F, 2.0F, 3.0F, 4.0F}), at::tensor({10.0F, 30.0F, 20.0F, 0.0F})}).view({2, 2, 2});
  const at::Tensor y = guide_clean({.text_scale = 3, .rescale = 1}, {.conditional = c, .negative = c * 0.5});
  EXPECT_TRUE(testing::close(y, c, 1e-5));  // twice c, brought back: its mean as well
  const at::Tensor half = guide_clean({.text_scale = 3, .rescale = 0.5}, {.conditional = c, .negative = c * 0.5});
  EXPECT_TRUE(testing::close(half, c * 1.5, 1e-5));
}

TEST(CleanGuidance, WithoutScalesItIsTheConditionalEstimate) {
  const at::Tensor c = at::arange(8, at::kFloat).view({1, 4, 2});
  EXPECT_TRUE(at::equal(guide_clean({}, {.conditional = c}), c));
  EXPECT_EQ(testing::message_of<std::invalid_argument>([&] { guide_clean({.text_scale = 2}, {.conditional = c}); }),
            "guide_clean: a scale needs an estimate that is undefined");
}

TEST(CleanGuidance, AVelocityComesBackFromItsCleanEstimate) {
  const at::Tensor x = at::arange(6, at::kFloat).view({1, 3, 2}), v = x * 0.25 - 1;
  EXPECT_TRUE(testing::close(velocity_of(x, clean_estimate(x, v, 0.8), 0.8), v, 1e-6));
}

}  // namespace
}  // namespace unigrpo::flow

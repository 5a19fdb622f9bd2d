#include "tensor/rng.h"

#include "support/tensors.h"

namespace unigrpo::tensor {
namespace {

TEST(Normal, TheKeyDecidesTheNumbers) {
  const StreamKey key{.seed = 7, .step = 3, .prompt = 1, .sample = 2, .purpose = Purpose::sde_noise};
  StreamKey other = key;
  other.sample = 3;
  EXPECT_TRUE(at::equal(normal({4, 5}, key), normal({4, 5}, key)));
  EXPECT_FALSE(at::equal(normal({4, 5}, key), normal({4, 5}, other)));
  EXPECT_TRUE(at::equal(normal({6}, key), normal({20}, key).narrow(0, 0, 6)));
}

TEST(Normal, IsStandardNormal) {
  const at::Tensor x = normal({100000}, {.seed = 1});
  EXPECT_EQ(x.scalar_type(), at::kFloat);
  EXPECT_NEAR(x.mean().item<double>(), 0, 0.02);        // 6 standard errors
  EXPECT_NEAR(x.std().item<double>(), 1, 0.015);        // 6 standard errors
  EXPECT_NEAR(x.pow(4).mean().item<double>(), 3, 0.2);  // 6 standard errors
}

TEST(Uniform, LiesInTheHalfOpenUnitInterval) {
  const at::Tensor x = uniform({100000}, {.seed = 1});
  EXPECT_GE(x.min().item<double>(), 0);
  EXPECT_LT(x.max().item<double>(), 1);
  EXPECT_NEAR(x.mean().item<double>(), 0.5, 0.006);  // 6 standard errors
}

TEST(Normal, AnEmptyShapeGivesNothing) { EXPECT_EQ(normal({0, 3}, {}).numel(), 0); }

}  // namespace
}  // namespace unigrpo::tensor

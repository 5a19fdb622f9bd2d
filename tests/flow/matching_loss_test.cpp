#include "flow/matching_loss.h"

#include "support/tensors.h"
#include "tensor/rng.h"

namespace unigrpo::flow {
namespace {

using unigrpo::testing::close;

TEST(MatchingLoss, IsZeroForTheTrueVelocityOnly) {
  const at::Tensor latents = tensor::normal({2, 3, 4}, {.seed = 1});
  const at::Tensor noise = tensor::normal({2, 3, 4}, {.seed = 2});
  EXPECT_EQ(matching_loss(noise - latents, latents, noise).abs().max().item<double>(), 0);
  EXPECT_TRUE(close(matching_loss(noise - latents + 0.5, latents, noise), at::full({2}, 0.25), 1e-6));
}

TEST(MatchingLoss, NoisyLatentsRunFromDataToNoise) {
  const at::Tensor latents = tensor::normal({3, 3, 4}, {.seed = 1});
  const at::Tensor noise = tensor::normal({3, 3, 4}, {.seed = 2});
  const at::Tensor x = noisy_latents(latents, noise, at::tensor({0.0, 1.0, 0.25}, at::kFloat));
  EXPECT_TRUE(at::equal(x[0], latents[0]));
  EXPECT_TRUE(at::equal(x[1], noise[1]));
  EXPECT_TRUE(close(x[2], 0.75 * latents[2] + 0.25 * noise[2], 1e-6));
}

}  // namespace
}  // namespace unigrpo::flow

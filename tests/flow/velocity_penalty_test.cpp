#include "flow/velocity_penalty.h"

#include <stdexcept>

#include "support/tensors.h"
#include "tensor/rng.h"

namespace unigrpo::flow {
namespace {

using unigrpo::testing::close;
using unigrpo::testing::gradient_is_right;

at::Tensor draw(uint64_t seed) { return tensor::normal({3, 4, 2}, {.seed = seed}).to(at::kDouble); }

TEST(LatentKl, IsTheKlOfTheStepsGaussians) {
  const TimeSpan span{.t = 0.7, .t_next = 0.6, .t_max = 0.9};
  for (const SdeConfig& config : {SdeConfig{SdeKind::flow_sde, 0.7}, {SdeKind::cps, 0.8}, {SdeKind::dance, 0.3}}) {
    const SdeMean policy = sde_mean(config, draw(1), draw(2), span);
    const SdeMean reference = sde_mean(config, draw(1), draw(3), span);
    const at::Tensor want = (policy.mean - reference.mean).square().flatten(1).mean(1) / (2 * policy.std.square());
    EXPECT_TRUE(close(latent_kl(config, draw(2), draw(3), span), want, 1e-12, 1e-10));
  }
}

TEST(LatentKl, HasTheWeightThatThePaperNames) {
  // |delta| / 2 (sigma (1 - t) / (2 t) + 1 / sigma)^2 on |v - v_ref|^2
  const double t = 0.7;
  const double sigma = 0.7 * std::sqrt(t / (1 - t));
  const double weight = 0.1 / 2 * std::pow(sigma * (1 - t) / (2 * t) + 1 / sigma, 2);
  const at::Tensor got =
      latent_kl({SdeKind::flow_sde, 0.7}, draw(2), draw(3), TimeSpan{.t = t, .t_next = 0.6, .t_max = 0.9});
  EXPECT_TRUE(close(got, velocity_mse(draw(2), draw(3)) * weight, 1e-12, 1e-10));
}

TEST(LatentKl, IsNotDefinedForAStepWithoutNoise) {
  EXPECT_THROW(latent_kl({SdeKind::cps, 0.8}, draw(1), draw(2), TimeSpan{0.2, 0.0, 0.9}), std::invalid_argument);
}

TEST(VelocityMse, IsZeroForTheReferenceItselfAndHasItsGradient) {
  EXPECT_EQ(velocity_mse(draw(1), draw(1)).abs().max().item<double>(), 0);
  EXPECT_TRUE(gradient_is_right([](const at::Tensor& v) { return velocity_mse(v, draw(2)); }, draw(1)));
}

}  // namespace
}  // namespace unigrpo::flow

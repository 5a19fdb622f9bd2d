#include "grpo/regulariser.h"

#include "support/tensors.h"

namespace unigrpo::grpo {
namespace {

TEST(KlEstimate, EveryEstimatorIsZeroForEqualPolicies) {
  const at::Tensor log_probs = at::tensor({-0.1, -2.0}, at::kFloat);
  for (const KlEstimator estimator : {KlEstimator::k1, KlEstimator::k2, KlEstimator::k3}) {
    EXPECT_EQ(kl_estimate(estimator, log_probs, log_probs).abs().max().item<double>(), 0);
  }
}

TEST(KlEstimate, K1AndK3AreUnbiased) {
  // The expectation over the policy's own tokens is the KL itself.
  const at::Tensor policy = at::tensor({0.5, 0.3, 0.2}, at::kDouble).log();
  const at::Tensor reference = at::tensor({0.2, 0.3, 0.5}, at::kDouble).log();
  const double kl = (policy.exp() * (policy - reference)).sum().item<double>();
  for (const KlEstimator estimator : {KlEstimator::k1, KlEstimator::k3}) {
    const double mean = (policy.exp() * kl_estimate(estimator, policy, reference)).sum().item<double>();
    EXPECT_NEAR(mean, kl, 1e-12);
  }
}

TEST(KlEstimate, K3KeepsItsDigitsNearZero) {
  const at::Tensor log_probs = at::tensor({-1.0}, at::kFloat);
  const at::Tensor ref = log_probs + 1e-3;
  const double d = (ref.to(at::kDouble) - log_probs.to(at::kDouble)).item<double>();
  // exp(d) - 1 - d in float32 would be off by 1e-7, a fifth of the value.
  EXPECT_NEAR(kl_estimate(KlEstimator::k3, log_probs, ref).item<double>(), d * d / 2, 1e-9);
}

}  // namespace
}  // namespace unigrpo::grpo

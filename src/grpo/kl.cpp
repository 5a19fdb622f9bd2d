#include "grpo/kl.h"

#include <ATen/ATen.h>

#include <stdexcept>

namespace unigrpo::grpo {

// With d = log pi_ref - log pi:
//
//   k1 = -d                  unbiased, high variance, may be negative
//   k2 = d^2 / 2             biased, low variance
//   k3 = exp(d) - d - 1      unbiased, low variance, never negative
at::Tensor kl_estimate(KlEstimator estimator, const at::Tensor& log_probs, const at::Tensor& ref_log_probs) {
  const at::Tensor d = ref_log_probs - log_probs;
  switch (estimator) {
    case KlEstimator::k1:
      return -d;
    case KlEstimator::k2:
      return d.square() / 2;
    case KlEstimator::k3:
      return d.expm1() - d;  // without the cancellation of exp(d) - 1 near 0
  }
  throw std::invalid_argument("unknown KL estimator");
}

}  // namespace unigrpo::grpo

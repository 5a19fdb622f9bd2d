#pragma once

#include <ATen/core/Tensor.h>

#include "grpo/config.h"

namespace unigrpo::grpo {

/// Per-token estimate of KL(pi || pi_ref) from tokens drawn from pi; any shape, nats, differentiable.
/// Source: J. Schulman, "Approximating KL divergence" (2020); k3 as in GRPO (arXiv 2402.03300).
at::Tensor kl_estimate(KlEstimator estimator, const at::Tensor& log_probs, const at::Tensor& ref_log_probs);

}  // namespace unigrpo::grpo

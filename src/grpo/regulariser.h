#pragma once

#include <ATen/core/Tensor.h>

#include "flow/config.h"
#include "flow/sde_step.h"
#include "grpo/config.h"

namespace unigrpo::grpo {

/// Per-token estimate of KL(pi || pi_ref) from tokens drawn from pi; any shape, nats, differentiable.
/// Source: J. Schulman, "Approximating KL divergence" (2020); k3 as in GRPO (arXiv 2402.03300).
at::Tensor kl_estimate(KlEstimator estimator, const at::Tensor& log_probs, const at::Tensor& ref_log_probs);

/// What a denoising step pays for leaving the reference, [R], by the penalty's name as a metric.
struct FlowPenalty {
  flow::Penalty penalty;
  at::Tensor (*of)(const flow::SdeConfig& sde, const at::Tensor& velocity, const at::Tensor& velocity_ref,
                   const flow::TimeSpans& times);
};

/// nullptr for none.
const FlowPenalty* flow_penalty(flow::Penalty penalty);

}  // namespace unigrpo::grpo

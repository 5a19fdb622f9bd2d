#pragma once

#include <ATen/core/Tensor.h>

#include "flow/config.h"
#include "flow/sde_step.h"

namespace unigrpo::flow {

/// UniGRPO's penalty [B]: the mean over latent elements of (v - v_ref)^2, every time weighted alike.
///
/// velocity, velocity_ref: [B, L, D]; float32 inside. Differentiable. (arXiv 2603.23500)
at::Tensor velocity_mse(const at::Tensor& velocity, const at::Tensor& velocity_ref);

/// KL of the step's Gaussians [B], nats, the mean over latent elements of
/// (mean - mean_ref)^2 / (2 std^2). For comparison: its weight on |v - v_ref|^2 varies with t by
/// orders of magnitude and vanishes near the noise, where a policy can then drift cheaply.
///
/// x does not enter (it cancels in the difference of the means). Differentiable.
/// Throws std::invalid_argument for a CPU span whose std is 0 (the last step of cps).
at::Tensor latent_kl(const SdeConfig& config, const at::Tensor& velocity, const at::Tensor& velocity_ref,
                     const TimeSpans& spans);

}  // namespace unigrpo::flow

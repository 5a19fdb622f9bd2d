#pragma once

#include <ATen/core/Tensor.h>

#include "flow/config.h"

namespace unigrpo::flow {

/// Where a step goes, for a batch at one time. t_max = t_1 of the grid stands in for 1 where
/// flow_sde's sigma diverges.
struct TimeSpan {
  double t = 1;
  double t_next = 0;
  double t_max = 1;
};

/// The same with a time of its own for each row; t, t_next: [B], any float type (values are used in
/// float64), on any device; or [1], which a TimeSpan becomes: all rows have it. On the CPU the order of times is
/// checked.
struct TimeSpans {
  TimeSpans() = default;
  TimeSpans(at::Tensor from, at::Tensor to, double max);
  TimeSpans(const TimeSpan& span);  // NOLINT: functions of times take either

  at::Tensor t;
  at::Tensor t_next;
  double t_max = 1;
};

struct SdeMean {
  at::Tensor mean;  // [B, L, D]
  at::Tensor std;   // [B], in latent units
};

struct SdeStep {
  at::Tensor x_next;    // [B, L, D]
  at::Tensor mean;      // [B, L, D]
  at::Tensor std;       // [B], in latent units
  at::Tensor log_prob;  // [B], nats, the mean over latent elements
};

/// Coefficients of a step, mean = c_x x + c_v v and std: [rows, 3] float64, columns c_x, c_v, std.
///
/// Throws std::invalid_argument unless 0 <= t_next < t <= 1, t_max in (0, 1) where flow_sde starts
/// at t = 1, and noise_level > 0 (at most 1 for cps, whose std is t' sin(a pi / 2)).
at::Tensor sde_coefficients(const SdeConfig& config, const TimeSpans& spans, int64_t rows);

/// One stochastic step from time t to t_next < t.
///
/// x, velocity, noise: [B, L, D] (lower precision is promoted to float32).
/// Differentiable where x, velocity or noise require a gradient; the fused kernel otherwise.
/// Throws std::invalid_argument as sde_coefficients, and for shapes that differ.
/// Source: Flow-GRPO (arXiv 2505.05470) section 4; cps: 2509.05952; dance: DanceGRPO (2505.07818).
SdeStep sde_step(const SdeConfig& config, const at::Tensor& x, const at::Tensor& velocity, const at::Tensor& noise,
                 const TimeSpans& spans);

/// The step's distribution alone; differentiable.
SdeMean sde_mean(const SdeConfig& config, const at::Tensor& x, const at::Tensor& velocity, const TimeSpans& spans);

/// log p(x_next | x) [B], nats, the mean over latent elements: bit-equal to what sde_step returned
/// for the same x, velocity and times. Differentiable in velocity alone.
at::Tensor sde_log_prob(const SdeConfig& config, const at::Tensor& x, const at::Tensor& velocity,
                        const at::Tensor& x_next, const TimeSpans& spans);

/// log p_new(x_next | x) - log p_old(x_next | x) [B] from both velocities, without the cancellation
/// that a difference of two log-probs has. Differentiable in velocity.
at::Tensor log_ratio(const SdeConfig& config, const at::Tensor& x, const at::Tensor& velocity,
                     const at::Tensor& velocity_old, const at::Tensor& x_next, const TimeSpans& spans);

/// RatioNorm's log ratio [B] (GRPO-Guard, arXiv 2510.22319), whose mean does not drift below 0 and
/// whose size does not depend on the step. flow_sde and dance only, else std::invalid_argument.
/// Differentiable in velocity.
at::Tensor ratio_norm_log_ratio(const SdeConfig& config, const at::Tensor& x, const at::Tensor& velocity,
                                const at::Tensor& velocity_old, const at::Tensor& x_next, const TimeSpans& spans);

}  // namespace unigrpo::flow

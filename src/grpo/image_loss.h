#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "grpo/aggregation.h"
#include "grpo/config.h"

namespace unigrpo::grpo {

/// Trained denoising steps of one micro-batch. Masked-out entries may hold anything, nan included.
struct ImageBatch {
  at::Tensor log_probs;          // [B, S], requires the gradient
  at::Tensor old_log_probs;      // [B, S], of the rollout
  at::Tensor mask;               // [B, S] bool
  at::Tensor advantages;         // [B]
  at::Tensor log_ratios = {};    // [B, S], ratio_norm only: flow::ratio_norm_log_ratio
  at::Tensor step_weights = {};  // [B, S], above 0, e.g. 1 / |delta|; undefined = all alike
  at::Tensor penalty = {};       // [B, S], velocity_mse or latent_kl with gradient; undefined = none
};

/// Sums over this micro-batch divided by global counts: they add up to the global batch's values.
/// Scalars; `loss`, `penalty` and `total` carry gradients.
struct ImageLoss {
  at::Tensor loss;                // the surrogate, -J_img
  at::Tensor penalty;             // L_vel (or the latent KL); 0 without
  at::Tensor total;               // config.weight * loss + config.penalty_weight * penalty
  at::Tensor approx_kl;           // mean of old - new, nats
  at::Tensor clip_fraction;       // share of steps that the clip held back, as in the text loss
  at::Tensor outside_clip_range;  // share of steps with |ratio - 1| > clip_range, whatever their advantage
  at::Tensor ratio_mean;          // of the ratio that is clipped
  at::Tensor plain_ratio_mean;    // of exp(log_probs - old_log_probs): before RatioNorm
};

/// FlowGRPO's surrogate without guidance, plus the penalty. Computed in float32 (float64 for float64). Without `counts`
/// they are this batch's own, count_actions(mask, step_weights).
/// Throws std::invalid_argument for shapes that differ, or ratio_norm without log_ratios.
ImageLoss image_loss(const ImageLossConfig& config, const ImageBatch& batch,
                     const std::optional<ActionCounts>& counts = std::nullopt);

}  // namespace unigrpo::grpo

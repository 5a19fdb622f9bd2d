#include "grpo/image_loss.h"

#include <ATen/ATen.h>

#include "grpo/surrogate.h"
#include "tensor/shape.h"

namespace unigrpo::grpo {

// With the ratio of step s of rollout i:
//
//   r_is    = exp( log p_theta(x_{s+1} | x_s) - log p_old )          or exp(log rho_hat), RatioNorm
//   loss    = sum_is w_s max( -A_i r_is,  -A_i clip(r_is, 1 - c, 1 + c) ) / sum_is w_s
//   penalty = mean_is |v_theta - v_ref|^2                            (UniGRPO, arXiv 2603.23500)
//   total   = w_img loss + lambda_vel penalty
//
// The weights w_s (1, or 1 / |delta_s|) appear above and below, which makes their mean 1. Sums and
// counts below the line are those of the whole global batch.
// Sources: Flow-GRPO (2505.05470), GRPO-Guard (2510.22319).
ImageLoss image_loss(const ImageLossConfig& config, const ImageBatch& batch,
                     const std::optional<ActionCounts>& counts) {
  Actions steps = masked_actions({.log_probs = batch.log_probs,
                                  .old_log_probs = batch.old_log_probs,
                                  .mask = batch.mask,
                                  .advantages = batch.advantages},
                                 "S");
  const at::IntArrayRef shape = batch.mask.sizes();
  if (config.ratio_norm) tensor::check_shape(batch.log_ratios, shape, "log_ratios [B, S]");
  if (batch.step_weights.defined()) tensor::check_shape(batch.step_weights, shape, "step_weights [B, S]");
  if (batch.penalty.defined()) tensor::check_shape(batch.penalty, shape, "penalty [B, S]");

  const at::Tensor plain_log_ratio = steps.log_ratio;  // [B, S]
  const auto type = plain_log_ratio.scalar_type();
  if (config.ratio_norm) steps.log_ratio = steps.masked(batch.log_ratios).to(type);
  const Surrogate surrogate = token_ratio({.clip_low = config.clip_range, .clip_high = config.clip_range}, steps);
  const at::Tensor losses =
      batch.step_weights.defined() ? surrogate.loss * steps.masked(batch.step_weights.to(type)) : surrogate.loss;

  const ActionCounts all = counts ? *counts : count_actions(batch.mask, batch.step_weights);
  ImageLoss out;
  out.loss = aggregate(Aggregation::token_mean, losses, steps, all);
  out.penalty =
      batch.penalty.defined() ? action_mean(batch.penalty, steps, all) : at::zeros({}, plain_log_ratio.options());
  out.total = config.weight * out.loss + config.penalty_weight * out.penalty;
  out.approx_kl = action_mean(-plain_log_ratio.detach(), steps, all);
  out.clip_fraction = action_mean(surrogate.clipped, steps, all);
  const at::Tensor away = surrogate.ratio - 1;
  out.outside_clip_range = action_mean(away.abs() > config.clip_range, steps, all);
  out.ratio_mean = action_mean(surrogate.ratio, steps, all);
  out.plain_ratio_mean = action_mean(ratio_of(plain_log_ratio.detach()), steps, all);
  return out;
}

}  // namespace unigrpo::grpo

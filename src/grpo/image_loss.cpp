#include "grpo/image_loss.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <stdexcept>

#include "tensor/shape.h"

namespace unigrpo::grpo {
namespace {

constexpr double kMaxLogRatio = 20;  // as in text_loss.cpp: exp() of more would make 0 * inf

}  // namespace

ImageNormalizer& ImageNormalizer::operator+=(const ImageNormalizer& other) {
  num_steps += other.num_steps;
  sum_of_weights += other.sum_of_weights;
  return *this;
}

ImageNormalizer count_image(const at::Tensor& mask, const at::Tensor& step_weights) {
  tensor::check_shape(mask, {-1, -1}, "mask [B, S]");
  const at::Tensor kept = mask.to(at::kBool);
  const double num_steps = kept.sum().item<double>();
  if (!step_weights.defined()) return {num_steps, num_steps};
  tensor::check_shape(step_weights, mask.sizes(), "step_weights [B, S]");
  return {num_steps, step_weights.to(at::kDouble).masked_fill(kept.logical_not(), 0).sum().item<double>()};
}

// With the ratio of step s of rollout i, and A_i clipped to +-a_max:
//
//   r_is    = exp( log p_theta(x_{s+1} | x_s) - log p_old )          or exp(log rho_hat), RatioNorm
//   loss    = sum_is w_s max( -A_i r_is,  -A_i clip(r_is, 1 - c, 1 + c) ) / sum_is w_s
//   penalty = mean_is |v_theta - v_ref|^2                            (UniGRPO, arXiv 2603.23500)
//   total   = w_img loss + lambda_vel penalty
//
// The weights w_s (1, or 1 / |delta_s|) appear above and below, which makes their mean 1. Sums and
// counts below the line are those of the whole global batch.
// Sources: Flow-GRPO (2505.05470), GRPO-Guard (2510.22319).
ImageLoss image_loss(const ImageLossConfig& config, double advantage_clip, const ImageBatch& batch,
                     const std::optional<ImageNormalizer>& normalizer) {
  tensor::check_shape(batch.mask, {-1, -1}, "mask [B, S]");
  const at::IntArrayRef shape = batch.mask.sizes();
  tensor::check_shape(batch.log_probs, shape, "log_probs [B, S]");
  tensor::check_shape(batch.old_log_probs, shape, "old_log_probs [B, S]");
  tensor::check_shape(batch.advantages, {shape[0]}, "advantages [B]");
  if (config.ratio_norm) tensor::check_shape(batch.log_ratios, shape, "log_ratios [B, S]");
  if (batch.step_weights.defined()) {
    tensor::check_shape(batch.step_weights, shape, "step_weights [B, S]");
  }
  if (batch.penalty.defined()) tensor::check_shape(batch.penalty, shape, "penalty [B, S]");

  const at::Tensor padding = batch.mask.to(at::kBool).logical_not();  // [B, S]
  const auto masked = [&](const at::Tensor& values) {
    return tensor::at_least_float32(values).masked_fill(padding, 0);
  };
  const at::Tensor plain_log_ratio = masked(batch.log_probs) - masked(batch.old_log_probs.detach());  // [B, S]
  const auto type = plain_log_ratio.scalar_type();
  const at::Tensor log_ratio = config.ratio_norm ? masked(batch.log_ratios).to(type) : plain_log_ratio;
  const at::Tensor ratio = log_ratio.clamp(-kMaxLogRatio, kMaxLogRatio).exp();  // [B, S]
  at::Tensor advantages = batch.advantages.detach().to(type).unsqueeze(1);      // [B, 1]
  if (advantage_clip > 0) advantages = advantages.clamp(-advantage_clip, advantage_clip);

  at::Tensor per_step =
      at::maximum(-advantages * ratio, -advantages * ratio.clamp(1 - config.clip_range, 1 + config.clip_range));
  if (batch.step_weights.defined()) per_step = per_step * masked(batch.step_weights.to(type));

  const ImageNormalizer counts = normalizer ? *normalizer : count_image(batch.mask, batch.step_weights);
  const double num_steps = std::max(1.0, counts.num_steps);
  const double sum_of_weights = counts.sum_of_weights > 0 ? counts.sum_of_weights : 1.0;
  const auto step_mean = [&](const at::Tensor& values) {
    return values.to(type).masked_fill(padding, 0).sum() / num_steps;
  };

  ImageLoss out;
  out.loss = per_step.masked_fill(padding, 0).sum() / sum_of_weights;
  out.penalty = batch.penalty.defined() ? step_mean(masked(batch.penalty)) : at::zeros({}, plain_log_ratio.options());
  out.total = config.weight * out.loss + config.penalty_weight * out.penalty;
  out.approx_kl = step_mean(-plain_log_ratio.detach());
  out.clip_fraction = step_mean((ratio.detach() - 1).abs() > config.clip_range);
  out.ratio_mean = step_mean(ratio.detach());
  out.plain_ratio_mean = step_mean(plain_log_ratio.detach().clamp(-kMaxLogRatio, kMaxLogRatio).exp());
  return out;
}

}  // namespace unigrpo::grpo

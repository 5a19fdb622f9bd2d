#include "grpo/text_loss.h"

#include <ATen/ATen.h>

#include <stdexcept>

#include "grpo/regulariser.h"
#include "grpo/surrogate.h"
#include "tensor/shape.h"

namespace unigrpo::grpo {

// The whole objective, minimised:
//
//   L = agg_it [ l_it + beta KL_it ]
//
//   l_it   surrogate.cpp, by config.importance: PPO's clip of token or sequence ratios, CISPO
//   KL_it  regulariser.cpp, by config.kl_estimator
//   agg    aggregation.cpp, by config.aggregation
//
// The denominators are counts of the whole global batch, so that neither micro-batches nor ranks
// change the result.
TextLoss text_loss(const TextLossConfig& config, const TextBatch& batch, const std::optional<ActionCounts>& counts,
                   int64_t max_length) {
  const Actions tokens = masked_actions({.log_probs = batch.log_probs,
                                         .old_log_probs = batch.old_log_probs,
                                         .mask = batch.mask,
                                         .advantages = batch.advantages},
                                        "T");
  const bool has_reference = batch.ref_log_probs.defined();
  if (has_reference) tensor::check_shape(batch.ref_log_probs, batch.mask.sizes(), "ref_log_probs [B, T]");
  if (!has_reference && config.kl_beta != 0) throw std::invalid_argument("kl_beta needs ref_log_probs");
  const int64_t length = config.max_length > 0 ? config.max_length : max_length;
  if (config.aggregation == Aggregation::fixed_length && length < 1) {
    throw std::invalid_argument("fixed_length needs a max_length above 0");
  }

  const SurrogateSettings settings{
      .clip_low = config.clip_low, .clip_high = config.clip_high, .dual_clip = config.dual_clip};
  const Surrogate surrogate = surrogate_of(config.importance)(settings, tokens);
  const at::Tensor kl = has_reference ? kl_estimate(config.kl_estimator, tokens.log_probs,
                                                    tokens.masked(batch.ref_log_probs.detach()))
                                      : at::zeros_like(tokens.log_probs);  // [B, T]
  const at::Tensor losses = config.kl_beta == 0 ? surrogate.loss : surrogate.loss + config.kl_beta * kl;

  const ActionCounts all = counts ? *counts : count_actions(batch.mask);
  return {.loss = aggregate(config.aggregation, losses, tokens, all, length),
          .kl = action_mean(kl.detach(), tokens, all),
          .approx_kl = action_mean(-tokens.log_ratio.detach(), tokens, all),
          .clip_fraction = action_mean(surrogate.clipped, tokens, all)};
}

}  // namespace unigrpo::grpo

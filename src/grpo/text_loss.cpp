#include "grpo/text_loss.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <stdexcept>

#include "grpo/kl.h"
#include "tensor/shape.h"

namespace unigrpo::grpo {
namespace {

// |log ratio| beyond this says that something else is wrong; exp() of more would turn 0 * inf into
// nan where the advantage is 0. Such tokens are clipped or far off-policy, and get no gradient.
constexpr double kMaxLogRatio = 20;

struct TokenLosses {
  at::Tensor loss;     // [B, T]
  at::Tensor clipped;  // [B, T] bool
};

// Token and sequence importance: PPO's clipped surrogate as a loss, separate bounds (DAPO, 2503.14476),
// dual clip (1912.09729):
//
//   l_it = max( -A_i r_it,  -A_i clip(r_it, 1 - c_low, 1 + c_high) )
//   l_it = min( l_it, -A_i c_dual )        where A_i < 0 and c_dual > 0
//
//   token:     r_it = exp( log pi(o_it) - log pi_old(o_it) )                    (GRPO, 2402.03300)
//   sequence:  r_it = exp( mean_t [ log pi(o_it) - log pi_old(o_it) ] )         (GSPO, 2507.18071)
TokenLosses clipped_surrogate(const TextLossConfig& config, const at::Tensor& ratio, const at::Tensor& advantages) {
  const at::Tensor plain = -advantages * ratio;                                                     // [B, T]
  const at::Tensor bounded = -advantages * ratio.clamp(1 - config.clip_low, 1 + config.clip_high);  // [B, T]
  at::Tensor loss = at::maximum(plain, bounded);
  if (config.dual_clip > 0) {
    const at::Tensor cap = -advantages * config.dual_clip;  // [B, 1]
    loss = at::where(advantages < 0, at::minimum(loss, cap), loss);
  }
  return {loss, bounded > plain};
}

// CISPO (2506.13585): the ratio is a detached weight with an upper bound, so every token keeps a
// gradient:
//
//   l_it = -A_i log pi(o_it) * min( stop_gradient(r_it), 1 + c_high )
TokenLosses cispo(const TextLossConfig& config, const at::Tensor& ratio, const at::Tensor& log_probs,
                  const at::Tensor& advantages) {
  const at::Tensor weight = ratio.detach().clamp_max(1 + config.clip_high);  // [B, T]
  return {-advantages * log_probs * weight, ratio > 1 + config.clip_high};
}

}  // namespace

TextNormalizer& TextNormalizer::operator+=(const TextNormalizer& other) {
  num_tokens += other.num_tokens;
  num_nonempty_rows += other.num_nonempty_rows;
  num_rows += other.num_rows;
  return *this;
}

TextNormalizer count_text(const at::Tensor& mask) {
  tensor::check_shape(mask, {-1, -1}, "mask [B, T]");
  const at::Tensor lengths = mask.to(at::kBool).sum(1);  // [B]
  return {.num_tokens = lengths.sum().item<double>(),
          .num_nonempty_rows = lengths.gt(0).sum().item<double>(),
          .num_rows = static_cast<double>(mask.size(0))};
}

// The whole objective, minimised:
//
//   L = agg_it [ l_it + beta KL_it ]
//
//   token_mean     sum_it / sum_i |o_i|                     (DAPO)
//   seq_mean       mean over rows i with |o_i| > 0 of (1 / |o_i|) sum_t      (GRPO)
//   fixed_length   sum_it / (B * max_length)                (Dr.GRPO, 2503.20783)
//
// The denominators are counts of the whole global batch, so that neither micro-batches nor ranks
// change the result.
TextLoss text_loss(const TextLossConfig& config, const TextBatch& batch,
                   const std::optional<TextNormalizer>& normalizer, int64_t max_length) {
  tensor::check_shape(batch.mask, {-1, -1}, "mask [B, T]");
  const at::IntArrayRef shape = batch.mask.sizes();
  tensor::check_shape(batch.log_probs, shape, "log_probs [B, T]");
  tensor::check_shape(batch.old_log_probs, shape, "old_log_probs [B, T]");
  tensor::check_shape(batch.advantages, {shape[0]}, "advantages [B]");
  const bool has_reference = batch.ref_log_probs.defined();
  if (has_reference) tensor::check_shape(batch.ref_log_probs, shape, "ref_log_probs [B, T]");
  if (!has_reference && config.kl_beta != 0) {
    throw std::invalid_argument("kl_beta needs ref_log_probs");
  }
  const int64_t length = config.max_length > 0 ? config.max_length : max_length;
  if (config.aggregation == Aggregation::fixed_length && length < 1) {
    throw std::invalid_argument("fixed_length needs a max_length above 0");
  }

  const at::Tensor mask = batch.mask.to(at::kBool);  // [B, T]
  const at::Tensor padding = mask.logical_not();
  const auto masked = [&](const at::Tensor& values) {  // padding cannot reach a gradient as nan
    return tensor::at_least_float32(values).masked_fill(padding, 0);
  };
  const at::Tensor log_probs = masked(batch.log_probs);
  const at::Tensor old_log_probs = masked(batch.old_log_probs.detach());
  const at::Tensor advantages = batch.advantages.detach().to(log_probs.scalar_type()).unsqueeze(1);       // [B, 1]
  const at::Tensor row_lengths = mask.sum(1, /*keepdim=*/true).clamp_min(1).to(log_probs.scalar_type());  // [B, 1]

  at::Tensor log_ratio = log_probs - old_log_probs;  // [B, T]
  const at::Tensor token_log_ratio = log_ratio.detach();
  if (config.importance == Importance::sequence) {
    log_ratio = (log_ratio.sum(1, /*keepdim=*/true) / row_lengths).expand(shape);
  }
  const at::Tensor ratio = log_ratio.clamp(-kMaxLogRatio, kMaxLogRatio).exp();  // [B, T]
  TokenLosses tokens = config.importance == Importance::cispo ? cispo(config, ratio, log_probs, advantages)
                                                              : clipped_surrogate(config, ratio, advantages);

  at::Tensor kl = at::zeros_like(log_probs);  // [B, T]
  if (has_reference) {
    kl = kl_estimate(config.kl_estimator, log_probs, masked(batch.ref_log_probs.detach()));
  }
  if (config.kl_beta != 0) tokens.loss = tokens.loss + config.kl_beta * kl;
  tokens.loss = tokens.loss.masked_fill(padding, 0);

  const TextNormalizer counts = normalizer ? *normalizer : count_text(batch.mask);
  const double num_tokens = std::max(1.0, counts.num_tokens);
  at::Tensor loss;
  switch (config.aggregation) {
    case Aggregation::token_mean:
      loss = tokens.loss.sum() / num_tokens;
      break;
    case Aggregation::seq_mean:
      loss = (tokens.loss / row_lengths).sum() / std::max(1.0, counts.num_nonempty_rows);
      break;
    case Aggregation::fixed_length:
      loss = tokens.loss.sum() / (std::max(1.0, counts.num_rows) * static_cast<double>(length));
      break;
  }
  const auto token_mean = [&](const at::Tensor& values) {
    return values.detach().to(log_probs.scalar_type()).masked_fill(padding, 0).sum() / num_tokens;
  };
  return {.loss = loss,
          .kl = token_mean(kl),
          .approx_kl = token_mean(-token_log_ratio),
          .clip_fraction = token_mean(tokens.clipped)};
}

}  // namespace unigrpo::grpo

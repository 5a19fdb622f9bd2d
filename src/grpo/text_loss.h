#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "grpo/aggregation.h"
#include "grpo/config.h"

namespace unigrpo::grpo {

/// One micro-batch of texts. Padding may hold anything, nan included: it is masked before any
/// arithmetic.
struct TextBatch {
  at::Tensor log_probs;           // [B, T], requires the gradient
  at::Tensor old_log_probs;       // [B, T], of the rollout
  at::Tensor ref_log_probs = {};  // [B, T], of the reference; undefined: none, kl_beta is 0
  at::Tensor mask;                // [B, T] bool: sampled tokens, the end token included
  at::Tensor advantages;          // [B]
};

/// Every number is a sum over this micro-batch divided by global counts, so that the sum over
/// micro-batches and ranks is the global batch's value. Scalars; only `loss` carries a gradient.
struct TextLoss {
  at::Tensor loss;
  at::Tensor kl;             // token mean of the chosen estimator, nats; 0 without a reference
  at::Tensor approx_kl;      // token mean of old - new, nats
  at::Tensor clip_fraction;  // token mean
};

/// GRPO's text objective. `max_length` stands in for config.max_length where that is 0.
///
/// Computed in float32 (float64 for float64). Without `counts` they are this batch's own.
/// Throws std::invalid_argument for shapes that differ, a kl_beta without ref_log_probs, or
/// fixed_length without a length.
TextLoss text_loss(const TextLossConfig& config, const TextBatch& batch,
                   const std::optional<ActionCounts>& counts = std::nullopt, int64_t max_length = 0);

}  // namespace unigrpo::grpo

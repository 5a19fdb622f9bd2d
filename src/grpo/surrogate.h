#pragma once

#include <ATen/core/Tensor.h>

#include "grpo/config.h"

namespace unigrpo::grpo {

/// The actions of a micro-batch with their padding masked: tokens of texts [B, T], or denoising steps [B, S].
struct Actions {
  at::Tensor padding;      // [B, T] bool: no action
  at::Tensor log_probs;    // [B, T], 0 in the padding
  at::Tensor log_ratio;    // [B, T] log pi - log pi_old, 0 in the padding
  at::Tensor advantages;   // [B, 1]
  at::Tensor row_lengths;  // [B, 1], at least 1

  /// In float32 (float64 for float64), 0 in the padding: what stands there cannot reach a gradient as nan.
  at::Tensor masked(const at::Tensor& values) const;
};

struct ActionTensors {
  at::Tensor log_probs, old_log_probs, mask;  // [B, T]
  at::Tensor advantages;                      // [B]
};
/// `steps` names the second axis in errors: "T", "S". Throws std::invalid_argument for shapes that differ.
Actions masked_actions(const ActionTensors& tensors, const char* steps);

/// What surrogates read from the recipe.
struct SurrogateSettings {
  double clip_low = 0, clip_high = 0;  // ratios are clipped to [1 - clip_low, 1 + clip_high]
  double dual_clip = 0;                // 0: off
};

/// What each action is worth, to be minimised, and what clipping did.
struct Surrogate {
  at::Tensor loss;     // [B, T]
  at::Tensor clipped;  // [B, T] bool: where the clip held the action back; never where its advantage is 0
  at::Tensor ratio;    // [B, T] or wherever the ratio is taken, detached
};

/// A method: one function from log-ratios and advantages to losses, one row in surrogate_of's table.
using SurrogateFunction = Surrogate (*)(const SurrogateSettings& settings, const Actions& actions);

/// Of tokens, and of denoising steps (Flow-GRPO, 2505.05470; GRPO-Guard, 2510.22319).
Surrogate token_ratio(const SurrogateSettings& settings, const Actions& actions);
Surrogate sequence_ratio(const SurrogateSettings& settings, const Actions& actions);
Surrogate cispo(const SurrogateSettings& settings, const Actions& actions);

SurrogateFunction surrogate_of(Importance importance);

/// exp of a log-ratio within +-20: beyond it something else is wrong, and exp() of more would turn 0 * inf into nan
/// where the advantage is 0. Such actions are clipped or far off-policy, and get no gradient.
at::Tensor ratio_of(const at::Tensor& log_ratio);

}  // namespace unigrpo::grpo

#include "grpo/surrogate.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <stdexcept>
#include <utility>

#include "tensor/shape.h"

namespace unigrpo::grpo {

at::Tensor Actions::masked(const at::Tensor& values) const {
  return tensor::at_least_float32(values).masked_fill(padding, 0);
}

Actions masked_actions(const ActionTensors& tensors, const char* steps) {
  auto named = [&](const char* name) { return fmt::format("{} [B, {}]", name, steps); };
  tensor::check_shape(tensors.mask, {-1, -1}, named("mask"));
  const at::IntArrayRef shape = tensors.mask.sizes();
  tensor::check_shape(tensors.log_probs, shape, named("log_probs"));
  tensor::check_shape(tensors.old_log_probs, shape, named("old_log_probs"));
  tensor::check_shape(tensors.advantages, {shape[0]}, "advantages [B]");
  const at::Tensor mask = tensors.mask.to(at::kBool);
  Actions actions{.padding = mask.logical_not(), .log_probs = {}, .log_ratio = {}, .advantages = {}, .row_lengths = {}};
  actions.log_probs = actions.masked(tensors.log_probs);
  const at::Tensor log_ratio = actions.log_probs - actions.masked(tensors.old_log_probs.detach());
  // Where one is infinite, which the ratio's bound would hide, there is no number: the step is skipped.
  actions.log_ratio = log_ratio + log_ratio.detach() * 0;
  const auto type = actions.log_ratio.scalar_type();
  actions.advantages = tensors.advantages.detach().to(type).unsqueeze(1);
  actions.row_lengths = mask.sum(1, /*keepdim=*/true).clamp_min(1).to(type);
  return actions;
}

at::Tensor ratio_of(const at::Tensor& log_ratio) {
  constexpr double kMaxLogRatio = 20;
  return log_ratio.clamp(-kMaxLogRatio, kMaxLogRatio).exp();
}

namespace {

// PPO's clipped surrogate as a loss, separate bounds (DAPO, 2503.14476), dual clip (1912.09729):
//
//   l_it = max( -A_i r_it,  -A_i clip(r_it, 1 - c_low, 1 + c_high) )
//   l_it = min( l_it, -A_i c_dual )        where A_i < 0 and c_dual > 0
Surrogate clipped_surrogate(const SurrogateSettings& settings, const at::Tensor& ratio, const at::Tensor& advantages) {
  const at::Tensor plain = -advantages * ratio;                                                         // [B, T]
  const at::Tensor bounded = -advantages * ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high);  // [B, T]
  at::Tensor loss = at::maximum(plain, bounded);
  if (settings.dual_clip > 0) {
    const at::Tensor cap = -advantages * settings.dual_clip;  // [B, 1]
    loss = at::where(advantages < 0, at::minimum(loss, cap), loss);
  }
  return {.loss = loss, .clipped = bounded > plain, .ratio = ratio.detach()};
}

}  // namespace

// r_it = exp( log pi(o_it) - log pi_old(o_it) )                    (GRPO, 2402.03300)
Surrogate token_ratio(const SurrogateSettings& settings, const Actions& actions) {
  return clipped_surrogate(settings, ratio_of(actions.log_ratio), actions.advantages);
}

// r_it = exp( mean_t [ log pi(o_it) - log pi_old(o_it) ] )         (GSPO, 2507.18071)
Surrogate sequence_ratio(const SurrogateSettings& settings, const Actions& actions) {
  const at::Tensor mean = actions.log_ratio.sum(1, /*keepdim=*/true) / actions.row_lengths;
  return clipped_surrogate(settings, ratio_of(mean.expand(actions.log_ratio.sizes())), actions.advantages);
}

// CISPO (2506.13585): the ratio is a detached weight with an upper bound, so every token keeps a gradient:
//
//   l_it = -A_i log pi(o_it) * min( stop_gradient(r_it), 1 + c_high )
Surrogate cispo(const SurrogateSettings& settings, const Actions& actions) {
  const at::Tensor ratio = ratio_of(actions.log_ratio).detach();
  const at::Tensor weight = ratio.clamp_max(1 + settings.clip_high);  // [B, T]
  return {.loss = -actions.advantages * actions.log_probs * weight,
          .clipped = (ratio > 1 + settings.clip_high).logical_and(actions.advantages != 0),
          .ratio = ratio};
}

SurrogateFunction surrogate_of(Importance importance) {
  static constexpr std::pair<Importance, SurrogateFunction> kTable[] = {
      {Importance::token, token_ratio},
      {Importance::sequence, sequence_ratio},
      {Importance::cispo, cispo},
  };
  for (const auto& [name, function] : kTable) {
    if (name == importance) return function;
  }
  throw std::invalid_argument("unknown importance");
}

}  // namespace unigrpo::grpo

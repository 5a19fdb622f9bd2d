#pragma once

#include <ATen/core/Tensor.h>

namespace unigrpo::flow {

/// Guidance of one stream, formed on clean estimates (LTX-2's; diffusers 0.42.1, LTX2Pipeline).
struct CleanGuidance {
  double text_scale = 1.0;       // g: away from the estimate without the text; 1 = none
  double perturbed_scale = 0.0;  // s: away from the one whose self-attentions are perturbed; 0 = none
  double isolated_scale = 1.0;   // m: away from the one that does not see the other stream; 1 = none
  double rescale = 0.0;          // phi: how much of the conditional estimate's spread is restored

  bool needs_negative() const { return text_scale > 1.0; }
  bool needs_perturbed() const { return perturbed_scale > 0.0; }
  bool needs_isolated() const { return isolated_scale > 1.0; }
};

/// x0 = x - sigma v of one step, [B, L, D] each; undefined where no scale of any stream needs it.
struct CleanEstimates {
  at::Tensor conditional = {}, negative = {}, perturbed = {}, isolated = {};
};

/// The guided clean estimate, float32 [B, L, D]:
///
///   y = c + (g - 1) (c - negative) + s (c - perturbed) + (m - 1) (c - isolated)
///   y (phi std(c) / std(y) + 1 - phi)
///
/// with unbiased standard deviations of each sample, about its mean; what is scaled is all of y, its mean too. Throws
/// std::invalid_argument where a scale needs an estimate that is undefined.
at::Tensor guide_clean(const CleanGuidance& config, const CleanEstimates& estimates);

/// x - sigma v and back, float32.
at::Tensor clean_estimate(const at::Tensor& x, const at::Tensor& velocity, double sigma);
at::Tensor velocity_of(const at::Tensor& x, const at::Tensor& clean, double sigma);

}  // namespace unigrpo::flow

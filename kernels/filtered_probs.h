#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace unigrpo::kernels {

struct FilterConfig {
  double temperature = 1.0;  // above 0
  int64_t top_k = 0;         // keep the k most probable tokens; 0 = all
  double top_p = 1.0;        // keep the smallest set whose probability before each token is below top_p
};

/// The distribution that is sampled from: temperature first, then top-k, then top-p, renormalised.
///
/// logits: [N, V] any float type. Returns probs [N, V] float32 (float64 for float64), rows sum to 1.
/// Among equal logits the lower id comes first. Throws c10::Error for values out of range.
at::Tensor filtered_probs(const at::Tensor& logits, const FilterConfig& config);

}  // namespace unigrpo::kernels

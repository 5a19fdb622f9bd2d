#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "nn/weights.h"

namespace unigrpo::nn {

/// y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias over the last dimension (arXiv 1607.06450).
struct LayerNorm {
  at::Tensor weight, bias;  // [D]
  double eps = 1e-5;

  /// x: [..., D] -> [..., D].
  at::Tensor operator()(const at::Tensor& x) const;
};

/// Takes "<name>.weight" and "<name>.bias", both [width].
LayerNorm take_layer_norm(Weights& weights, const std::string& name, int64_t width, double eps);

}  // namespace unigrpo::nn

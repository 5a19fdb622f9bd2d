#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "nn/weights.h"

namespace unigrpo::video {

/// A convolution over 1 to 3 axes, or its transpose, in PyTorch's terms.
struct Conv {
  at::Tensor weight;                               // [out, in, kernel...]; transposed: [in, out, kernel...]
  at::Tensor bias;                                 // [out] or undefined
  std::vector<int64_t> stride, padding, dilation;  // one entry an axis
  bool transposed = false;

  /// x: [B, in, axes...] -> [B, out, axes...].
  at::Tensor operator()(const at::Tensor& x) const;
};

struct ConvShape {
  int64_t out = 0, in = 0;
  std::vector<int64_t> kernel;         // its length is the number of axes
  std::vector<int64_t> stride = {};    // empty: 1
  std::vector<int64_t> padding = {};   // empty: 0
  std::vector<int64_t> dilation = {};  // empty: 1
  bool bias = true;
  bool transposed = false;
};

/// Takes "<name>.weight" and "<name>.bias".
Conv take_conv(nn::Weights& weights, const std::string& name, ConvShape shape);

/// x / sqrt(mean(x^2) + eps) over the channels, axis 1 of [B, C, ...].
at::Tensor channel_rms_norm(const at::Tensor& x, double eps);

/// SiLU of a temporary: in its own memory where no gradient is recorded.
at::Tensor silu_of(at::Tensor x);

}  // namespace unigrpo::video

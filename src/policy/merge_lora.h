#pragma once

#include <ATen/core/Tensor.h>

namespace unigrpo::policy {

/// W + scale B A in float32, [out, in]; takes the memory of one such tensor beside W's own.
at::Tensor merge_lora(const at::Tensor& weight, const at::Tensor& a, const at::Tensor& b, double scale);

}  // namespace unigrpo::policy

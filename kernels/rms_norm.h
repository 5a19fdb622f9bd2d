#pragma once

#include <ATen/core/Tensor.h>

namespace unigrpo::kernels {

/// y = x / sqrt(mean(x^2) + eps) * weight over the last dimension, statistics in float32 or wider (Zhang and Sennrich,
/// arXiv 1910.07467). x: [..., D], weight: [D]; the result has x's dtype. On float32 CPU tensors forward and
/// backward are one pass each over memory.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);
/// The same in plain ATen; also what runs in other dtypes.
at::Tensor rms_norm_reference(const at::Tensor& x, const at::Tensor& weight, double eps);

}  // namespace unigrpo::kernels

#pragma once

#include <ATen/core/Tensor.h>

namespace unigrpo::kernels {

/// y = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * weight + bias over the last dimension (Ba et al.,
/// arXiv 1607.06450). x: [..., D]; weight, bias: [D]. Differentiable. PyTorch's own on every device.
at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps);
/// The same in plain ATen.
at::Tensor layer_norm_reference(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps);

}  // namespace unigrpo::kernels

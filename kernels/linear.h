#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace unigrpo::kernels {

/// x W^T + b. x: [..., in], weight: [out, in], bias: [out] or undefined -> [..., out]. Differentiable.
///
/// On the CPU in float32 it is oneDNN's product, and for layers of a small model a row's bits do not depend on how many
/// rows there are.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);
/// The same in plain ATen; also what runs in other dtypes.
at::Tensor linear_reference(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias);

}  // namespace unigrpo::kernels

#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

namespace unigrpo::kernels {

inline constexpr int64_t kNarrowWeight = 1 << 17, kNarrowInput = 384;
inline bool is_narrow(const at::Tensor& weight) {
  return weight.numel() <= kNarrowWeight && (weight.dim() < 2 || weight.numel() / weight.size(0) <= kNarrowInput);
}

/// x W^T + b. x: [..., in], weight: [out, in], bias: [out] or undefined -> [..., out]. Differentiable.
///
/// On the CPU in float32 it is oneDNN's product, and with a narrow weight, of up to kNarrowWeight numbers and
/// kNarrowInput columns, a row's bits do not depend on how many rows there are.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);
/// The same in plain ATen; also what runs in other dtypes.
at::Tensor linear_reference(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias);

}  // namespace unigrpo::kernels

#pragma once

#include <ATen/core/Tensor.h>

namespace unigrpo::kernels {

/// Cosines and sines of rotary positions (Su et al., arXiv 2104.09864), Qwen2's half-split layout.
struct RotaryTable {
  at::Tensor cos;  // [T, Dh / 2] float32
  at::Tensor sin;  // [T, Dh / 2] float32
};

/// position_ids: [T] int64; all tokens of an image share one position. head_dim is even.
RotaryTable rotary_table(const at::Tensor& position_ids, int64_t head_dim, double theta);

/// x: [T, H, Dh] -> the same, each head turned by its token's angles:
/// (a, b) -> (a cos - b sin, b cos + a sin) with a, b the two halves of the head.
at::Tensor apply_rotary(const at::Tensor& x, const RotaryTable& table);
/// The same in plain ATen; also what runs in other dtypes.
at::Tensor apply_rotary_reference(const at::Tensor& x, const RotaryTable& table);

}  // namespace unigrpo::kernels

#pragma once

#include <ATen/core/Tensor.h>

namespace unigrpo::kernels {

/// Draws each row's token from softmax(logits / temperature): the first in id order at which the running sum of
/// probabilities passes the row's uniform number, in float64.
///
/// logits: [N, V] float32; uniforms: [N] float64 in [0, 1); temperature > 0. Returns ids [N] int64.
/// A row's token depends on that row alone. Throws c10::Error for other shapes.
at::Tensor sample_tokens(const at::Tensor& logits, const at::Tensor& uniforms, double temperature);
/// The same in plain ATen.
at::Tensor sample_tokens_reference(const at::Tensor& logits, const at::Tensor& uniforms, double temperature);

}  // namespace unigrpo::kernels

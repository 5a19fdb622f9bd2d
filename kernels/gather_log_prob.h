#pragma once

#include <ATen/core/Tensor.h>

namespace unigrpo::kernels {

struct TokenLogProbs {
  at::Tensor log_probs;  // [N], nats
  at::Tensor entropy;    // [N], nats
};

/// Log-probability of each row's token under softmax(logits / temperature), and the row's entropy,
/// without a copy of the logits.
///
///   log_probs_n = z_n[id_n] - log sum_v exp z_n[v],   z = logits / temperature
///   entropy_n   = -sum_v p_n[v] log p_n[v]
///
/// logits: [N, V], any float type; ids: [N] int64 in 0..V-1; temperature > 0.
/// Results are float32 (float64 for float64 logits), differentiable in the logits (once).
/// -inf logits are tokens that cannot occur; a nan in a row makes that row's results nan.
/// Throws c10::Error for other shapes and, on the CPU, for ids out of range.
TokenLogProbs gather_log_prob(const at::Tensor& logits, const at::Tensor& ids, double temperature);
/// With gradients of both results, that of the logits. log_normalizer: [N], of logits / temperature. Those of a row may
/// be some of many, of which entropy and log_normalizer are.
at::Tensor gather_log_prob_backward(const at::Tensor& logits, const at::Tensor& ids, double temperature,
                                    const at::Tensor& entropy, const at::Tensor& log_normalizer,
                                    const at::Tensor& grad_log_probs, const at::Tensor& grad_entropy);
/// The same as gather_log_prob in plain ATen.
TokenLogProbs gather_log_prob_reference(const at::Tensor& logits, const at::Tensor& ids, double temperature);

}  // namespace unigrpo::kernels

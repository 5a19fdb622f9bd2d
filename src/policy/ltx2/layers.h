#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>

#include "nn/linear.h"
#include "nn/weights.h"
#include "policy/ltx2/positions.h"

namespace unigrpo::policy::ltx2 {

/// x / sqrt(mean(x^2) + eps) over the last dimension, without weights.
struct PlainNorm {
  PlainNorm(const at::TensorOptions& options, int64_t width, double eps_);
  at::Tensor operator()(const at::Tensor& x) const;

  at::Tensor ones;
  double eps;
};

struct AttentionShape {
  int64_t query_dim = 0, context_dim = 0;
  int64_t heads = 1, head_dim = 1;
  bool gated = false;  // to_gate_logits: each head times 2 sigmoid(W x)
  bool bias = true, out_bias = true;
};

/// What an attention reads beside its two inputs.
struct AttentionInputs {
  const Rotation* query_rotation = nullptr;
  const Rotation* key_rotation = nullptr;
  at::Tensor mask = {};    // additive, [B, 1, 1, L] or undefined
  at::Tensor keeps = {};   // [B, 1, 1]: 1 attends, 0 returns its own values; undefined: all attend
  bool perturbed = false;  // all return their values
};

/// LTX-2's attention (diffusers 0.42.1, LTX2Attention): RMS norms of q and k over all heads at once, rotary positions
/// of queries and keys of their own, an optional gate a head.
class Attention {
 public:
  Attention(nn::Weights& weights, const std::string& name, const AttentionShape& shape);

  /// x: [B, S, query_dim], context: [B, L, context_dim] -> [B, S, query_dim].
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& context, const AttentionInputs& inputs) const;

 private:
  at::Tensor attend(const at::Tensor& x, const at::Tensor& context, const at::Tensor& values,
                    const AttentionInputs& inputs) const;
  int64_t heads_;
  nn::Linear q_, k_, v_, out_;
  std::optional<nn::Linear> gate_;
  at::Tensor norm_q_, norm_k_;
};

/// W2 gelu_tanh(W1 x), four times as wide between.
struct FeedForward {
  FeedForward(nn::Weights& weights, const std::string& name, int64_t dim, bool bias);
  at::Tensor operator()(const at::Tensor& x) const;

  nn::Linear in, out;
};

}  // namespace unigrpo::policy::ltx2

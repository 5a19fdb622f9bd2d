#include "policy/ltx2/layers.h"

#include <ATen/ATen.h>

#include "kernels/rms_norm.h"

namespace unigrpo::policy::ltx2 {
namespace {

constexpr double kQueryNormEps = 1e-6;

}  // namespace

PlainNorm::PlainNorm(const at::TensorOptions& options, int64_t width, double eps_)
    : ones(at::ones({width}, options)), eps(eps_) {}

at::Tensor PlainNorm::operator()(const at::Tensor& x) const { return kernels::rms_norm(x, ones, eps); }

Attention::Attention(nn::Weights& weights, const std::string& name, const AttentionShape& shape) : heads_(shape.heads) {
  const int64_t inner = shape.heads * shape.head_dim;
  norm_q_ = weights.take(name + ".norm_q.weight", {inner});
  norm_k_ = weights.take(name + ".norm_k.weight", {inner});
  q_ = nn::take_linear(weights, name + ".to_q", inner, shape.query_dim, shape.bias);
  k_ = nn::take_linear(weights, name + ".to_k", inner, shape.context_dim, shape.bias);
  v_ = nn::take_linear(weights, name + ".to_v", inner, shape.context_dim, shape.bias);
  out_ = nn::take_linear(weights, name + ".to_out.0", shape.query_dim, inner, shape.out_bias);
  if (shape.gated) gate_ = nn::take_linear(weights, name + ".to_gate_logits", shape.heads, shape.query_dim, true);
}

at::Tensor Attention::attend(const at::Tensor& x, const at::Tensor& context, const at::Tensor& values,
                             const AttentionInputs& inputs) const {
  at::Tensor q = kernels::rms_norm(q_(x), norm_q_, kQueryNormEps);
  at::Tensor k = kernels::rms_norm(k_(context), norm_k_, kQueryNormEps);
  if (inputs.query_rotation != nullptr) {
    q = (*inputs.query_rotation)(q);
    k = (*inputs.key_rotation)(k);
  }
  const auto by_head = [&](const at::Tensor& t) { return t.unflatten(2, {heads_, -1}).transpose(1, 2); };
  const at::Tensor mixed = at::scaled_dot_product_attention(
      by_head(q), by_head(k), by_head(values), inputs.mask.defined() ? std::optional(inputs.mask) : std::nullopt);
  return mixed.transpose(1, 2).flatten(2);  // [B, S, inner]
}

at::Tensor Attention::operator()(const at::Tensor& x, const at::Tensor& context, const AttentionInputs& inputs) const {
  const at::Tensor values = v_(context);
  at::Tensor y = inputs.perturbed ? values : attend(x, context, values, inputs);
  if (!inputs.perturbed && inputs.keeps.defined()) y = at::lerp(values, y, inputs.keeps);
  if (gate_) {
    const at::Tensor gates = (*gate_)(x).sigmoid() * 2.0;  // [B, S, heads]
    y = (y.unflatten(2, {heads_, -1}) * gates.unsqueeze(-1)).flatten(2);
  }
  return out_(y);
}

FeedForward::FeedForward(nn::Weights& weights, const std::string& name, int64_t dim, bool bias)
    : in(nn::take_linear(weights, name + ".net.0.proj", 4 * dim, dim, bias)),
      out(nn::take_linear(weights, name + ".net.2", dim, 4 * dim, bias)) {}

at::Tensor FeedForward::operator()(const at::Tensor& x) const { return out(at::gelu(in(x), "tanh")); }

}  // namespace unigrpo::policy::ltx2
